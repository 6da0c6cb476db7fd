"""From uint8 frames to the clip of the model in one pass: resize, crop, flip and normalize, compiled by numba.

With torch's own functions, most of the time goes into writing whole frames in float32, to be read again by the next
step. Here each pixel of the result is made once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, types
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.boxes import Box, Planes


class Placement(NamedTuple):
    """Which frames become which frames of a clip: number for number, (N,) each."""

    sources: NDArray[np.int64]  # frames at hand, repeats included
    targets: NDArray[np.int64]  # frames of the clip


def resize_into(
    out: Tensor,
    planes: Planes,
    *,
    size: tuple[int, int],
    window: Box,
    flipped: bool = False,
    mean: Sequence[float],
    std: Sequence[float],
    placement: Placement | None = None,
) -> None:
    """Write a window of the resized frames to `out`, with zero mean and unit deviation, or rounded where it is uint8.

    Bilinear, without antialiasing, pixel centres aligned: to rounding, what torch's `interpolate` gives with
    `align_corners=False`, as the published models saw it.

    Args:
        out: (C, T, window.height, window.width), float32 or uint8.
        planes: (C, T, H, W), values from 0 to 255; fast where the pixels of a row are neighbors in memory.
        size: height and width to which the frames are resized.
        window: the part of the resized frame that is wanted.
        flipped: whether the window is written left-right.
        mean: of each channel, on [0, 1]; unused for uint8.
        std: of each channel, on [0, 1]; unused for uint8.
        placement: The frames that are written, and where; None: all of them, in their order.
    """
    rows = _neighbors(planes.shape[2], size[0], window.top, window.height)
    columns = _neighbors(planes.shape[3], size[1], window.left, window.width)
    first, last = columns.before[0], columns.after[-1]
    planes = planes[..., first : last + 1]
    order = slice(None, None, -1 if flipped else 1)
    columns = _Neighbors(
        before=np.ascontiguousarray(columns.before[order] - first),
        after=np.ascontiguousarray(columns.after[order] - first),
        share=np.ascontiguousarray(columns.share[order]),
    )
    scale: NDArray[Any]
    shift: NDArray[Any]
    if out.dtype == torch.uint8:
        scale = np.ones(len(planes), dtype=np.float32)
        shift = np.full(len(planes), 0.5, dtype=np.float32)  # what follows the point is cut off
    else:
        scale = 1 / (255 * np.array(std, dtype=np.float32))
        shift = np.array(mean, dtype=np.float32) / -np.array(std, dtype=np.float32)
    if placement is None:
        placement = Placement(np.arange(planes.shape[1]), np.arange(planes.shape[1]))
    _resize(planes, *placement, *rows, *columns, scale, shift, out.numpy())


class _Neighbors(NamedTuple):
    """The two rows (or columns) between which each one of the result lies: (N,) each."""

    before: NDArray[np.uint32]
    after: NDArray[np.uint32]
    share: NDArray[np.float32]  # of the second, from 0 to 1


def _neighbors(length: int, resized: int, start: int, count: int) -> _Neighbors:
    """For `count` pixels from `start` on, of `length` pixels that become `resized`; in float32, as torch has it."""
    step = np.float32(length) / np.float32(resized)
    half = np.float32(0.5)
    centres = np.maximum(
        (np.arange(start, start + count, dtype=np.float32) + half) * step - half, np.float32(0)
    )
    before = np.minimum(centres.astype(np.uint32), np.uint32(length - 1))
    after = np.minimum(before + np.uint32(1), np.uint32(length - 1))
    return _Neighbors(before, after, (centres - before).astype(np.float32))


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile at import, so that forked workers find it there; after the first time, numba reads it from its cache."""
    numbers, indices, floats = types.int64[::1], types.uint32[::1], types.float32[::1]
    planes = types.Array(types.uint8, 4, "A", readonly=True)
    rows_and_columns = (indices, indices, floats) * 2
    signatures = [
        types.void(planes, numbers, numbers, *rows_and_columns, floats, floats, number[:, :, :, :])
        for number in (types.float32, types.uint8)
    ]
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(signatures, cache=True, **options)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache can anything be written
        return njit(signatures, **options)(function)


@_compiled
def _resize(
    planes: Planes,
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
    above: NDArray[np.uint32],
    below: NDArray[np.uint32],
    share_below: NDArray[np.float32],
    left: NDArray[np.uint32],
    right: NDArray[np.uint32],
    share_right: NDArray[np.float32],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    out: NDArray[np.float32] | NDArray[np.uint8],
) -> None:
    num_channels, _, _, width = planes.shape
    mixed = np.empty(width, np.float32)
    for c in range(num_channels):
        for source, target in zip(sources, targets):  # noqa: B905  numba knows no `strict`
            for y in range(len(above)):
                upper, lower = planes[c, source, above[y]], planes[c, source, below[y]]
                lower_weight = share_below[y] * scale[c]
                upper_weight = scale[c] - lower_weight
                for x in range(width):
                    mixed[x] = upper_weight * upper[x] + lower_weight * lower[x] + shift[c]
                line = out[c, target, y]
                for x in range(len(left)):
                    start = mixed[left[x]]
                    line[x] = start + share_right[x] * (mixed[right[x]] - start)
