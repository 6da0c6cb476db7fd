"""Frame maps: what views show of a video, carried back onto its frames.

The axes of a view are undone one by one. The center of each pixel of a frame has a position in the
resized frame, in the crop, and in the cells of the map of the view, between which it is
interpolated. The same holds for the time of a frame within its clip.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.datasets.boxes import Box

FloatMap = NDArray[np.float32]
Counts = NDArray[np.uint16]


class ViewMap(NamedTuple):
    """A map of one view, and where the view comes from."""

    values: FloatMap  # (T', H', W'), cells that divide the view evenly
    numbers: NDArray[np.int64]  # frame numbers of the clip, (T,)
    resized: tuple[int, int]  # height and width of the resized frames
    box: Box  # crop of the resized frames


class FrameMaps:
    """Maps of the frames of a video, each from all views that show the frame.

    A frame is computed when it is asked for, so a long video takes no memory.

    Args:
        views: Maps of the views, at least one.
        num_frames: Number of frames of the video.
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.

    Attributes:
        views: Maps of the views.
        shape: Number, height and width of the frames.
        seen_numbers: Numbers of the frames that a view shows, ascending.
        max_step: Largest number of frames from one frame of a clip to the next.
    """

    def __init__(
        self, views: Sequence[ViewMap], *, num_frames: int, height: int, width: int
    ) -> None:
        self.views = list(views)
        self.shape = num_frames, height, width
        self.seen_numbers = np.unique(np.concatenate([view.numbers for view in views]))
        self.max_step = max(int(np.diff(view.numbers).max(initial=0)) for view in views)
        self._projections = [_project(view, height, width) for view in views]

    def frame(self, number: int) -> tuple[FloatMap, Counts]:
        """Return the map of a frame, and how often each of its pixels was seen.

        Args:
            number: Number of the frame.

        Returns:
            Values from 0 for the lowest of the video to 1 for the highest, shape (H, W). They are
            the mean over all that was seen, and 0 where nothing was. Then the counts, (H, W).
        """
        values, counts = self._mean(number)
        low, high = self._range
        scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
        return np.where(counts > 0, scaled, 0).astype(np.float32), counts

    @cached_property
    def _range(self) -> tuple[float, float]:
        """The lowest and the highest value of the video where it was seen."""
        low, high = np.inf, -np.inf
        for number in self.seen_numbers.tolist():
            values, counts = self._mean(number)
            seen = values[counts > 0]
            if len(seen):
                low, high = min(low, float(seen.min())), max(high, float(seen.max()))
        return low, high

    def _mean(self, number: int) -> tuple[FloatMap, Counts]:
        _, height, width = self.shape
        total = np.zeros((height, width), np.float32)
        counts = np.zeros((height, width), np.uint16)
        for view, (rows, columns) in zip(self.views, self._projections, strict=True):
            times = np.flatnonzero(view.numbers == number)
            if not len(times):
                continue
            cells = np.sum([_at_time(view, int(time)) for time in times], axis=0)
            total += np.asarray(rows.weights @ cells @ columns.weights.T, np.float32)
            counts += len(times) * np.outer(rows.is_seen, columns.is_seen).astype(np.uint16)
        return (total / np.maximum(counts, 1)).astype(np.float32), counts


class _Projection(NamedTuple):
    """From the cells of a map to the pixels of a frame, along one axis."""

    weights: FloatMap  # (pixels, cells). Rows of pixels that are not seen are 0.
    is_seen: NDArray[np.bool_]  # (pixels,)


def _project(view: ViewMap, height: int, width: int) -> tuple[_Projection, _Projection]:
    _, num_rows, num_columns = view.values.shape
    box = view.box
    rows = _project_axis(height, view.resized[0], box.top, box.height, num_cells=num_rows)
    columns = _project_axis(width, view.resized[1], box.left, box.width, num_cells=num_columns)
    return rows, columns


def _project_axis(
    length: int, resized: int, start: int, size: int, *, num_cells: int
) -> _Projection:
    """Return the projection onto an axis of `length` pixels.

    Args:
        length: Number of pixels of the frame.
        resized: Number of pixels after the resize.
        start: First resized pixel of the crop.
        size: Number of resized pixels of the crop.
        num_cells: Number of cells that divide the crop.
    """
    # Pixel i covers i to i + 1, so its center is at i + 0.5.
    centers = (np.arange(length) + 0.5) * (resized / length) - start
    is_seen = (centers >= 0) & (centers < size)
    weights = _interpolate(centers * (num_cells / size) - 0.5, num_cells)
    return _Projection(weights * is_seen[:, None].astype(np.float32), is_seen)


def _interpolate(positions: NDArray, num_cells: int) -> FloatMap:
    """Return the weights (N, num_cells) of the two cells around each position."""
    positions = positions.clip(0, num_cells - 1)
    before = np.floor(positions).astype(np.int64)
    after = np.minimum(before + 1, num_cells - 1)
    share = positions - before

    weights = np.zeros((len(positions), num_cells), np.float32)
    index = np.arange(len(positions))
    np.add.at(weights, (index, before), 1 - share)
    np.add.at(weights, (index, after), share)
    return weights


def _at_time(view: ViewMap, time: int) -> FloatMap:
    """Return the cells (H', W') of a map at a frame of its clip."""
    num_cells = len(view.values)
    position = (time + 0.5) * num_cells / len(view.numbers) - 0.5
    weights = _interpolate(np.array([position]), num_cells)[0]
    return np.tensordot(weights, view.values, axes=1)
