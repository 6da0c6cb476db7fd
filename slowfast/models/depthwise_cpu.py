"""Depthwise 3-D convolution on a CPU: torch's forward pass, and gradients that cost as little.

torch's own gradients take 5 to 50 times as long as its forward pass. Here, the gradient of the
input is a forward pass with the mirrored kernel, and that of the weight is summed by a kernel that
numba compiles. All sums have the same order for any number of threads.

`slowfast.models.depthwise` decides whether to use them.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL_SIZES = (3, 5)
_MULTIPLY_ADDS_PER_CHUNK = 4e6  # Enough to make the costs of a thread small.
_MAX_CHUNKS = 64


def has_numba() -> bool:
    """Return whether numba is installed. Without it, gradients are torch's own."""
    return _find_numba()


@cache
def _find_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


# See `slowfast.models.depthwise.can_use_triton`.
has_numba._dynamo_marked_constant = True  # type: ignore[attr-defined]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of x by torch, channels-last.

    Args:
        x: Shape (B, C, T, H, W), float32.
        weight: Shape (C, 1, size, size, size), float32.
        bias: Shape (C,), float32, or None.
    """
    x = x.contiguous(memory_format=torch.channels_last_3d)
    y = F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
    return y.contiguous(memory_format=torch.channels_last_3d)


def input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of the input, which is the convolution of dy with the mirrored kernel.

    Args:
        dy: Gradient of the output, shape (B, C, T, H, W), float32.
        weight: Shape (C, 1, size, size, size), float32.
    """
    return convolve(dy, weight.flip(2, 3, 4), None)


def weight_gradient(dy: Tensor, x: Tensor, *, size: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weight, (C, 1, size, size, size), and bias, (C,).

    Args:
        dy: Gradient of the output, shape (B, C, T, H, W), float32.
        x: Input, shape (B, C, T, H, W), float32.
        size: Size of the kernel, in `KERNEL_SIZES`.
    """
    from slowfast.models.depthwise_numba import LANES, add_weight_gradient

    num_channels = x.shape[1]
    x, dy = _pad_channels(x, multiple=LANES), _pad_channels(dy, multiple=LANES)
    B, T, H, W, C = x.shape
    flat_x, flat_dy = x.reshape(-1).numpy(), dy.reshape(-1).numpy()

    # The chunks depend on the shape alone, so that any number of threads gives the same bits.
    num_rows = B * T * H
    num_chunks = round(size**3 * x.numel() / _MULTIPLY_ADDS_PER_CHUNK)
    num_chunks = max(1, min(num_chunks, num_rows, _MAX_CHUNKS))
    sums = np.zeros((num_chunks, size**3 * C), np.float32)
    biases = np.zeros((num_chunks, C), np.float32)

    def add(chunk: int) -> None:
        first, last = (num_rows * index // num_chunks for index in (chunk, chunk + 1))
        add_weight_gradient(
            sums[chunk],
            biases[chunk],
            flat_x,
            flat_dy,
            shape=(B, T, H, W, C),
            size=size,
            rows=range(first, last),
        )

    run_in_threads(add, range(num_chunks), num_threads=torch.get_num_threads())
    weight = torch.from_numpy(sums.sum(axis=0)).view(size, size, size, C)[..., :num_channels]
    weight = weight.permute(3, 0, 1, 2).unsqueeze(1)  # (taps, C) -> (C, 1, taps)
    return weight.contiguous(), torch.from_numpy(biases.sum(axis=0)[:num_channels])


def _pad_channels(x: Tensor, *, multiple: int) -> Tensor:
    """Return (B, C, T, H, W) in the order (B, T, H, W, C), with channels of zeros at the end."""
    x = x.permute(0, 2, 3, 4, 1)
    missing = -x.shape[-1] % multiple
    return F.pad(x, (0, missing)) if missing else x.contiguous()


# ---- Threads ---------------------------------------------------------------------------------

_pools: dict[int, ThreadPoolExecutor] = {}  # by process: a fork does not copy threads


def run_in_threads(
    function: Callable[[int], None], items: Sequence[int], *, num_threads: int
) -> None:
    """Call a function for each item, in this thread and in others of a pool.

    Several threads may call it at the same time, and a forked process may as well. The function
    must release the GIL to gain anything.

    Args:
        function: Function of one item. It must not call `run_in_threads`.
        items: Items to divide among the threads in contiguous shares.
        num_threads: Largest number of threads, this one included.
    """
    num_threads = max(1, min(num_threads, len(items)))
    bounds = [len(items) * index // num_threads for index in range(num_threads + 1)]
    own, *others = (items[first:last] for first, last in pairwise(bounds))

    def run(share: Sequence[int]) -> None:
        for item in share:
            function(item)

    futures = [_pool().submit(run, share) for share in others]
    try:
        run(own)
    finally:
        for future in futures:
            future.result()


def _pool() -> ThreadPoolExecutor:
    """Return the pool of this process. It starts threads as they are needed."""
    process = os.getpid()
    if process not in _pools:
        _pools[process] = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="depthwise")
    return _pools[process]
