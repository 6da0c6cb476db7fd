# mypy: disable-error-code="assignment, no-untyped-def, import-untyped, import-not-found, untyped-decorator"
"""Triton kernels of depthwise convolutions of channels-last volumes: forward, and all gradients.

Import this module only where Triton is installed: `slowfast.models.depthwise` decides.

A program works on one tile of a frame, ROWS rows times COLUMNS runs of NUM_W neighbors along W, of
CHANNELS channels. A thread holds a run of some channels in registers, so that what it loads once
serves up to SIZE times NUM_W products. Sums are in float32, and always in the same order.

Kernels are compiled for each number of channels, size of kernel and shape of a tile, not for B, T, H
and W.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS = 1024  # Of the weights' gradient: a few for each multiprocessor of the largest GPUs.
_LEAST_TILES = 4  # Of each of them, so that their sums are few.


# ---- Launches --------------------------------------------------------------------------------------------------------


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution of x (B, C, T, H, W), channels-last, in the dtype of x.

    Args:
        x: The volumes.
        weight: Shape (C, 1, SIZE, SIZE, SIZE).
        bias: Shape (C,).
    """
    return _correlate(x, weight, bias)


def input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the input, given that of the output: a convolution with the mirrored kernel."""
    return _correlate(dy, weight, None)


def weight_gradient(dy: Tensor, x: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weights, (C, 1, size, size, size), and of the bias, (C,), in float32.

    Args:
        dy: The gradient of the output.
        x: The input.
        size: The size of the kernel.
    """
    dy, x = _channels_last(dy), _channels_last(x)
    B, C, T, H, W = x.shape
    tiling = _Tiling.of(C, H, W, lanes=8)
    taps = size**3
    steps = (
        size if size == 3 else 1
    )  # The time steps of the kernel whose sums fit into the registers together.
    groups = triton.cdiv(C, tiling.channels) * (size // steps)
    tiles = B * T * tiling.row_tiles * tiling.column_tiles
    splits = max(1, min(_PROGRAMS // groups, triton.cdiv(tiles, _LEAST_TILES)))

    partial = x.new_empty((splits, taps + 1, C), dtype=torch.float32)
    weight = x.new_empty((C, 1, size, size, size), dtype=torch.float32)
    bias = x.new_empty((C,), dtype=torch.float32)
    with torch.cuda.device_of(x):
        _weight_kernel[(splits, triton.cdiv(C, tiling.channels), size // steps)](
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
            NUM_W=tiling.num_w,
            EVEN_W=W % tiling.num_w == 0,
            ROWS=tiling.rows,
            COLUMNS=tiling.columns,
            CHANNELS=tiling.channels,
            num_warps=tiling.warps(4),
            num_stages=1,
        )
        _sum_kernel[(triton.cdiv(C, 64), taps + 1)](
            partial, weight, bias, splits, C=C, TAPS=taps, CHANNELS=64, SPLITS=16, num_warps=4
        )
    return weight, bias


def _correlate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with a kernel, or with the mirrored one if there is no bias."""
    x = _channels_last(x)
    B, C, T, H, W = x.shape
    size = weight.shape[-1]
    tiling = _Tiling.of(C, H, W, lanes=16)
    taps = weight.new_empty((size**3, C), dtype=torch.float32).copy_(weight.flatten(1).t())
    y = torch.empty_like(x, memory_format=torch.channels_last_3d)
    with torch.cuda.device_of(x):
        _correlation_kernel[
            (B * T * tiling.row_tiles * tiling.column_tiles, triton.cdiv(C, tiling.channels))
        ](
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
            NUM_W=tiling.num_w,
            EVEN_W=W % tiling.num_w == 0,
            ROWS=tiling.rows,
            COLUMNS=tiling.columns,
            CHANNELS=tiling.channels,
            num_warps=tiling.warps(8),
            num_stages=1,
        )
    return y


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


@dataclass(frozen=True)
class _Tiling:
    """How frames are cut into tiles.

    Attributes:
        num_w: The neighbors along W of a run.
        rows: The rows of a tile.
        columns: The runs of a row of a tile.
        channels: The channels of a tile.
        row_tiles: The tiles along H.
        column_tiles: The tiles along W.
    """

    num_w: int
    rows: int
    columns: int
    channels: int
    row_tiles: int
    column_tiles: int

    @classmethod
    def of(cls, C: int, H: int, W: int, *, lanes: int) -> "_Tiling":
        """Return the tiling that loads and computes the least, of `lanes` runs if that suits the frame."""

        def cost(shape: tuple[int, int, int]) -> float:
            num_w, rows, columns = shape
            area = _rounded(H, rows) * _rounded(W, num_w * columns)
            loads = (num_w + 4) / num_w  # For each number, in a row of the kernel.
            return area * loads * (1 if rows * columns == lanes else 1.25)

        grids = [(8, lanes // 8), (4, lanes // 4), (8, 1)]
        num_w, rows, columns = min(
            ((num_w, *grid) for num_w in (8, 7, 6, 5, 4) for grid in grids), key=cost
        )
        return cls(
            num_w=num_w,
            rows=rows,
            columns=columns,
            channels=min(64, max(16, triton.next_power_of_2(C))),
            row_tiles=triton.cdiv(H, rows),
            column_tiles=triton.cdiv(W, num_w * columns),
        )

    def warps(self, channels_of_thread: int) -> int:
        """Return the warps of a program with this many channels in each thread, or fewer.

        With as many threads as channels or more than that, no thread needs another's weights.
        """
        if self.rows * self.columns == 8:
            channels_of_thread = 4
        return max(1, self.rows * self.columns * self.channels // channels_of_thread // 32)


def _rounded(length: int, unit: int) -> int:
    return triton.cdiv(length, unit) * unit


# ---- Kernels ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["T", "H", "W", "row_tiles", "column_tiles"])
def _correlation_kernel(
    x_ptr,
    taps_ptr,  # (SIZE * SIZE * SIZE, C) in float32
    bias_ptr,  # Not read where the kernel is mirrored.
    y_ptr,
    T,
    H,
    W,
    row_tiles,
    column_tiles,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    MIRRORED: tl.constexpr,
    NUM_W: tl.constexpr,
    EVEN_W: tl.constexpr,  # Whether W is a multiple of NUM_W.
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    PAD: tl.constexpr = SIZE // 2
    LANES: tl.constexpr = ROWS * COLUMNS
    tile = tl.program_id(0)
    column_tile = tile % column_tiles
    row_tile = (tile // column_tiles) % row_tiles
    plane = tile // (column_tiles * row_tiles)  # b * T + t
    t = plane % T

    lane = tl.arange(0, LANES)
    h = row_tile * ROWS + lane // COLUMNS
    w = (column_tile * COLUMNS + lane % COLUMNS) * NUM_W
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_row = (h < H) & (w < W)
    is_channel = c < C
    plane_size = tl.cast(H, tl.int64) * W * C
    offset = (h * W + w)[:, None] * C + c[None, :]

    zeros = tl.zeros((LANES, CHANNELS), tl.float32)
    if MIRRORED:
        start = zeros
    else:
        start = zeros + tl.load(bias_ptr + c, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    sums = (start,)
    for _ in tl.static_range(NUM_W - 1):
        sums = sums + (start,)

    first = tl.maximum(PAD - t, 0) * SIZE
    last = tl.minimum(T + PAD - t, SIZE) * SIZE
    for step in range(first, last):
        kt = step // SIZE
        kh = step % SIZE
        is_input = is_row & (h + (kh - PAD) >= 0) & (h + (kh - PAD) < H)
        x_row = x_ptr + (plane + (kt - PAD)) * plane_size + (offset + ((kh - PAD) * W - PAD) * C)
        weights = ()
        for kw in tl.static_range(SIZE):
            tap = step * SIZE + kw
            if MIRRORED:
                tap = SIZE * SIZE * SIZE - 1 - tap
            weights = weights + (
                tl.load(taps_ptr + tap * C + c, mask=is_channel, other=0.0)[None, :],
            )

        for j in tl.static_range(NUM_W + SIZE - 1):  # The neighbor w + j - PAD.
            is_here = is_input
            if j < PAD:
                is_here = is_here & (w >= PAD - j)
            if (j - PAD >= NUM_W) or (not EVEN_W):
                is_here = is_here & (w < W + (PAD - j))
            if C % CHANNELS == 0:
                mask = is_here[:, None]
            else:
                mask = is_here[:, None] & is_channel[None, :]
            x = tl.load(x_row + j * C, mask=mask, other=0.0).to(tl.float32)
            new = ()
            for i in tl.static_range(NUM_W):
                if (j >= i) and (j - i < SIZE):
                    new = new + (sums[i] + x * weights[j - i],)
                else:
                    new = new + (sums[i],)
            sums = new

    y_row = y_ptr + plane * plane_size + offset
    for i in tl.static_range(NUM_W):
        is_here = is_row
        if not EVEN_W:
            is_here = is_here & (w < W - i)
        if C % CHANNELS == 0:
            mask = is_here[:, None]
        else:
            mask = is_here[:, None] & is_channel[None, :]
        tl.store(y_row + i * C, sums[i].to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["B", "T", "H", "W", "row_tiles", "column_tiles", "splits"])
def _weight_kernel(
    x_ptr,
    dy_ptr,
    partial_ptr,  # (splits, SIZE * SIZE * SIZE + 1, C) in float32: the sums of the taps, and that of dy.
    B,
    T,
    H,
    W,
    row_tiles,
    column_tiles,
    splits,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    STEPS: tl.constexpr,  # The time steps of the kernel that a program sums: all, or one.
    NUM_W: tl.constexpr,
    EVEN_W: tl.constexpr,  # Whether W is a multiple of NUM_W.
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    PAD: tl.constexpr = SIZE // 2
    LANES: tl.constexpr = ROWS * COLUMNS
    TAPS: tl.constexpr = SIZE * SIZE * SIZE
    split = tl.program_id(0)
    first_kt = tl.program_id(2) * STEPS

    lane = tl.arange(0, LANES)
    lane_h = lane // COLUMNS
    lane_w = (lane % COLUMNS) * NUM_W
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < C
    plane_size = tl.cast(H, tl.int64) * W * C

    first_t = 0
    num_t = T
    if STEPS == 1:  # The frames whose neighbor in time lies within the clip.
        first_t = tl.maximum(PAD - first_kt, 0)
        num_t = tl.maximum(tl.minimum(T, T + PAD - first_kt) - first_t, 0)
    num_tiles = B * num_t * row_tiles * column_tiles
    share = tl.cdiv(num_tiles, splits)

    zeros = tl.zeros((LANES, CHANNELS), tl.float32)
    sum_of_dy = zeros
    sums = (zeros,)
    for _ in tl.static_range(STEPS * SIZE * SIZE - 1):
        sums = sums + (zeros,)

    for tile in range(split * share, tl.minimum((split + 1) * share, num_tiles)):
        column_tile = tile % column_tiles
        row_tile = (tile // column_tiles) % row_tiles
        frame = tile // (column_tiles * row_tiles)
        t = first_t + frame % num_t
        plane = (frame // num_t) * T + t
        h = row_tile * ROWS + lane_h
        w = column_tile * (COLUMNS * NUM_W) + lane_w
        is_row = (h < H) & (w < W)
        offset = (h * W + w)[:, None] * C + c[None, :]

        dy_row = dy_ptr + plane * plane_size + offset
        dys = ()
        for i in tl.static_range(NUM_W):
            is_here = is_row
            if not EVEN_W:
                is_here = is_here & (w < W - i)
            if C % CHANNELS == 0:
                mask = is_here[:, None]
            else:
                mask = is_here[:, None] & is_channel[None, :]
            dy = tl.load(dy_row + i * C, mask=mask, other=0.0).to(tl.float32)
            sum_of_dy += dy
            dys = dys + (dy,)

        new = ()
        for step in tl.static_range(STEPS):
            shift = first_kt + step - PAD
            is_frame = (t + shift >= 0) & (t + shift < T)
            for kh in tl.static_range(SIZE):
                is_input = is_row & is_frame & (h + (kh - PAD) >= 0) & (h + (kh - PAD) < H)
                x_row = x_ptr + (plane + shift) * plane_size + (offset + ((kh - PAD) * W - PAD) * C)
                xs = ()
                for j in tl.static_range(NUM_W + SIZE - 1):  # The neighbor w + j - PAD.
                    is_here = is_input
                    if j < PAD:
                        is_here = is_here & (w >= PAD - j)
                    if (j - PAD >= NUM_W) or (not EVEN_W):
                        is_here = is_here & (w < W + (PAD - j))
                    if C % CHANNELS == 0:
                        mask = is_here[:, None]
                    else:
                        mask = is_here[:, None] & is_channel[None, :]
                    xs = xs + (tl.load(x_row + j * C, mask=mask, other=0.0).to(tl.float32),)
                for kw in tl.static_range(SIZE):
                    total = sums[(step * SIZE + kh) * SIZE + kw]
                    for i in tl.static_range(NUM_W):
                        total += dys[i] * xs[i + kw]
                    new = new + (total,)
        sums = new

    partial = partial_ptr + tl.cast(split, tl.int64) * ((TAPS + 1) * C) + c
    for i in tl.static_range(STEPS * SIZE * SIZE):
        tl.store(
            partial + (first_kt * SIZE * SIZE + i) * C, tl.sum(sums[i], axis=0), mask=is_channel
        )
    if (first_kt <= PAD) & (
        first_kt + STEPS > PAD
    ):  # In the middle of the kernel, no frame is left out.
        tl.store(partial + TAPS * C, tl.sum(sum_of_dy, axis=0), mask=is_channel)


@triton.jit(do_not_specialize=["splits"])
def _sum_kernel(
    partial_ptr,
    weight_ptr,  # (C, TAPS)
    bias_ptr,
    splits,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    tap = tl.program_id(1)
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    is_channel = c < C
    lane = tl.arange(0, SPLITS)

    sums = tl.zeros((SPLITS, CHANNELS), tl.float32)
    for first in range(0, splits, SPLITS):
        split = first + lane
        here = (
            partial_ptr + (split.to(tl.int64) * ((TAPS + 1) * C))[:, None] + (tap * C + c)[None, :]
        )
        sums += tl.load(here, mask=(split < splits)[:, None] & is_channel[None, :], other=0.0)
    total = tl.sum(sums, axis=0)
    if tap < TAPS:
        tl.store(weight_ptr + c * TAPS + tap, total, mask=is_channel)
    else:
        tl.store(bias_ptr + c, total, mask=is_channel)
