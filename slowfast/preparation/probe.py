"""Probing of videos: decode a few frames of every listed video and record the results."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from os.path import join
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.decode import DecodeError, FrameFolder, VideoFile
from slowfast.datasets.decoding.frame_table import (
    MIN_VIDEO_BYTES,
    table_folder,
    table_path,
    write_table,
)
from slowfast.datasets.manifest import TRUNCATED, Entry, open_manifest, read_stamps
from slowfast.datasets.records import TruncatedError, Video
from slowfast.preparation.process_pool import Failure, map_in_processes, progress_bar
from slowfast.utils.checksum import sha256_of
from slowfast.utils.paths import pathmgr

OpenVideo = Callable[[Video], VideoFile | FrameFolder]
Item = tuple[int, Video]  # row of the list, and its video


def check_videos(
    annotations: Annotations,
    manifest_path: Path,
    *,
    open_video: OpenVideo,
    folder: str,
    num_workers: int,
    timeout: float = 60,
    title: str = "",
) -> None:
    """Probe the videos of a list in parallel and add the results to a manifest.

    The rows are in the order of the list. A video in the manifest is only probed again if its size
    or time of change differ. Frame tables of long videos are written to
    `table_folder(manifest_path)`, see `frame_table`.

    Args:
        annotations: The list.
        manifest_path: Path of the manifest, which is created if it does not exist.
        open_video: Picklable function that opens a video.
        folder: Folder that the paths of the list are relative to.
        num_workers: Number of processes.
        timeout: Maximum seconds for one video.
        title: Title of the progress bar.

    Raises:
        ValueError: If the file at `manifest_path` is not a manifest.
        FolderLockedError: If another check is writing to the manifest.
    """
    tables = table_folder(manifest_path)
    probe = partial(_probe_item, open_video=open_video, folder=folder, tables=tables)
    progress = progress_bar(title, total=len(annotations), unit="video")

    with open_manifest(manifest_path) as append, progress as bar:
        pending = _PendingRows(append)
        items = _items_to_probe(
            annotations, known=read_stamps(str(manifest_path)), folder=folder, bar=bar
        )
        num_unreadable = 0

        outcomes = map_in_processes(
            probe, pending.watch(items), num_workers=num_workers, timeout=timeout
        )
        try:
            for (row, video), outcome in outcomes:
                entry = outcome
                if isinstance(entry, Failure):
                    entry = Entry(video.name, *entry, *_stamp(join(folder, video.path)))
                pending.finish(row, entry)

                num_unreadable += entry.status != "ok"
                bar.set_postfix(unreadable=num_unreadable, refresh=False)
                bar.update()
        finally:
            pending.flush()


def probe_video(
    video: Video, *, open_video: OpenVideo, folder: str, tables: Path | None = None
) -> Entry:
    """Open a video, decode its first, middle and last frame, and return the result.

    Args:
        video: The video.
        open_video: Function that opens it.
        folder: Folder that its path is relative to.
        tables: Folder to write the frame table of a long video to, None for nowhere.
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
        reason = _format_reason(error, path).removeprefix(f"{TRUNCATED}: ")
        return entry._replace(status=TRUNCATED, reason=reason)
    except (DecodeError, OSError) as error:
        return entry._replace(status="unreadable", reason=_format_reason(error, path))

    with source:
        return _probe_source(source, video, entry=entry, path=path, tables=tables)


def _probe_source(
    source: VideoFile | FrameFolder, video: Video, *, entry: Entry, path: str, tables: Path | None
) -> Entry:
    entry = entry._replace(num_frames=source.num_frames, fps=str(source.fps), codec=source.codec)
    try:
        if isinstance(source, FrameFolder):
            source.check_files()
        shown = source.shown
        numbers = {int(shown[index]) for index in (0, len(shown) // 2, -1)}
        frames = source.read(sorted(numbers))
    except DecodeError as error:
        return entry._replace(status="damaged", reason=_format_reason(error, path))

    height, width = frames.shape[1:3]
    entry = entry._replace(height=height, width=width)
    if isinstance(source, FrameFolder):
        return entry
    if source.truncation:
        return entry._replace(status=TRUNCATED, reason=source.truncation)

    is_long = int(entry.bytes or 0) >= MIN_VIDEO_BYTES
    if is_long and tables is not None:
        _write_frame_table(source, table_path(tables, video.path))
    return entry._replace(sample_aspect_ratio=str(source.sample_aspect_ratio), hdr=source.hdr)


def _write_frame_table(source: VideoFile, path: Path) -> None:
    table = source.frame_table
    if table is not None:
        write_table(path, table)


class _PendingRows:
    """Rows that are being probed. Their results are appended in the order of the list.

    Args:
        append: Function that appends a row to the manifest.
    """

    def __init__(self, append: Callable[[Entry], None]) -> None:
        self._append = append
        self._rows: deque[int] = deque()  # being probed, or waiting for an earlier row
        self._finished: dict[int, Entry] = {}

    def watch(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items, noting their rows."""
        for row, video in items:
            self._rows.append(row)
            yield row, video

    def finish(self, row: int, entry: Entry) -> None:
        """Append the result of a row as soon as all earlier rows are finished."""
        self._finished[row] = entry
        while self._rows and self._rows[0] in self._finished:
            self._append(self._finished.pop(self._rows.popleft()))

    def flush(self) -> None:
        """Append the results that still wait for an earlier row, when the check stops."""
        for row in sorted(self._finished):
            self._append(self._finished[row])


def _items_to_probe(
    annotations: Annotations, *, known: dict[int, int | None], folder: str, bar: tqdm
) -> Iterator[Item]:
    """Yield the videos that are not in the manifest or have changed, each of them once."""
    seen: set[int] = set()
    for row in range(len(annotations)):
        video = annotations[row]
        key = hash(video.name)
        is_known = known.get(key) and known[key] == hash(_stamp(join(folder, video.path)))

        if is_known or key in seen:
            bar.update()
        else:
            yield row, video
        seen.add(key)


def _probe_item(item: Item, *, open_video: OpenVideo, folder: str, tables: Path | None) -> Entry:
    _, video = item
    return probe_video(video, open_video=open_video, folder=folder, tables=tables)


def _format_reason(error: Exception, path: str) -> str:
    """Return the message of an error on one line, without the path, which the row has already."""
    return " ".join(str(error).removeprefix(path).lstrip(":/ ").split())


def _stamp(path: str) -> tuple[str, str]:
    """Return the size of a file and its time of change, empty if it does not exist.

    The size of a folder is empty.
    """
    try:
        status = os.stat(pathmgr.get_local_path(path))
    except OSError:
        return "", ""
    size = "" if stat.S_ISDIR(status.st_mode) else str(status.st_size)
    return size, str(status.st_mtime)
