"""Depthwise 3-D convolution on a CPU: torch's forward pass, and gradients that cost as little.

torch's own gradients take 5 to 50 times as long as its forward pass. Here, the gradient of the
input is a forward pass with the mirrored kernel, and that of the weight is summed by a kernel that
numba compiles. All sums have the same order for any number of threads.

`slowfast.models.depthwise` decides whether to use them.
"""

import importlib.util
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_INPUTS_PER_SUM = 8  # Each chunk has sums of its own, and few inputs would not be worth it.
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
        size: Size of the kernel, 3 or 5.
    """
    from slowfast.models.depthwise_numba import LANES, add_weight_gradient

    num_channels = x.shape[1]
    x, dy = _pad_channels(x, multiple=LANES), _pad_channels(dy, multiple=LANES)
    B, T, H, _, C = x.shape

    # The chunks depend on the shape alone, so that any number of threads gives the same bits.
    num_chunks = x.numel() // (_MIN_INPUTS_PER_SUM * size**3 * C)
    num_chunks = max(1, min(num_chunks, B * T * H, _MAX_CHUNKS))
    sums, biases = x.new_zeros(num_chunks, size**3 * C), x.new_zeros(num_chunks, C)
    add_weight_gradient(sums, biases, x, dy, size=size, num_threads=torch.get_num_threads())

    weight = sums.sum(dim=0).view(size, size, size, C)[..., :num_channels]
    weight = weight.permute(3, 0, 1, 2).unsqueeze(1)  # (taps, C) -> (C, 1, taps)
    return weight.contiguous(), biases.sum(dim=0)[:num_channels].contiguous()


def _pad_channels(x: Tensor, *, multiple: int) -> Tensor:
    """Return (B, C, T, H, W) in the order (B, T, H, W, C), with channels of zeros at the end."""
    x = x.permute(0, 2, 3, 4, 1)
    missing = -x.shape[-1] % multiple
    return F.pad(x, (0, missing)) if missing else x.contiguous()
