# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""CPU kernel of the weight gradient of a depthwise 3-D convolution, compiled by numba.

Importing this module imports numba and compiles the kernel, or reads it from numba's cache.
`slowfast.models.depthwise_cpu` does so when a backward pass first needs it.

The gradient of a tap is a sum, over all positions, of an input times a gradient. The inner loop
runs along a row and keeps the sums of all taps of that row in vector registers. LLVM does not find
this by itself, so `_define_row_products` writes the loop in its intermediate language.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from slowfast.utils.numba_cache import compile_cached

LANES = 16  # The number of channels must be a multiple of it.


def _define_row_products(taps: int, lanes: int) -> Callable[..., None]:
    """Return a function that adds the products of an input row and a gradient row.

    The function takes flat float32 arrays, each with the offset of its first channel, then the
    number of positions of the gradient row, 1 or more, and the number of channels C. With
    i < count, j < taps and c < lanes, it computes

        sums[offset + j * C + c] += x[offset + (i + j) * C + c] * dy[offset + i * C + c]

    Args:
        taps: Number of taps along the row.
        lanes: Number of neighboring channels to work on.
    """

    @intrinsic
    def add_row_products(typing_context, sums, sums_at, x, x_at, dy, dy_at, count, channels):
        signature = types.void(sums, sums_at, x, x_at, dy, dy_at, count, channels)
        vector = ir.VectorType(ir.FloatType(), lanes)

        def generate(context, builder, signature, arguments):
            sums, sums_at, x, x_at, dy, dy_at, count, channels = arguments
            bases = [
                context.make_array(kind)(context, builder, array).data
                for kind, array in zip(signature.args[:6:2], (sums, x, dy), strict=True)
            ]
            sums, x, dy = bases
            integer = channels.type

            def pointer(base, start, position):
                offset = builder.add(start, builder.mul(position, channels))
                return builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())

            def load(base, start, position):
                value = builder.load(pointer(base, start, position))
                value.align = 4  # bytes: a row may start anywhere
                return value

            steps = [integer(tap) for tap in range(taps)]
            before = [load(sums, sums_at, step) for step in steps]
            entry = builder.block
            loop, end = builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)

            builder.position_at_end(loop)
            position = builder.phi(integer)
            totals = [builder.phi(vector) for _ in steps]
            gradient = load(dy, dy_at, position)
            contract = ("contract",)  # allows a fused multiply-add
            added = []
            for step, total in zip(steps, totals, strict=True):
                value = load(x, x_at, builder.add(position, step))
                product = builder.fmul(value, gradient, flags=contract)
                added.append(builder.fadd(product, total, flags=contract))
            following = builder.add(position, integer(1))
            builder.cbranch(builder.icmp_signed("<", following, count), loop, end)

            position.add_incoming(integer(0), entry)
            position.add_incoming(following, loop)
            for total, first, later in zip(totals, before, added, strict=True):
                total.add_incoming(first, entry)
                total.add_incoming(later, loop)

            builder.position_at_end(end)
            for step, total in zip(steps, added, strict=True):
                builder.store(total, pointer(sums, sums_at, step)).align = 4
            return context.get_dummy_value()

        return signature, generate

    return add_row_products


# As many sums as the registers of AVX2 hold, so that several products are in flight.
_add_3_taps = _define_row_products(taps=3, lanes=16)
_add_3_taps_wide = _define_row_products(taps=3, lanes=32)
_add_5_taps = _define_row_products(taps=5, lanes=16)


def _add_weight_gradient(sums, bias, x, dy, shape, size, first, last):
    B, T, H, W, C = shape  # noqa: RUF059
    pad = size // 2
    length = W * C
    padded = np.zeros((W + 2 * pad) * C, np.float32)

    for row in range(first, last):
        t, h = row // H % T, row % H
        start = row * length
        padded[pad * C : pad * C + length] = x[start : start + length]
        for w in range(W):
            for c in range(C):
                bias[c] += dy[start + w * C + c]

        for step in range(size):  # of the kernel, in time and then along H
            out_t = t + pad - step
            if out_t < 0 or out_t >= T:
                continue
            for line in range(size):
                out_h = h + pad - line
                if out_h < 0 or out_h >= H:
                    continue

                out = (row + (out_t - t) * H + out_h - h) * length
                tap = (step * size + line) * size * C
                if size == 5:
                    for c in range(0, C, 16):
                        _add_5_taps(sums, tap + c, padded, c, dy, out + c, W, C)
                elif C % 32 == 0:
                    for c in range(0, C, 32):
                        _add_3_taps_wide(sums, tap + c, padded, c, dy, out + c, W, C)
                else:
                    for c in range(0, C, 16):
                        _add_3_taps(sums, tap + c, padded, c, dy, out + c, W, C)


_FLOATS = types.float32[::1]
_INT = types.int64
_SIGNATURE = types.void(
    _FLOATS, _FLOATS, _FLOATS, _FLOATS, types.UniTuple(_INT, 5), _INT, _INT, _INT
)
_compiled = compile_cached(_add_weight_gradient, [_SIGNATURE])


def add_weight_gradient(
    sums: np.ndarray,
    bias: np.ndarray,
    x: np.ndarray,
    dy: np.ndarray,
    *,
    shape: tuple[int, int, int, int, int],
    size: int,
    rows: range,
) -> None:
    """Add what some rows of the input contribute to the gradients of the weight and the bias.

    It releases the GIL. All arrays are flat, contiguous and float32.

    Args:
        sums: Gradient of the weight, to add to, size**3 * C values in the order (taps, C).
        bias: Gradient of the bias, to add to, C values.
        x: Input of the convolution, in the order of `shape`.
        dy: Gradient of its output, in the same order.
        shape: Sizes (B, T, H, W, C), with C a multiple of `LANES`.
        size: Size of the kernel, 3 or 5.
        rows: Range of rows of the input, of the B * T * H there are.
    """
    _compiled(sums, bias, x, dy, shape, size, rows.start, rows.stop)
