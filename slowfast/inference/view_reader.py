"""Reading of inputs: from a file, an array or a decoder to the views that the model sees."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.clip_reader import ClipReader
from slowfast.datasets.decode import DecodeError, FrameSource
from slowfast.datasets.records import NO_LABEL, Batch, Interval, UnreadableVideo, View
from slowfast.datasets.samplers import make_views
from slowfast.inference.clip_settings import ClipSettings
from slowfast.inference.inputs import Input, open_input


class VideoViews(NamedTuple):
    """Views of an input, or why it has none."""

    frames: Tensor  # (V, 3, T, H, W), clip by clip. V is 0 for an unreadable input.
    intervals: list[Interval]  # of each temporal clip
    reason: str = ""

    def as_batch(self, row: int) -> Batch:
        """Return the views as the batch of a row of a list."""
        num_views = len(self.frames)
        return Batch(
            self.frames,
            labels=torch.full((num_views,), NO_LABEL),
            video_indices=torch.full((num_views,), row),
            view_indices=torch.arange(num_views),
            unreadable=(UnreadableVideo(row, self.reason),) if self.reason else (),
        )


class ViewReader:
    """Reads the views of inputs as the test of a model reads those of its list.

    Args:
        reader: Reader of the clips of a test.
        settings: How it looks at a video.
    """

    def __init__(self, reader: ClipReader, settings: ClipSettings) -> None:
        self._reader = reader
        self._settings = settings

    @property
    def clip_reader(self) -> ClipReader:
        """Reader of the clips of a test."""
        return self._reader

    def unreadable(self, reason: str, *, num_clips: int) -> VideoViews:
        """Return what stands for the views of an unreadable input."""
        return VideoViews(self._empty(0), [None] * num_clips, reason)

    def open(self, x: Input, *, fps: float | None = None) -> FrameSource:
        """Open an input as a source of frames in the channel order of the model.

        Args:
            x: The input, see `open_input`.
            fps: Frames per second of an array. None if it is unknown.

        Raises:
            DecodeError: If it has no readable frames.
            TypeError: If it is no input.
            ValueError: If an array has another shape or dtype.
        """
        return open_input(
            x,
            bgr=self._settings.channel_order == "BGR",
            fps=fps,
            template=self._settings.image_template,
            allow_truncated=self._settings.allow_truncated,
            max_pixels=self._settings.max_frame_pixels,
        )

    def read(
        self, x: Input, *, num_clips: int, num_crops: int, fps: float | None = None
    ) -> VideoViews:
        """Return evenly spaced views of an input.

        Args:
            x: The input, see `open_input`.
            num_clips: Number of temporal clips.
            num_crops: Number of spatial crops per clip, 1 for the center or 3.
            fps: Frames per second of an array. None if it is unknown.

        Raises:
            TypeError: If it is no input.
            ValueError: If an array has another shape or dtype. An unreadable video is no error.
        """
        views = make_views(num_clips, num_crops)
        try:
            with self.open(x, fps=fps) as source:
                numbers = self._reader.with_clips(num_clips).frame_numbers(
                    source, clips=range(num_clips), rng=None
                )
                frames = self.read_clips(source, numbers, views=views)
                timing = source.timing
        except DecodeError as error:
            return self.unreadable(str(error), num_clips=num_clips)

        intervals = [None if timing is None else timing.interval(clip) for clip in numbers]
        return VideoViews(frames, intervals)

    def read_clips(
        self,
        source: FrameSource,
        numbers: Sequence[NDArray[np.int64]],
        *,
        views: Sequence[View],
    ) -> Tensor:
        """Return views of an open video.

        Args:
            source: The video.
            numbers: Frame numbers of each temporal clip, each of shape (T,).
            views: Views of these clips.

        Returns:
            Shape (len(views), 3, T, H, W).

        Raises:
            DecodeError: If a frame is unreadable.
        """
        out = self._empty(len(views))
        numbers_of_views = [numbers[view.clip] for view in views]
        self._reader.write_views(source, views, numbers=numbers_of_views, rng=None, out=out)
        return out

    def read_each(
        self,
        inputs: Sequence[Input],
        *,
        num_clips: int,
        num_crops: int,
        fps: float | None = None,
        num_ahead: int = 0,
    ) -> Iterator[VideoViews]:
        """Iterate over the views of many inputs, in order.

        Args:
            inputs: The inputs.
            num_clips: Number of temporal clips.
            num_crops: Number of spatial crops per clip.
            fps: Frames per second of arrays.
            num_ahead: Number of inputs that threads read ahead. 0 reads in this thread.
        """

        def read(x: Input) -> VideoViews:
            return self.read(x, num_clips=num_clips, num_crops=num_crops, fps=fps)

        num_ahead = min(num_ahead, len(inputs) - 1)
        if num_ahead < 1:
            yield from map(read, inputs)
            return

        with ThreadPoolExecutor(num_ahead, thread_name_prefix="reader") as pool:
            waiting: deque[Future[VideoViews]] = deque()
            try:
                for x in inputs:
                    waiting.append(pool.submit(read, x))
                    if len(waiting) > num_ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _empty(self, num_views: int) -> Tensor:
        dtype = self._reader.transform.clip_format.dtype
        return torch.empty(num_views, *self._reader.clip_shape, dtype=dtype)
