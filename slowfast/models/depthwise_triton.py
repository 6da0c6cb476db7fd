"""Launches of the Triton kernels of depthwise 3-D convolution, and the tiles they work on.

Importing this module requires Triton. `slowfast.models.depthwise` decides whether to use it.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from slowfast.models import depthwise_kernels

# The weight gradient runs a few programs per multiprocessor of the largest GPUs. Each of them
# works on several tiles, so that few partial sums remain to be added.
_MAX_PROGRAMS = 1024
_MIN_TILES_PER_PROGRAM = 4


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution of x, channels-last and in the dtype of x.

    Args:
        x: Shape (B, C, T, H, W).
        weight: Shape (C, 1, size, size, size).
        bias: Shape (C,).
    """
    return _correlate(x, weight, bias)


def input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the input, which is the convolution of dy with the mirrored kernel.

    Args:
        dy: Gradient of the output, shape (B, C, T, H, W).
        weight: Shape (C, 1, size, size, size).
    """
    return _correlate(dy, weight, None)


def weight_gradient(dy: Tensor, x: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weight, (C, 1, size, size, size), and bias, (C,), in float32.

    Args:
        dy: Gradient of the output, shape (B, C, T, H, W).
        x: Input, shape (B, C, T, H, W).
        size: Size of the kernel.
    """
    dy, x = _channels_last(dy), _channels_last(x)
    B, C, T, H, W = x.shape
    tiling = Tiling.choose(C, H, W, lanes=8)
    num_taps = size**3
    steps = size if size == 3 else 1  # Time steps of the kernel with sums that fit in registers.

    num_groups = triton.cdiv(C, tiling.channels) * (size // steps)
    num_tiles = B * T * tiling.row_tiles * tiling.column_tiles
    max_splits = triton.cdiv(num_tiles, _MIN_TILES_PER_PROGRAM)
    splits = max(1, min(_MAX_PROGRAMS // num_groups, max_splits))

    partial = x.new_empty((splits, num_taps + 1, C), dtype=torch.float32)
    weight = x.new_empty((C, 1, size, size, size), dtype=torch.float32)
    bias = x.new_empty((C,), dtype=torch.float32)
    grid = (splits, triton.cdiv(C, tiling.channels), size // steps)
    sum_grid = (triton.cdiv(C, 64), num_taps + 1)
    sum_constants = {"C": C, "TAPS": num_taps, "CHANNELS": 64, "SPLITS": 16}

    with torch.cuda.device_of(x):
        depthwise_kernels.weight_gradient_kernel[grid](
            x,
            dy,
            partial,
            B,
            T,
            H,
            W,
            tiling.row_tiles,
            tiling.column_tiles,
            splits,
            C=C,
            SIZE=size,
            STEPS=steps,
            EVEN_W=W % tiling.num_w == 0,
            **tiling.constants(),
            num_warps=tiling.num_warps(4),
            num_stages=1,
        )
        depthwise_kernels.sum_kernel[sum_grid](
            partial, weight, bias, splits, **sum_constants, num_warps=4
        )
    return weight, bias


def _correlate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x with the kernel and add the bias, or without one convolve the mirrored kernel."""
    x = _channels_last(x)
    B, C, T, H, W = x.shape
    size = weight.shape[-1]
    tiling = Tiling.choose(C, H, W, lanes=16)

    taps = weight.new_empty((size**3, C), dtype=torch.float32).copy_(weight.flatten(1).t())
    y = torch.empty_like(x, memory_format=torch.channels_last_3d)
    num_tiles = B * T * tiling.row_tiles * tiling.column_tiles
    with torch.cuda.device_of(x):
        depthwise_kernels.correlation_kernel[(num_tiles, triton.cdiv(C, tiling.channels))](
            x,
            taps,
            taps if bias is None else bias.float(),
            y,
            T,
            H,
            W,
            tiling.row_tiles,
            tiling.column_tiles,
            C=C,
            SIZE=size,
            MIRRORED=bias is None,
            EVEN_W=W % tiling.num_w == 0,
            **tiling.constants(),
            num_warps=tiling.num_warps(8),
            num_stages=1,
        )
    return y


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


@dataclass(frozen=True)
class Tiling:
    """Division of frames into tiles.

    Attributes:
        num_w: Number of neighbors along W in a run.
        rows: Number of rows in a tile.
        columns: Number of runs in a row of a tile.
        channels: Number of channels in a tile.
        row_tiles: Number of tiles along H.
        column_tiles: Number of tiles along W.
    """

    num_w: int
    rows: int
    columns: int
    channels: int
    row_tiles: int
    column_tiles: int

    @classmethod
    def choose(cls, C: int, H: int, W: int, *, lanes: int) -> "Tiling":
        """Return the tiling that loads and computes the least.

        Args:
            C: Number of channels.
            H: Height of a frame.
            W: Width of a frame.
            lanes: Preferred number of runs in a tile.
        """

        def cost(shape: tuple[int, int, int]) -> float:
            num_w, rows, columns = shape
            area = _round_up(H, rows) * _round_up(W, num_w * columns)
            loads = (num_w + 4) / num_w  # Loads per value, for each row of the kernel.
            return area * loads * (1 if rows * columns == lanes else 1.25)

        grids = [(8, lanes // 8), (4, lanes // 4), (8, 1)]
        shapes = []
        for num_w in (8, 7, 6, 5, 4):
            shapes += [(num_w, *grid) for grid in grids]
        num_w, rows, columns = min(shapes, key=cost)

        return cls(
            num_w=num_w,
            rows=rows,
            columns=columns,
            channels=min(64, max(16, triton.next_power_of_2(C))),
            row_tiles=triton.cdiv(H, rows),
            column_tiles=triton.cdiv(W, num_w * columns),
        )

    def constants(self) -> dict[str, Any]:
        """Return the shape of a tile as arguments of the kernels."""
        return {
            "NUM_W": self.num_w,
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "CHANNELS": self.channels,
        }

    def num_warps(self, channels_per_thread: int) -> int:
        """Return the number of warps of a program.

        With at least as many threads as channels, no thread needs the weights of another.

        Args:
            channels_per_thread: Number of channels in each thread. Small tiles have fewer.
        """
        if self.rows * self.columns == 8:
            channels_per_thread = 4
        return max(1, self.rows * self.columns * self.channels // channels_per_thread // 32)


def _round_up(length: int, unit: int) -> int:
    return triton.cdiv(length, unit) * unit
