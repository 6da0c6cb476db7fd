"""Frame tables: what reading a long video whole found out, kept in a file, so that a sample reads only its own part.

A table is an .npz file with four arrays of int64, which `FrameTable` describes, and `version`, the
format of the file. It counts for a video of the same size and time of change. A reader checks each
packet that it finds with it, so that a table can cost time, but never give other frames.
"""

import hashlib
import logging
import os
import zipfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from slowfast.utils.files import write_file

logger = logging.getLogger(__name__)

MIN_VIDEO_BYTES = (
    16 << 20
)  # a smaller file is read whole in less time than it takes to decode a clip
VERSION = 1
UNKNOWN = -(1 << 63)  # in the place of a position or a time that the container does not give

Integers = NDArray[np.int64]


class FrameTable(NamedTuple):
    """The frames of one video stream and the packets that hold them. Times are in units of the stream."""

    video: Integers  # (2,): size of the video in bytes, and when it was changed, in ns since 1970
    packets: (
        Integers  # (P, 4), in the order of the file: position in bytes, pts, dts, size in bytes
    )
    frames: Integers  # (F, 2), in the order in which they are shown: time, and duration or 0
    starts: Integers  # (K, 2): a frame where decoding can start, and its packet; the first is 0, 0


class FrameNumbers(Mapping[int | None, int]):
    """The number of the frame that is shown at a time, found in the ascending times of all frames."""

    def __init__(self, times: Integers) -> None:
        self._times = array("q", times.tobytes())

    def __getitem__(self, time: int | None) -> int:
        number = len(self._times) if time is None else bisect_left(self._times, time)
        if number == len(self._times) or self._times[number] != time:
            raise KeyError(time)
        return number

    def __iter__(self) -> Iterator[int]:
        return iter(self._times)

    def __len__(self) -> int:
        return len(self._times)


def packet_row(packet: av.Packet) -> tuple[int, int, int, int]:
    """Return the row of a packet in a table."""
    values = (packet.pos, packet.pts, packet.dts, packet.size)
    position, pts, dts, size = (UNKNOWN if value is None else value for value in values)
    return position, pts, dts, size


def file_stamp(path: str) -> Integers:
    """Return size and time of change of a file, as a table has them."""
    found = os.stat(path)
    return np.array([found.st_size, found.st_mtime_ns], dtype=np.int64)


def table_folder(manifest_path: Path) -> Path:
    """Return the folder of the tables that belong to a manifest."""
    return manifest_path.with_name(f"{manifest_path.name}.tables")


def table_path(folder: Path, video_path: str) -> Path:
    """Return where the table of a video lies, by its path as the list has it."""
    name = video_path.encode("utf-8", errors="surrogateescape")
    return folder / f"{hashlib.sha256(name).hexdigest()[:32]}.npz"


def write_table(path: Path, table: FrameTable) -> None:
    """Write a table whole, or not at all; its folder is made where it is missing."""
    path.parent.mkdir(exist_ok=True)
    write_file(path, lambda file: np.savez(file, version=np.array(VERSION), **table._asdict()))


def read_table(path: Path, *, stamp: Integers) -> FrameTable | None:
    """Return a table, or None if there is none for a video file of this size and time of change."""
    try:
        with np.load(path, allow_pickle=False) as found:
            if int(found["version"]) != VERSION or not np.array_equal(found["video"], stamp):
                _warn_about_old_tables(path.parent)
                return None
            return FrameTable(*(found[name] for name in FrameTable._fields))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        _warn_about_old_tables(path.parent)
        return None


@cache
def _warn_about_old_tables(folder: Path) -> None:
    """Say once that videos are read whole again."""
    logger.warning(
        "%s: some frame tables are damaged, or older than their videos, which are read whole for "
        "each sample; run tools/check_data.py again",
        folder,
    )
