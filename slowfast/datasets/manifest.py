"""Manifest of a dataset: which videos are unreadable and why, as found by probing every video.

A manifest is a CSV file with one row per probe. The last row of a video counts. Rows are appended
one by one, so a check may be stopped at any time and resumed later.
"""

import csv
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slowfast.datasets.annotations import Annotations
from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job import current_job
from slowfast.utils.command_names import command_name
from slowfast.utils.paths import forget, pathmgr

TRUNCATED = "truncated"  # the end of the file is missing, the rest can be decoded
# Statuses of unreadable videos. The pool of processes reports the last two.
STATUSES = ("missing", "empty", "unreadable", "damaged", TRUNCATED, "timeout", "crashed")
# Statuses that may be the fault of the machine. The next check probes these videos again.
_RETRIED = {"unreadable", "timeout", "crashed"}
# Pixels this close to square count as square, as encoders need even frame sizes.
MAX_STRETCH = 0.02


class Entry(NamedTuple):
    """Row of a manifest. Unknown fields are empty."""

    path: str  # name of the video, see `Video.name`
    status: str  # ok, or one of STATUSES
    reason: str = ""  # in the words of the decoder
    bytes: str = ""  # size of the file
    mtime: str = ""  # time of the last change of the file or folder, in seconds since 1970
    num_frames: int | str = ""
    fps: str = ""  # as a fraction
    width: int | str = ""  # pixels
    height: int | str = ""  # pixels
    codec: str = ""
    sample_aspect_ratio: str = ""  # width over height of a pixel, as a fraction
    hdr: str = ""  # PQ, HLG, or empty
    sha256: str = ""  # checksum of the file


class Manifest(NamedTuple):
    """What training and testing need to know of a manifest."""

    unreadable: dict[str, str]  # `status: reason` by the name of the video
    num_checked: int  # number of videos, readable or not


def read_manifest(path: str, *, allow_truncated: bool = False) -> Manifest:
    """Return the content of a manifest.

    Memory holds the unreadable videos and 8 bytes for every other one.

    Args:
        path: Path of the manifest, local or remote.
        allow_truncated: Whether truncated videos count as readable.

    Raises:
        FileNotFoundError: If the manifest does not exist.
        ValueError: If the file is not a manifest.
    """
    readable = {"ok", TRUNCATED} if allow_truncated else {"ok"}
    unreadable: dict[str, str] = {}
    name_hashes = array("q")

    for name, status, reason, *_ in _read_rows(path):
        name_hashes.append(hash(name))
        if status not in readable:
            unreadable[name] = f"{status}: {reason}" if reason else status
        elif unreadable:
            unreadable.pop(name, None)

    return Manifest(unreadable, num_checked=len(np.unique(np.asarray(name_hashes))))


def find_unreadable(annotations: Annotations, manifest: Manifest) -> dict[int, str]:
    """Return the reason why a video is unreadable by row, for the videos of a list."""
    reasons = {}
    for row in annotations.find_rows(list(manifest.unreadable)).tolist():
        name = annotations[row].name
        reasons[row] = f"{name}: {manifest.unreadable[name]} (in the manifest)"
    return reasons


def count_unusual(path: str, lists: Mapping[str, Annotations]) -> dict[str, Counter[str]]:
    """Count the readable videos of each list that are HDR or have non-square pixels.

    Args:
        path: Path of the manifest. Memory holds a few bytes for each unusual video.
        lists: Annotations by the name of the list.

    Returns:
        Number of videos by kind, by the name of the list.
    """
    kinds_by_hash: dict[int, tuple[str, ...]] = {}
    for entry in _read_entries(path):
        kinds = _unusual_kinds(entry) if entry.status == "ok" else ()
        if kinds:
            kinds_by_hash[hash(entry.path)] = kinds
        else:
            kinds_by_hash.pop(hash(entry.path), None)

    counts: dict[str, Counter[str]] = {name: Counter() for name in lists}
    if kinds_by_hash:
        for name, annotations in lists.items():
            for row in range(len(annotations)):
                counts[name].update(kinds_by_hash.get(hash(annotations[row].name), ()))
    return counts


def read_checksums(path: str) -> dict[int, int]:
    """Return the hash of a file's checksum by the hash of the video's name, where one is known."""
    checksums: dict[int, int] = {}
    for entry in _read_entries(path):
        if entry.sha256:
            checksums[hash(entry.path)] = hash(entry.sha256)
    return checksums


def read_stamps(path: str) -> dict[int, int | None]:
    """Return the hash of a file's size and time of change by the hash of the video's name.

    The value is None for a video that should be probed again. Hashes let 10 million videos fit into
    memory.
    """
    stamps: dict[int, int | None] = {}
    for name, status, _, size, mtime, *_ in _read_rows(path):
        stamps[hash(name)] = None if status in _RETRIED else hash((size, mtime))
    return stamps


@contextmanager
def open_manifest(path: Path) -> Iterator[Callable[[Entry], None]]:
    """Lock a manifest, create it if needed, and provide the function that appends a row to it.

    A row is handed to the operating system before the function returns.

    Raises:
        ValueError: If the file is not a manifest.
        FolderLockedError: If another check is writing to it.
    """
    lock = FolderLock(
        path.with_name(f"{path.name}.lock"),
        purpose="check",
        job=current_job(),
        remedy="name another manifest",
    )
    with lock, path.open("a+", newline="", encoding="utf-8", errors="surrogateescape") as file:
        file.seek(0)
        header = file.readline()

        if not header.endswith("\n") and _HEADER.startswith(header):  # a new file, or a torn one
            header = _HEADER
            file.truncate(0)
            file.write(header)
            file.flush()
        elif _is_header(header.strip().split(",")):
            _drop_torn_row(path)
        else:
            raise _not_a_manifest(str(path))

        writer = csv.writer(file, lineterminator="\n")
        num_columns = header.count(",") + 1

        def append(entry: Entry) -> None:
            writer.writerow(entry[:num_columns])
            file.flush()

        yield append


_HEADER = ",".join(Entry._fields) + "\n"


def _is_header(columns: list[str]) -> bool:
    """Return whether these are the columns of a manifest. Older ones end with the codec."""
    return "codec" in columns and tuple(columns) == Entry._fields[: len(columns)]


def _drop_torn_row(path: Path) -> None:
    """Cut off the row that a killed process left unfinished."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 2**16, 0))  # no row is longer
        tail = file.read()
        file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


def _read_entries(path: str) -> Iterator[Entry]:
    return (Entry(*columns) for columns in _read_rows(path))


def _read_rows(path: str) -> Iterator[list[str]]:
    """Yield the rows of a manifest as text, without a torn last row."""
    local_path = pathmgr.get_local_path(path)
    if not os.path.isfile(local_path):
        raise FileNotFoundError(
            f"{path}: no such manifest. Run {command_name('check_data')} to make one"
        )

    with open(local_path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.reader(line for line in file if line.endswith("\n"))
        try:
            header = next(reader, [])
            if not _is_header(header):
                raise _not_a_manifest(path)

            for row in reader:
                if len(row) != len(header):
                    raise ValueError(
                        f"{path} line {reader.line_num} is {row}. Expected the columns "
                        f"{','.join(header)}. Delete the line: {command_name('check_data')} then "
                        "probes its video again"
                    )
                yield row
        except csv.Error as error:  # the file is not text
            raise _not_a_manifest(path) from error


def _unusual_kinds(entry: Entry) -> tuple[str, ...]:
    kinds: tuple[str, ...] = (f"HDR ({entry.hdr})",) if entry.hdr else ()
    ratio = entry.sample_aspect_ratio
    if ratio not in ("", "1") and abs(Fraction(ratio) - 1) > MAX_STRETCH:
        kinds += ("non-square pixels",)
    return kinds


def _not_a_manifest(path: str) -> ValueError:
    return ValueError(
        f"{path} is not a manifest{forget(path)}. Name another file, or make one with "
        f"{command_name('check_data')}"
    )
