"""Frame tables: the frame index of a long video in a file, so that a sample reads only its clip.

A table is an .npz file with the four int64 arrays of `FrameTable` and `version`, the version of the
file format. It is valid for a video with the same size and modification time. Readers compare each
packet they find with the table, so a wrong table costs time but never yields wrong frames.
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

from slowfast.utils.command_names import command_name
from slowfast.utils.files import write_file

logger = logging.getLogger(__name__)

# Reading a smaller file whole takes less time than decoding a clip.
MIN_VIDEO_BYTES = 16 << 20
VERSION = 1
UNKNOWN = -(1 << 63)  # a position or time that the container does not give

Integers = NDArray[np.int64]


class FrameTable(NamedTuple):
    """Frames of one video stream and the packets that hold them.

    Times are in the stream's time base.

    Attributes:
        video: File size in bytes and modification time in ns since 1970, shape (2,).
        packets: Position in bytes, pts, dts and size in bytes of each packet, in file order, shape
            (P, 4).
        frames: Presentation time of each frame and its duration or 0, in the order in which they
            are shown, shape (F, 2).
        starts: Number of a frame where decoding can start, and the index of its packet, shape
            (K, 2). The first row is 0, 0.
    """

    video: Integers
    packets: Integers
    frames: Integers
    starts: Integers


class FrameNumbers(Mapping[int | None, int]):
    """Frame number by presentation time, found by bisecting the ascending times of all frames."""

    def __init__(self, times: Integers) -> None:
        self._times = array("q", times.tobytes())

    def __getitem__(self, time: int | None) -> int:
        if time is None:
            raise KeyError(time)

        number = bisect_left(self._times, time)
        if number == len(self._times) or self._times[number] != time:
            raise KeyError(time)
        return number

    def __iter__(self) -> Iterator[int]:
        return iter(self._times)

    def __len__(self) -> int:
        return len(self._times)


def packet_row(packet: av.Packet) -> tuple[int, int, int, int]:
    """Return the row of a packet in `FrameTable.packets`."""
    position, pts, dts = packet.pos, packet.pts, packet.dts
    return (
        UNKNOWN if position is None else position,
        UNKNOWN if pts is None else pts,
        UNKNOWN if dts is None else dts,
        packet.size,
    )


def file_stamp(path: str) -> Integers:
    """Return the size and modification time of a file, as in `FrameTable.video`."""
    stat = os.stat(path)
    return np.array([stat.st_size, stat.st_mtime_ns], dtype=np.int64)


def table_folder(manifest_path: Path) -> Path:
    """Return the folder of the frame tables that belong to a manifest."""
    return manifest_path.with_name(f"{manifest_path.name}.tables")


def table_path(folder: Path, video_path: str) -> Path:
    """Return the path of the frame table of a video, given the path in the annotation list."""
    name = video_path.encode("utf-8", errors="surrogateescape")
    return folder / f"{hashlib.sha256(name).hexdigest()[:32]}.npz"


def write_table(path: Path, table: FrameTable) -> None:
    """Write a frame table atomically. Creates its folder if needed."""
    path.parent.mkdir(exist_ok=True)
    write_file(path, lambda file: np.savez(file, version=np.array(VERSION), **table._asdict()))


def read_table(path: Path, *, stamp: Integers) -> FrameTable | None:
    """Return a frame table, None if no valid one exists for a video file with this stamp."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            is_current = int(arrays["version"]) == VERSION
            if is_current and np.array_equal(arrays["video"], stamp):
                return FrameTable(*(arrays[name] for name in FrameTable._fields))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # a damaged table is like an old one

    _warn_about_old_tables(path.parent)
    return None


@cache
def _warn_about_old_tables(folder: Path) -> None:
    logger.warning(
        "%s: some frame tables are damaged or older than their videos, so each sample reads the "
        f"whole video. Run {command_name('check_data')} again",
        folder,
    )
