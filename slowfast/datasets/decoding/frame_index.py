"""Frame index: when each frame of a video is shown, and where decoding can start."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import NamedTuple

import numpy as np

from slowfast.datasets.decoding.frame_table import FrameNumbers, FrameTable, Integers


class Picture(NamedTuple):
    """What a packet says about the frame it holds. Times are in the stream's time base."""

    pts: int | None
    dts: int | None
    duration: int  # 0 if unknown
    packet: int  # index of the packet in the file
    is_key: bool
    is_corrupt: bool  # in some formats also set where the next packet does not continue this one


class SeekPoint(NamedTuple):
    """A frame where decoding can start."""

    number: int  # frame number
    packet: int  # index of the packet in the file


@dataclass
class FrameIndex:
    """Times and seek points of the frames of a video, in the order in which they are shown.

    Attributes:
        num_frames: Number of frames.
        times: Presentation times in the stream's time base, shape (num_frames,), ascending. None
            if the file does not tell them. You then find a frame only by counting from the start.
        durations: Durations in the stream's time base, shape (num_frames,), 0 where unknown.
        number_at: Frame number by presentation time, empty if `times` is None.
        seek_points: Frames where decoding can start, ascending. The first one is frame 0.
    """

    num_frames: int
    times: Integers | None
    durations: Integers
    number_at: Mapping[int | None, int]
    seek_points: list[SeekPoint]

    @classmethod
    def from_table(cls, table: FrameTable) -> "FrameIndex":
        """Return the index in a stored frame table."""
        times = table.frames[:, 0]
        return cls(
            num_frames=len(times),
            times=times,
            durations=table.frames[:, 1],
            number_at=FrameNumbers(times),
            seek_points=[SeekPoint(number, packet) for number, packet in table.starts.tolist()],
        )

    @classmethod
    def from_times(cls, times: Sequence[int], *, pictures: Sequence[Picture]) -> "FrameIndex":
        """Return the index of frames with ascending times, made from what their packets say."""
        number_at: dict[int | None, int] = {time: number for number, time in enumerate(times)}
        duration_at = {picture.pts: picture.duration for picture in pictures}

        keys = [picture for picture in pictures if picture.is_key and picture.pts in number_at]
        points = sorted(SeekPoint(number_at[key.pts], key.packet) for key in keys)
        return cls(
            num_frames=len(times),
            times=np.array(times, dtype=np.int64),
            durations=np.array([duration_at.get(time, 0) for time in times], dtype=np.int64),
            number_at=number_at,
            seek_points=[SeekPoint(0, 0), *(point for point in points if point.number > 0)],
        )

    @classmethod
    def counted(cls, num_frames: int) -> "FrameIndex":
        """Return the index of frames without times, counted from the start of the file."""
        return cls(
            num_frames=num_frames,
            times=None,
            durations=np.zeros(num_frames, dtype=np.int64),
            number_at={},
            seek_points=[SeekPoint(0, 0)],
        )

    def seek_point_before(self, number: int) -> int:
        """Return the index of the last seek point that is not after a frame."""
        return bisect_right(self.seek_points, number, key=lambda point: point.number) - 1

    def seek_points_between(self, first: int, last: int) -> Iterator[SeekPoint]:
        """Yield the seek points from one frame number to another, both included."""
        return (point for point in self.seek_points if first <= point.number <= last)


def is_ascending(times: Sequence[int]) -> bool:
    """Return whether each time is later than the one before."""
    return all(time < later for time, later in pairwise(times))


def is_one_timeline(pictures: Sequence[Picture]) -> bool:
    """Return whether all pictures, in file order, are on one timeline.

    Where recordings were joined, the second may go back in time. On one timeline, decoding times do
    not descend, and neither a keyframe nor anything after it is shown before anything that precedes
    the keyframe.
    """
    latest = latest_before_key = last_dts = None
    for picture in pictures:
        if picture.pts is None:
            return False

        if picture.is_key:
            latest_before_key = latest
        if latest_before_key is not None and picture.pts <= latest_before_key:
            return False
        latest = picture.pts if latest is None else max(latest, picture.pts)

        if picture.dts is not None:
            if last_dts is not None and picture.dts < last_dts:
                return False
            last_dts = picture.dts
    return True


def may_lose_frames_at_joints(pictures: Sequence[Picture]) -> bool:
    """Return whether a decoder may drop frames where recordings were joined.

    It may if a recording starts between keyframes, or with frames that are shown before its first
    keyframe.
    """
    steps = np.diff([picture.dts or 0 for picture in pictures])
    if not len(steps):
        return False

    is_flagged = np.array([picture.is_corrupt for picture in pictures[:-1]])
    is_joint = is_flagged | (steps > 3 * np.median(steps))
    for joint in np.flatnonzero(is_joint).tolist():
        index = joint + 1
        first = pictures[index]
        if not first.is_key:
            return True

        following = (pictures[later] for later in range(index + 1, len(pictures)))
        group = takewhile(lambda picture: not picture.is_key, following)
        if any((picture.pts or 0) < (first.pts or 0) for picture in group):
            return True
    return False
