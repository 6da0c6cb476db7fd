"""A manifest: what a probe of every listed video found out. It says which videos to leave out, and why.

It is a CSV file with one row per probe; the last row of a path counts. Rows are added one by one, so that a check that
is stopped, at any moment, can go on later.
"""

import csv
import os
import stat
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from os.path import join
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.decode import DecodeError, FrameFolder, VideoFile
from slowfast.datasets.frame_table import (
    MIN_VIDEO_BYTES,
    table_folder,
    table_path,
    write_table,
)
from slowfast.datasets.records import TruncatedError, Video
from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job import current_job
from slowfast.preparation.process_pool import Failure, map_in_processes, progress_bar
from slowfast.utils.checksum import sha256_of
from slowfast.utils.paths import forget, pathmgr

TRUNCATED = "truncated"  # the end is missing; what is there can be read
# What is wrong with a video that is not ok. The last two are findings of the pool of processes.
STATUSES = ("missing", "empty", "unreadable", "damaged", TRUNCATED, "timeout", "crashed")
# May be the fault of the machine: tried again by the next check, though the file is the same.
_TRY_AGAIN = {"unreadable", "timeout", "crashed"}

Source = VideoFile | FrameFolder
# A pixel that is this much wider or narrower still passes for a square: even sides need it.
MAX_STRETCH = 0.02


class Entry(NamedTuple):
    """One row; what is not known is empty."""

    path: str  # as the list has it
    status: str  # ok, or one of STATUSES
    reason: str = ""  # in the words of the decoder
    bytes: str = ""  # size of a file
    mtime: str = ""  # when the file or folder was changed, in seconds since 1970; with the size, tells it from a new one
    num_frames: int | str = ""
    fps: str = ""  # as a fraction
    width: int | str = ""  # pixels
    height: int | str = ""
    codec: str = ""
    sample_aspect_ratio: str = ""  # width over height of a pixel, as a fraction
    hdr: str = ""  # PQ, HLG, or empty
    sha256: str = ""  # of the content of a file


class Manifest(NamedTuple):
    """What training and testing want to know."""

    bad: dict[str, str]  # path, as the list has it -> `status: reason`
    num_checked: int  # paths, good or bad


def read_manifest(path: str, *, allow_truncated: bool = False) -> Manifest:
    """Return what a manifest, local or remote, says; in memory are the bad paths, and 8 bytes for each good one.

    Args:
        path: The manifest.
        allow_truncated: Whether truncated videos are good.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no manifest.
    """
    good = {"ok", TRUNCATED} if allow_truncated else {"ok"}
    bad: dict[str, str] = {}
    hashes = array("q")
    for entry in _read_entries(path):
        hashes.append(hash(entry[0]))
        if entry[1] not in good:
            bad[entry[0]] = f"{entry[1]}: {entry[2]}" if entry[2] else entry[1]
        elif bad:
            bad.pop(entry[0], None)
    return Manifest(bad, num_checked=len(np.unique(np.asarray(hashes))))


def count_unusual(path: str, lists: Mapping[str, Annotations]) -> dict[str, Counter[str]]:
    """Return how many good videos of each list are HDR or have pixels that are no squares, by kind.

    Args:
        path: The manifest; in memory are a few bytes for each unusual video.
        lists: The lists, by name.
    """
    kinds_of: dict[int, tuple[str, ...]] = {}  # by the hash of a path
    for entry in (Entry(*columns) for columns in _read_entries(path)):
        kinds_of[hash(entry.path)] = kinds = _unusual_kinds(entry) if entry.status == "ok" else ()
        if not kinds:
            del kinds_of[hash(entry.path)]

    counts: dict[str, Counter[str]] = {name: Counter() for name in lists}
    for name, annotations in lists.items() if kinds_of else ():
        for row in range(len(annotations)):
            counts[name].update(kinds_of.get(hash(annotations[row].name), ()))
    return counts


def _unusual_kinds(entry: Entry) -> tuple[str, ...]:
    kinds = (f"HDR ({entry.hdr})",) if entry.hdr else ()
    is_square = (
        entry.sample_aspect_ratio in ("", "1")
        or abs(Fraction(entry.sample_aspect_ratio) - 1) <= MAX_STRETCH
    )
    return kinds if is_square else (*kinds, "non-square pixels")


def read_checksums(path: str) -> dict[int, int]:
    """Return, from the hash of a video's name, the hash of its content's checksum, where a manifest has one."""
    checksums: dict[int, int] = {}
    for entry in (Entry(*columns) for columns in _read_entries(path)):
        if entry.sha256:
            checksums[hash(entry.path)] = hash(entry.sha256)
    return checksums


def check_videos(
    annotations: Annotations,
    manifest_path: Path,
    *,
    open_video: Callable[[Video], Source],
    folder: str,
    num_workers: int,
    timeout: float = 60,
    title: str = "",
) -> None:
    """Probe the videos of a list in parallel and add what comes out to the manifest, in the order of the list.

    The frame tables of long videos are written to `table_folder(manifest_path)`, see `frame_table`.
    A video that the manifest knows, and whose size and time of change are the same, is not probed again.

    Args:
        annotations: the list.
        manifest_path: made where it is missing.
        open_video: from a row to its frames; picklable.
        folder: that the paths in the list are relative to.
        num_workers: processes.
        timeout: seconds that one video may take.
        title: of the progress bar.

    Raises:
        ValueError: the file at `manifest_path` is something else.
        FolderLockedError: another check is adding to it.
    """
    tables = table_folder(manifest_path)
    probe = partial(_probe_row, open_video=open_video, folder=folder, tables=tables)
    with (
        _open_manifest(manifest_path) as add,
        progress_bar(title, total=len(annotations), unit="video") as bar,
    ):
        known = _known_stamps(str(manifest_path))
        seen: set[int] = set()

        waiting: deque[int] = deque()  # rows that are probed, and not in the manifest yet, in order
        done: dict[int, Entry] = {}

        def rows_to_probe() -> Iterator[tuple[int, Video]]:
            for row in range(len(annotations)):
                video = annotations[row]
                key = hash(video.name)
                is_known = known.get(key) and known[key] == hash(_stamp(join(folder, video.path)))
                if is_known or key in seen:
                    bar.update()
                else:
                    waiting.append(row)
                    yield row, video
                seen.add(key)

        num_bad = 0
        outcomes = map_in_processes(
            probe, rows_to_probe(), num_workers=num_workers, timeout=timeout
        )
        try:
            for (row, video), outcome in outcomes:
                if isinstance(outcome, Failure):
                    outcome = Entry(video.name, *outcome, *_stamp(join(folder, video.path)))
                done[row] = outcome
                while waiting and waiting[0] in done:
                    add(done.pop(waiting.popleft()))
                num_bad += outcome.status != "ok"
                bar.set_postfix(bad=num_bad, refresh=False)
                bar.update()
        finally:
            for row in sorted(done):  # of a check that is stopped
                add(done[row])


def _probe_row(
    item: tuple[int, Video],
    *,
    open_video: Callable[[Video], Source],
    folder: str,
    tables: Path | None,
) -> Entry:
    return probe_video(item[1], open_video=open_video, folder=folder, tables=tables)


def probe_video(
    video: Video,
    *,
    open_video: Callable[[Video], Source],
    folder: str,
    tables: Path | None = None,
) -> Entry:
    """Return what opening a video and decoding its first, middle and last frame shows.

    The frame table of a long video is written to the folder `tables`, if there is one.
    """
    path = join(folder, video.path)
    entry = Entry(video.name, "ok", "", *_stamp(path))
    if not entry.mtime:
        return entry._replace(status="missing", reason="no such file or folder")
    if entry.bytes == "0":
        return entry._replace(status="empty", reason="0 bytes")
    try:
        if entry.bytes:
            entry = entry._replace(sha256=sha256_of(pathmgr.get_local_path(path)))
        source = open_video(video)
    except TruncatedError as error:
        return entry._replace(
            status=TRUNCATED, reason=_reason(error, path).removeprefix(f"{TRUNCATED}: ")
        )
    except (DecodeError, OSError) as error:
        return entry._replace(status="unreadable", reason=_reason(error, path))
    with source:
        total = source.num_frames
        entry = entry._replace(num_frames=total, fps=str(source.fps), codec=source.codec)
        try:
            if isinstance(source, FrameFolder):
                source.check_files()
            shown = source.shown
            frames = source.read(sorted({int(shown[place]) for place in (0, len(shown) // 2, -1)}))
        except DecodeError as error:
            return entry._replace(status="damaged", reason=_reason(error, path))
        is_long = int(entry.bytes or 0) >= MIN_VIDEO_BYTES
        if (
            is_long
            and tables is not None
            and isinstance(source, VideoFile)
            and not source.truncation
        ):
            table = source.frame_table
            if table is not None:
                write_table(table_path(tables, video.path), table)
    height, width = frames.shape[1:3]
    entry = entry._replace(height=height, width=width)
    if isinstance(source, VideoFile):
        if source.truncation:
            return entry._replace(status=TRUNCATED, reason=source.truncation)
        entry = entry._replace(sample_aspect_ratio=str(source.sample_aspect_ratio), hdr=source.hdr)
    return entry


def _reason(error: Exception, path: str) -> str:
    """The error in one line, without the path that the row has already."""
    return " ".join(str(error).removeprefix(path).lstrip(":/ ").split())


def _stamp(path: str) -> tuple[str, str]:
    """The size of a file, and when it or a folder was changed; empty where there is none."""
    try:
        found = os.stat(pathmgr.get_local_path(path))
    except OSError:
        return "", ""
    return "" if stat.S_ISDIR(found.st_mode) else str(found.st_size), str(found.st_mtime)


# ---- The file --------------------------------------------------------------------------------------------------------

_HEADER = ",".join(Entry._fields) + "\n"


def _is_header(columns: list[str]) -> bool:
    """Whether these are the columns of a manifest; one that an older version made ends with the codec."""
    return "codec" in columns and tuple(columns) == Entry._fields[: len(columns)]


@contextmanager
def _open_manifest(path: Path) -> Iterator[Callable[[Entry], None]]:
    """Give the function that adds a row, which is on its way to the disk when the function returns."""
    folder_lock = FolderLock(
        path.with_name(f"{path.name}.lock"),
        purpose="check",
        job=current_job(),
        remedy="name another manifest",
    )
    with (
        folder_lock,
        path.open("a+", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        file.seek(0)
        header = file.readline()
        if not header.endswith("\n") and _HEADER.startswith(header):  # a new file, or a torn one
            file.truncate(0)
            file.write(_HEADER)
            file.flush()
            header = _HEADER
        elif not _is_header(header.strip().split(",")):
            raise _not_a_manifest(str(path))
        else:
            _drop_torn_line(path)
        writer, num_columns = csv.writer(file, lineterminator="\n"), header.count(",") + 1

        def add(entry: Entry) -> None:
            writer.writerow(entry[:num_columns])
            file.flush()

        yield add


def _drop_torn_line(path: Path) -> None:
    """Cut off what a process that was killed had written of its last row."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 2**16, 0))  # no row is longer
        tail = file.read()
        file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


def _read_entries(path: str) -> Iterator[list[str]]:
    """The rows of a manifest, as they are; a torn last line is left out."""
    local_path = pathmgr.get_local_path(path)
    if not os.path.isfile(local_path):
        raise FileNotFoundError(f"{path}: no such manifest; tools/check_data.py makes one")
    with open(local_path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.reader(line for line in file if line.endswith("\n"))
        try:
            header = next(reader, [])
            if not _is_header(header):
                raise _not_a_manifest(path)
            for row in reader:
                if len(row) != len(header):
                    raise ValueError(
                        f"{path} line {reader.line_num} is {row}; expected the columns {','.join(header)}. Delete the "
                        "line: tools/check_data.py then probes its video again"
                    )
                yield row
        except csv.Error as error:  # as of bytes that are no text
            raise _not_a_manifest(path) from error


def _known_stamps(manifest_path: str) -> dict[int, int | None]:
    """From the hash of a path to that of its stamp, None to probe it again: so, 10 million videos fit into memory."""
    known: dict[int, int | None] = {}
    for path, status, _, size, mtime, *_ in _read_entries(manifest_path):
        known[hash(path)] = None if status in _TRY_AGAIN else hash((size, mtime))
    return known


def _not_a_manifest(path: str) -> ValueError:
    return ValueError(
        f"{path} is no manifest{forget(path)}; name another file, or make one with tools/check_data.py"
    )
