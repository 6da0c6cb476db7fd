"""Sliding windows over a long video: the views of each window, with every frame decoded once.

A window is a section of a video as in an annotation list: the frames on screen from its start to
its end. Reading takes the memory of one window, however long the video is.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.datasets.clip_reader import ClipReader
from slowfast.datasets.decode import DecodeError, FrameSource, FrameTimes, VideoFile, at_rate
from slowfast.datasets.records import Span
from slowfast.datasets.samplers import make_views
from slowfast.datasets.sampling import TIME_TOLERANCE, ConstantRate, frames_within
from slowfast.inference.clip_settings import ClipSettings
from slowfast.inference.frame_ring import FrameRing
from slowfast.inference.predictions import Prediction, Unreadable
from slowfast.inference.view_reader import VideoViews, ViewReader

MIN_SECONDS = 0.001  # shortest window and stride

# Windows that share more frames than this are decoded one by one.
MAX_RING_BYTES = 1 << 30

# Frames that are decoded in one go, at least. Each time, decoding starts at the keyframe before.
_MIN_BLOCK = 256
# Length of a block over the number of frames that are decoded again because of its start. It bounds
# the work of a video with few keyframes.
_MIN_BLOCK_RATIO = 8

Clips = list[NDArray[np.int64]]  # frame numbers of each temporal clip, each of shape (T,)
Reason = str  # why a window has no clips


class Window(NamedTuple):
    """Prediction of a window of a video."""

    path: str
    start: float  # seconds from the first frame
    end: float
    prediction: Prediction | Unreadable

    def as_json(self) -> dict[str, Any]:
        """Return the path, the times, and the top classes or the reason as plain data."""
        interval = {"path": self.path, "start": self.start, "end": self.end}
        if isinstance(self.prediction, Unreadable):
            return {**interval, "reason": self.prediction.reason}
        return {**interval, "top": [score._asdict() for score in self.prediction.top]}


class WindowGrid(NamedTuple):
    """Windows at regular times: window k starts at k * stride.

    The last window is the first one that reaches the end of the video.
    """

    window: float  # seconds
    stride: float  # seconds
    duration: float  # seconds of the video

    def __len__(self) -> int:
        slack = self.duration - self.window - TIME_TOLERANCE
        to_the_end = 1 + max(math.ceil(slack / self.stride), 0)
        within = max(math.ceil((self.duration - TIME_TOLERANCE) / self.stride), 1)
        return min(to_the_end, within)

    def span(self, number: int) -> Span:
        """Return a window, which may end after the video."""
        start = number * self.stride
        return Span(round(start, 9), round(start + self.window, 9))

    def shown_span(self, number: int) -> Span:
        """Return the part of a window that the video fills."""
        start, end = self.span(number)
        return Span(start, min(end, round(self.duration, 9)))


def check_seconds(name: str, value: float) -> None:
    """Raise ValueError if a length in seconds is no number from MIN_SECONDS on."""
    if not (math.isfinite(value) and value >= MIN_SECONDS):
        raise ValueError(f"{name} is {value!r}. Give a number of seconds from {MIN_SECONDS} on")


def timing_of(source: FrameSource, *, fps: float | None = None) -> FrameTimes:
    """Return when the frames of a source are shown.

    Args:
        source: The video.
        fps: Frames per second, for a source without times.

    Raises:
        DecodeError: If the times are unknown.
    """
    if (timing := source.timing) is not None:
        return timing
    if fps is None:
        raise DecodeError(
            f"{source.path}: the times of its frames are unknown, but windows are cut by time. "
            "Give the frames per second (fps)"
        )
    starts = np.arange(len(source.shown)) / fps
    return FrameTimes(starts, np.full(len(starts), 1 / fps))


def make_grid(
    timing: FrameTimes, settings: ClipSettings, *, window: float | None, stride: float | None
) -> WindowGrid:
    """Return the windows of a video.

    Args:
        timing: When its frames are shown.
        settings: How the model looks at a video.
        window: Seconds of a window. None for the span of a clip.
        stride: Seconds from one window to the next. None for no overlap and no gap.

    Raises:
        ValueError: If a clip has no span, because the model samples whole videos.
    """
    num_frames = len(timing.starts)
    duration = timing.interval([0, num_frames - 1])[1]
    if window is None:
        fps = num_frames / (duration or num_frames)  # the duration of a single frame may be unknown
        window = clip_seconds(settings, fps=fps)
    return WindowGrid(window, stride or window, duration)


def clip_seconds(settings: ClipSettings, *, fps: float) -> float:
    """Return the span of a clip in seconds.

    Args:
        settings: How the model looks at a video.
        fps: Frames per second of the video.

    Raises:
        ValueError: If a clip has no span, because the model samples whole videos, or if the frame
            rate is unknown.
    """
    if settings.sampling != "dense":
        raise ValueError(
            "the clips of this model span whole videos, so there is no default window. Give the "
            "length of an action as the window"
        )
    rate = settings.target_fps or fps
    if not rate:
        raise ValueError("the frame rate of the video is unknown. Give a window")
    return settings.num_frames * settings.sampling_rate / rate


class WindowReader:
    """Reads the views of the windows of an open video, in order.

    Args:
        reader: Reader of the views of the model.
        source: The video.
        timing: When its frames are shown.
        grid: The windows.
        num_clips: Number of temporal clips per window.
        num_crops: Number of spatial crops per clip.
    """

    def __init__(
        self,
        reader: ViewReader,
        source: FrameSource,
        *,
        timing: FrameTimes,
        grid: WindowGrid,
        num_clips: int,
        num_crops: int,
    ) -> None:
        self._reader = reader
        self._source = source
        self._timing = timing
        self._grid = grid
        self._num_clips = num_clips
        self._views = make_views(num_clips, num_crops)
        self._clips: ClipReader = reader.clip_reader.with_clips(num_clips)
        self._ring = FrameRing(self._clips.transform, self._views)
        self._uses_ring = True

    def __iter__(self) -> Iterator[VideoViews]:
        """Iterate over the views of all windows.

        A window with a damaged frame has a reason instead. The others are read.

        Raises:
            DecodeError: If the time stamps of the video are wrong.
        """
        for block in self._blocks():
            num_read = 0
            try:
                for views in self._read_block(block):
                    yield views
                    num_read += 1
            except DecodeError:
                yield from map(self._read_alone, block[num_read:])

    def _blocks(self) -> Iterator[list[Clips | Reason]]:
        """Yield the clips of consecutive windows whose frames are decoded in one go."""
        target_fps = self._clips.target_fps
        rate = at_rate(self._source, target_fps) if target_fps else None

        block: list[Clips | Reason] = []
        block_end = -1
        for number in range(len(self._grid)):
            start, end = self._grid.span(number)
            shown = frames_within(self._timing.starts, start=start, end=end)
            if not block:
                first = int(shown[0])
                num_again = first - _decoding_start(self._source, first)
                block_end = first + max(_MIN_BLOCK, _MIN_BLOCK_RATIO * num_again)

            block.append(self._sample(shown, rate=rate))
            if shown[-1] >= block_end:
                yield block
                block = []
        if block:
            yield block

    def _sample(self, shown: NDArray[np.int64], *, rate: ConstantRate | None) -> Clips | Reason:
        try:
            return self._clips.numbers_within(
                shown, path=self._source.path, rate=rate, clips=range(self._num_clips), rng=None
            )
        except DecodeError as error:
            return str(error)

    def _read_block(self, block: Sequence[Clips | Reason]) -> Iterator[VideoViews]:
        """Yield the views of windows. Each frame that is not in the ring is decoded once."""
        wanted: set[int] = set()
        for clips in block:
            wanted.update(*(() if isinstance(clips, Reason) else map(np.ndarray.tolist, clips)))
        missing = sorted(number for number in wanted if number not in self._ring)
        frames = self._decode(missing)

        num_decoded = 0
        for clips in block:
            if isinstance(clips, Reason):
                yield self._read_alone(clips)
                continue

            first = min(int(clip.min()) for clip in clips)
            last = max(int(clip.max()) for clip in clips)
            self._ring.drop_before(first)

            while num_decoded < len(missing) and missing[num_decoded] <= last and self._uses_ring:
                self._ring.add(*next(frames))
                num_decoded += 1
                if len(self._ring) * self._ring.frame_bytes > MAX_RING_BYTES:
                    self._uses_ring = False
                    self._ring.clear()
            if self._uses_ring:
                yield VideoViews(self._ring.clips(clips), self._intervals(clips))
            else:
                yield self._read_alone(clips)

    def _decode(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        if not numbers:
            return
        max_bytes = self._clips.transform.chunk_bytes
        remaining = iter(numbers)
        for chunk in self._source.read_in_chunks(numbers, max_bytes=max_bytes):
            for frame in chunk:
                yield next(remaining), frame
            del chunk  # free the memory before the next chunk is decoded

    def _read_alone(self, clips: Clips | Reason) -> VideoViews:
        """Return the views of a window whose frames are decoded for it alone."""
        if isinstance(clips, Reason):
            return self._reader.unreadable(clips, num_clips=self._num_clips)
        try:
            frames = self._reader.read_clips(self._source, clips, views=self._views)
        except DecodeError as error:
            return self._reader.unreadable(str(error), num_clips=self._num_clips)
        return VideoViews(frames, self._intervals(clips))

    def _intervals(self, clips: Clips) -> list[tuple[float, float] | None]:
        return [self._timing.interval(clip) for clip in clips]


def _decoding_start(source: FrameSource, number: int) -> int:
    """Return the frame where decoding has to start to reach another one."""
    return source.decoding_start(number) if isinstance(source, VideoFile) else number
