# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""CPU kernel of the weight gradient of a depthwise 3-D convolution, compiled by numba.

Importing this module imports numba and compiles the kernel, or reads it from numba's cache.
`slowfast.models.depthwise_cpu` does so when a backward pass first needs it.

The gradient of a tap is a sum, over all positions, of an input times a gradient. The inner loop
runs along a row and keeps the sums of all taps of that row in vector registers. LLVM does not find
this by itself, so `_define_row_products` writes the loop in its intermediate language.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from slowfast.utils.numba_cache import compile_callback

LANES = 16  # The number of channels must be a multiple of it.
NUM_FIELDS = 12


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


@njit(error_model="numpy")
def _add_rows(sums, bias, x, dy, shape, size, first, last):
    """Add what rows of the input, of the B * T * H there are, contribute to the gradients."""
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


# ---- Threads ---------------------------------------------------------------------------------


@intrinsic
def _take_next(typing_context, counter):
    """Return a counter in memory, and increase it, as one step for all threads."""

    def generate(context, builder, signature, arguments):
        one = ir.Constant(ir.IntType(64), 1)
        counter = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", counter, one, "monotonic")

    return types.int64(counter), generate


@intrinsic
def _as_pointer(typing_context, address):
    """Return a pointer to an address."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


def _add_chunks(data):
    """Add chunks of rows until none is left. Each thread runs it, with the same data.

    The data are int64: the next chunk, the number of chunks, the addresses of sums, biases, input
    and gradient, the sizes B, T, H, W and C, and the size of the kernel.
    """
    fields = carray(data, NUM_FIELDS, np.int64)
    num_chunks, size = fields[1], fields[11]
    B, T, H, W, C = fields[6], fields[7], fields[8], fields[9], fields[10]
    num_rows, num_sums = B * T * H, size**3 * C
    sums = carray(_as_pointer(fields[2]), (num_chunks, num_sums), np.float32)
    biases = carray(_as_pointer(fields[3]), (num_chunks, C), np.float32)
    x = carray(_as_pointer(fields[4]), num_rows * W * C, np.float32)
    dy = carray(_as_pointer(fields[5]), num_rows * W * C, np.float32)

    while True:
        chunk = _take_next(data)
        if chunk >= num_chunks:
            break
        first, last = num_rows * chunk // num_chunks, num_rows * (chunk + 1) // num_chunks
        _add_rows(sums[chunk], biases[chunk], x, dy, (B, T, H, W, C), size, first, last)


_compiled = compile_callback(_add_chunks, types.void(types.voidptr))
_process = os.getpid()  # A forked process has none of the threads of its parent.


def add_weight_gradient(
    sums: Tensor, biases: Tensor, x: Tensor, dy: Tensor, *, size: int, num_threads: int
) -> None:
    """Add the gradients of the weight and the bias, chunk by chunk of the rows of the input.

    It runs in the threads of torch, which would otherwise wait actively for torch and take the
    cores. Any number of them gives the same bits. All tensors are contiguous and float32.

    Args:
        sums: Gradients of the weight by each chunk, to add to, shape (chunks, size**3 * C).
        biases: Gradients of the bias by each chunk, to add to, shape (chunks, C).
        x: Input of the convolution, shape (B, T, H, W, C), with C a multiple of `LANES`.
        dy: Gradient of its output, in the same shape.
        size: Size of the kernel, 3 or 5.
        num_threads: Largest number of threads.
    """
    addresses = [tensor.data_ptr() for tensor in (sums, biases, x, dy)]
    fields = np.array([0, len(sums), *addresses, *x.shape, size], np.int64)
    parallel = find_openmp()
    num_threads = min(num_threads, len(sums))
    if num_threads > 1 and parallel is not None and os.getpid() == _process:
        parallel(_compiled.address, fields.ctypes.data, num_threads, 0)
    else:
        _compiled.ctypes(fields.ctypes.data)


@cache
def find_openmp() -> Callable[[int, int, int, int], None] | None:
    """Return GOMP_parallel of the OpenMP library that torch has loaded, None without one.

    It calls a function of C in several threads: GNU's library has it, and Intel's and LLVM's have
    it on Linux.
    """
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if parallel is not None:
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
    return parallel
