"""Bilinear resize of uint8 frames with crop, flip and normalization in one pass, compiled by numba.

Separate passes spend most of their time on writing whole float32 frames that the next pass reads
again. Here, each output pixel is computed once.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.boxes import Box, Planes
from slowfast.utils.numba_cache import compile_cached


class Placement(NamedTuple):
    """Which decoded frames become which frames of a clip. Both arrays have shape (N,)."""

    sources: NDArray[np.int64]  # indices of the decoded frames, may repeat
    targets: NDArray[np.int64]  # indices of the frames of the clip


class PixelScaling(NamedTuple):
    """Linear map from pixel values, 0 to 255, to stored values: scale * pixel + shift."""

    scale: NDArray[np.float32]  # (C,)
    shift: NDArray[np.float32]  # (C,)


def resize_into(
    out: Tensor,
    planes: Planes,
    *,
    size: tuple[int, int],
    window: Box,
    scaling: PixelScaling,
    flipped: bool = False,
    placement: Placement | None = None,
) -> None:
    """Resize frames, cut a window out of them, and write its scaled pixels to `out`.

    The resize is bilinear, without antialiasing, and aligns pixel centers. Up to rounding, it
    equals torch's `interpolate` with `align_corners=False`, as the published models use it.

    Args:
        out: Destination of shape (C, T, window.height, window.width), float32 or uint8.
        planes: Frames of shape (C, T, H, W). The fastest layout has contiguous rows.
        size: Height and width of the resized frames in pixels.
        window: Region of the resized frames to write.
        scaling: Map from pixel values to the values in `out`. A uint8 `out` truncates them.
        flipped: Whether to mirror the window left to right.
        placement: Frames to write and their indices in `out`, None for all frames in order.
    """
    rows = _find_neighbors(planes.shape[2], size[0], start=window.top, count=window.height)
    columns = _find_neighbors(planes.shape[3], size[1], start=window.left, count=window.width)

    # Pass only the columns that the window needs.
    first, last = columns.before[0], columns.after[-1]
    planes = planes[..., first : last + 1]
    order = slice(None, None, -1 if flipped else 1)
    columns = _Neighbors(
        before=np.ascontiguousarray(columns.before[order] - first),
        after=np.ascontiguousarray(columns.after[order] - first),
        weight=np.ascontiguousarray(columns.weight[order]),
    )

    if placement is None:
        every_frame = np.arange(planes.shape[1])
        placement = Placement(every_frame, every_frame)
    compile_resize()(planes, *placement, *rows, *columns, *scaling, out.numpy())


class _Neighbors(NamedTuple):
    """The two source rows or columns around each output row or column. Each has shape (N,)."""

    before: NDArray[np.uint32]
    after: NDArray[np.uint32]
    weight: NDArray[np.float32]  # weight of `after`, from 0 to 1


def _find_neighbors(length: int, resized: int, *, start: int, count: int) -> _Neighbors:
    """Return the neighbors of `count` pixels from `start` on, after `length` becomes `resized`.

    The positions are computed in float32, as in torch.
    """
    step = np.float32(length) / np.float32(resized)
    half = np.float32(0.5)
    pixels = np.arange(start, start + count, dtype=np.float32)
    centers = np.maximum((pixels + half) * step - half, np.float32(0))

    before = np.minimum(centers.astype(np.uint32), np.uint32(length - 1))
    after = np.minimum(before + np.uint32(1), np.uint32(length - 1))
    return _Neighbors(before, after, (centers - before).astype(np.float32))


@cache
def compile_resize() -> Callable[..., None]:
    """Return the compiled resize kernel.

    The first call in a process imports numba and compiles the kernel, or reads it from numba's
    cache on disk. Call it before you fork workers, so that they inherit the result.
    """
    from numba import types

    indices, neighbors = types.int64[::1], types.uint32[::1]
    floats = types.float32[::1]
    planes = types.Array(types.uint8, 4, "A", readonly=True)
    axis = (neighbors, neighbors, floats)

    signatures = []
    for element in (types.float32, types.uint8):
        out = element[:, :, :, :]
        signatures.append(types.void(planes, indices, indices, *axis, *axis, floats, floats, out))

    return compile_cached(_resize, signatures)


def _resize(
    planes: Planes,
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
    above: NDArray[np.uint32],
    below: NDArray[np.uint32],
    weight_below: NDArray[np.float32],
    left: NDArray[np.uint32],
    right: NDArray[np.uint32],
    weight_right: NDArray[np.float32],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    out: NDArray[np.float32] | NDArray[np.uint8],
) -> None:
    num_channels, _, _, width = planes.shape
    mixed = np.empty(width, np.float32)

    for c in range(num_channels):
        for source, target in zip(sources, targets):  # noqa: B905  numba does not know `strict`
            for y in range(len(above)):
                upper, lower = planes[c, source, above[y]], planes[c, source, below[y]]
                lower_weight = weight_below[y] * scale[c]
                upper_weight = scale[c] - lower_weight
                for x in range(width):
                    mixed[x] = upper_weight * upper[x] + lower_weight * lower[x] + shift[c]

                line = out[c, target, y]
                for x in range(len(left)):
                    start = mixed[left[x]]
                    line[x] = start + weight_right[x] * (mixed[right[x]] - start)
