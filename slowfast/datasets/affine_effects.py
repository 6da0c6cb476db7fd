"""Rotation, shear and translation effects of RandAugment on clips, tile by tile."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slowfast.datasets.boxes import Box, Planes, cut_out, enclosing_box
from slowfast.datasets.effects import EffectStep

FILL = 128  # value of pixels that come from outside the frame
ROUNDING = 2.0**-12  # exceeds the float32 error of a weighted sum, added before truncation
TILE = 128  # pixels, side of a tile, small enough for its intermediate values to stay in the cache

# Coefficients (a, b, c, d, e, f): the pixel at (x, y) comes from (a x + b y + c, d x + e y + f).
Matrix = tuple[float, float, float, float, float, float]


class Kernel(NamedTuple):
    """Interpolation along one axis as a weighted sum of the `num_taps` nearest pixels."""

    num_taps: int

    # Weights of the taps for a distance in [0, 1) from the last pixel before the position.
    weights: Callable[[Tensor], tuple[Tensor, ...]]


class AxisSums(NamedTuple):
    """Weighted sums that interpolate a region along one axis."""

    pixels: Tensor  # (num_taps, H, W), int32, indices of the source pixels
    weights: Tensor  # (num_taps, H, W), float32
    positions: Tensor  # (H, W), float64, source positions


class Axis(NamedTuple):
    """Source positions along one axis, column * x + row * y + shift for the pixel center (x, y)."""

    column: float
    row: float
    shift: float
    kernel: Kernel

    def span(self, wanted: Box) -> tuple[int, int]:
        """Return the first and the last source pixel that the wanted region depends on."""
        top, left, height, width = wanted
        positions = []
        for x in (left + 0.5, left + width - 0.5):
            for y in (top + 0.5, top + height - 0.5):
                positions.append(self.column * x + self.row * y + self.shift)

        first = math.floor(min(positions) - self._center) + self._first_tap
        last = math.floor(max(positions) - self._center) + self._first_tap
        return first, last + self.kernel.num_taps - 1

    def sums(self, wanted: Box, *, start: int, length: int) -> AxisSums:
        """Return the sums of a wanted region over `length` source pixels from `start` on.

        Pixels are counted from `start`. Pixels outside are replaced by the ones at the ends.
        """
        top, left, height, width = wanted
        y = torch.arange(top, top + height) + 0.5
        x = torch.arange(left, left + width) + 0.5
        positions = self.column * x.double() + self.row * y.double()[:, None] + self.shift

        distances = positions - self._center
        before = distances.floor()
        taps = torch.arange(self.kernel.num_taps, dtype=torch.int32)[:, None, None]
        pixels = (before.int() + (taps + (self._first_tap - start))).clamp_(0, length - 1)
        weights = torch.stack(self.kernel.weights((distances - before).float()))
        return AxisSums(pixels, weights, positions)

    @property
    def _center(self) -> float:
        """Position to measure distances from: pixel n begins at n and has its center at n + 0.5."""
        return 0.5 if self.kernel.num_taps > 1 else 0.0

    @property
    def _first_tap(self) -> int:
        return -((self.kernel.num_taps - 1) // 2)


class Warp(NamedTuple):
    """Affine map of the frame. Pixels from outside the frame become FILL."""

    matrix: Callable[[float, Box], Matrix]
    kernel: Kernel

    def input_region(self, wanted: Box, *, argument: float, frame: Box) -> Box:
        """Return the region of the input that the wanted region of the output depends on."""
        rows, columns = self._axes(argument, frame)
        return enclosing_box(rows.span(wanted), columns.span(wanted), frame=frame)

    def apply(self, planes: Planes, step: EffectStep) -> Planes:
        """Return the wanted region of the output from a region of the input."""
        argument, region, wanted, frame = step
        axes = self._axes(argument, frame)
        result = np.empty((*planes.shape[:2], wanted.height, wanted.width), np.uint8)

        for tile in wanted.tiles(TILE):
            needed = self.input_region(tile, argument=argument, frame=frame)
            source = cut_out(planes, needed.within(region))
            warped = _warp(source, axes, region=needed, wanted=tile, frame=frame)
            cut_out(result, tile.within(wanted))[:] = warped
        return result

    def _axes(self, argument: float, frame: Box) -> tuple[Axis, Axis]:
        """Return the axes of rows and columns. An axis that does not move is copied, not summed."""
        a, b, c, d, e, f = self.matrix(argument, frame)
        row_kernel = POINT if (d, e, f) == (0, 1, 0) else self.kernel
        column_kernel = POINT if (a, b, c) == (1, 0, 0) else self.kernel
        return Axis(d, e, f, row_kernel), Axis(a, b, c, column_kernel)


def _warp(
    planes: Planes, axes: tuple[Axis, Axis], *, region: Box, wanted: Box, frame: Box
) -> Planes:
    """Return the wanted region of the output from a region of the input."""
    row_axis, column_axis = axes
    rows = row_axis.sums(wanted, start=region.top, length=region.height)
    columns = column_axis.sums(wanted, start=region.left, length=region.width)
    pixels = (rows.pixels * region.width)[:, None] + columns.pixels  # (taps, taps, H, W)
    weights = rows.weights[:, None] * columns.weights

    # All channels and frames of a pixel are contiguous, so that one set of weights serves them all.
    # numpy converts between bytes and floats several times faster than torch.
    num_pixels = region.height * region.width
    values = np.ascontiguousarray(planes.transpose(2, 3, 0, 1)).reshape(num_pixels, -1)
    mixed = F.embedding_bag(
        pixels.flatten(0, 1).flatten(1).t().contiguous(),  # (H * W, taps * taps)
        torch.from_numpy(values.astype(np.float32)),
        per_sample_weights=weights.flatten(0, 1).flatten(1).t().contiguous(),
        mode="sum",
    )
    mixed.add_(ROUNDING).clamp_(0, 255)

    y, x = rows.positions, columns.positions
    is_outside = (y < 0) | (y >= frame.height) | (x < 0) | (x >= frame.width)
    mixed.index_fill_(0, is_outside.flatten().nonzero()[:, 0], FILL)

    warped = mixed.numpy().astype(np.uint8)
    warped = warped.reshape(wanted.height, wanted.width, *planes.shape[:2])
    return warped.transpose(2, 3, 0, 1)  # (H, W, C, T) -> (C, T, H, W)


def _rotation(degrees: float, frame: Box) -> Matrix:
    """Return a counterclockwise rotation about the center."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = frame.width / 2, frame.height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


MATRICES: dict[str, Callable[[float, Box], Matrix]] = {
    "Rotate": _rotation,
    "ShearX": lambda factor, _: (1, factor, 0, 0, 1, 0),
    "ShearY": lambda factor, _: (1, 0, 0, factor, 1, 0),
    "TranslateXRel": lambda fraction, frame: (1, 0, fraction * frame.width, 0, 1, 0),
    "TranslateYRel": lambda fraction, frame: (1, 0, 0, 0, 1, fraction * frame.height),
}


def _cubic_weights(d: Tensor) -> tuple[Tensor, ...]:
    """Return the weights of cubic convolution with a = -1, as in Pillow."""
    rest = 1 - d
    inner, outer = d * d, rest * rest
    return -d * outer, rest * (1 + d - inner), d * (1 + rest - outer), -inner * rest


POINT = Kernel(1, lambda d: (torch.ones_like(d),))
KERNELS = {
    "nearest": POINT,
    "bilinear": Kernel(2, lambda d: (1 - d, d)),
    "bicubic": Kernel(4, _cubic_weights),
}
