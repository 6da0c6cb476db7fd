# mypy: disable-error-code="assignment, no-untyped-def, untyped-decorator"
"""Triton kernels of depthwise 3-D convolution on channels-last volumes: forward and all gradients.

A program works on one tile of a frame: ROWS rows times COLUMNS runs of NUM_W neighbors along W,
with CHANNELS channels. A thread holds a run of some channels in registers, so that each value it
loads serves up to SIZE times NUM_W products. Sums are in float32 and always in the same order.

Triton compiles the kernels for each number of channels, kernel size and tile shape, but not for B,
T, H and W.
"""

import triton
import triton.language as tl


@triton.jit
def _mask(is_here, is_channel, C: tl.constexpr, CHANNELS: tl.constexpr):
    """Return the mask (LANES, CHANNELS) of lanes and channels, or (LANES, 1) if none is padding."""
    if C % CHANNELS == 0:
        mask = is_here[:, None]
    else:
        mask = is_here[:, None] & is_channel[None, :]
    return mask


@triton.jit
def _output_mask(
    is_row,
    is_channel,
    w,
    W,
    i: tl.constexpr,
    EVEN_W: tl.constexpr,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Return the mask of neighbor w + i in the output."""
    is_here = is_row
    if not EVEN_W:
        is_here = is_here & (w < W - i)
    return _mask(is_here, is_channel, C, CHANNELS)


@triton.jit
def _input_mask(
    is_input,
    is_channel,
    w,
    W,
    j: tl.constexpr,
    PAD: tl.constexpr,
    NUM_W: tl.constexpr,
    EVEN_W: tl.constexpr,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Return the mask of neighbor w + j - PAD in the input."""
    is_here = is_input
    if j < PAD:
        is_here = is_here & (w >= PAD - j)
    if (j - PAD >= NUM_W) or (not EVEN_W):
        is_here = is_here & (w < W + (PAD - j))
    return _mask(is_here, is_channel, C, CHANNELS)


@triton.jit(do_not_specialize=["T", "H", "W", "row_tiles", "column_tiles"])
def correlation_kernel(
    x_ptr,
    taps_ptr,  # (SIZE * SIZE * SIZE, C) in float32.
    bias_ptr,  # Not read if MIRRORED.
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
    """Convolve x with the taps and add the bias, or convolve it with the mirrored taps."""
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

        for j in tl.static_range(NUM_W + SIZE - 1):
            mask = _input_mask(is_input, is_channel, w, W, j, PAD, NUM_W, EVEN_W, C, CHANNELS)
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
        mask = _output_mask(is_row, is_channel, w, W, i, EVEN_W, C, CHANNELS)
        tl.store(y_row + i * C, sums[i].to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["B", "T", "H", "W", "row_tiles", "column_tiles", "splits"])
def weight_gradient_kernel(
    x_ptr,
    dy_ptr,
    partial_ptr,  # (splits, SIZE * SIZE * SIZE + 1, C) in float32: sums of the taps and of dy.
    B,
    T,
    H,
    W,
    row_tiles,
    column_tiles,
    splits,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    STEPS: tl.constexpr,  # Time steps of the kernel that a program sums: all of them or one.
    NUM_W: tl.constexpr,
    EVEN_W: tl.constexpr,  # Whether W is a multiple of NUM_W.
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sum the gradients of the taps and of the bias over a share of all tiles."""
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
    if STEPS == 1:  # Skip frames without a neighbor in time within the clip.
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
            mask = _output_mask(is_row, is_channel, w, W, i, EVEN_W, C, CHANNELS)
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
                for j in tl.static_range(NUM_W + SIZE - 1):
                    mask = _input_mask(
                        is_input, is_channel, w, W, j, PAD, NUM_W, EVEN_W, C, CHANNELS
                    )
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
    # Only the program with the center of the kernel skips no frame, so it stores the sum of dy.
    if (first_kt <= PAD) & (first_kt + STEPS > PAD):
        tl.store(partial + TAPS * C, tl.sum(sum_of_dy, axis=0), mask=is_channel)


@triton.jit(do_not_specialize=["splits"])
def sum_kernel(
    partial_ptr,
    weight_ptr,  # (C, TAPS)
    bias_ptr,
    splits,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Add up the partial sums of all programs."""
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
