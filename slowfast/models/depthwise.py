"""Depthwise 3-D convolution with gradients of our own, since those of torch dominate a step.

On a GPU, Triton kernels compute all of it, or 2-D convolutions frame by frame where Triton cannot
run. On a CPU, torch computes the forward pass, and `depthwise_cpu` the gradients.
"""

import importlib.util
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast.models import depthwise_cpu
from slowfast.models.other_tools import is_exported_or_traced, is_transformed
from slowfast.utils.compilers import find_gpu_problems

logger = logging.getLogger(__name__)

KERNEL_SIZES = (3, 5)  # of our kernels, for GPUs and CPUs

# The Triton kernels support these. The module with the kernels requires Triton, so it is imported
# only where they run.
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_FRAME_VALUES = 2**30  # Values in a frame, H * W * C: offsets within it are 32-bit.


class Depthwise(nn.Conv3d):
    """A depthwise 3-D convolution that keeps the size in time and space.

    On a CPU it runs in float32 even under autocast, because the bfloat16 weight gradients of oneDNN
    sometimes contain uninitialized memory. Where no gradient is needed, it is torch's convolution.
    On a GPU it avoids cuDNN, whose depthwise 3-D kernels take up to a hundred times as long as
    necessary.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__(dim, dim, size, padding=size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) for (B, C, T, H, W)."""
        if is_exported_or_traced():
            return super().forward(x)  # a plain convolution, which every tool knows
        if x.device.type == "cuda":
            return self._forward_on_gpu(x)
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return self._forward_on_cpu(x.to(self.weight.dtype))

    def _forward_on_cpu(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        leaves = (x, self.weight, self.bias)
        builds_graph = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)
        is_supported = (
            self.kernel_size[0] in KERNEL_SIZES
            and x.dtype == torch.float32
            and depthwise_cpu.has_numba()
            and (torch.compiler.is_compiling() or not is_transformed())
        )
        return convolve(*leaves) if builds_graph and is_supported else super().forward(x)

    def _forward_on_gpu(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        if torch.is_autocast_enabled("cuda"):
            x = x.to(torch.get_autocast_dtype("cuda"))

        C, _, H, W = x.shape[1:]
        is_supported = (
            self.kernel_size[0] in KERNEL_SIZES
            and x.dtype in KERNEL_DTYPES
            and H * W * C < MAX_FRAME_VALUES
        )
        if is_supported and can_use_triton():
            return convolve(x, self.weight, self.bias)
        return convolve_over_time(x, self.weight, self.bias)


# ---- Triton kernels --------------------------------------------------------------------------


def can_use_triton() -> bool:
    """Return whether the Triton kernels run on the GPU of this process.

    If they do not, the first call logs the reason and a remedy.
    """
    return _decide_on_triton()


# `torch.compiler.assume_constant_result` sets this attribute, but it imports torch._dynamo, which
# takes seconds that a process without torch.compile should not spend.
can_use_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _decide_on_triton() -> bool:
    problems = find_triton_problems()
    if problems:
        logger.warning(
            "Depthwise convolutions run frame by frame, which makes a training step about 1.4 "
            "times as long: %s",
            "; ".join(problems),
        )
    return not problems


def find_triton_problems() -> list[str]:
    """Return each reason why the Triton kernels cannot run on the GPU of this process."""
    if importlib.util.find_spec("triton") is None:
        return ["Triton is not installed; pip install triton in the version that torch requires"]
    if torch.version.hip is not None or not torch.cuda.is_available():
        return ["the kernels support only NVIDIA GPUs"]

    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return [
            f"the kernels need a GPU of compute capability 8.0, and this one has {major}.{minor}"
        ]
    return [*find_gpu_problems(), *_find_cache_problems()]


def triton_cache() -> Path:
    """Return the folder of the kernels that Triton has compiled. It may not exist yet."""
    home = os.environ.get("TRITON_HOME") or Path.home()
    return Path(os.environ.get("TRITON_CACHE_DIR") or Path(home, ".triton", "cache"))


def _find_cache_problems() -> list[str]:
    folder = triton_cache()
    candidates = (folder.absolute(), *folder.absolute().parents)
    existing = next(path for path in candidates if path.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        return []
    return [
        f"Triton cannot write to {folder}. Set the environment variable TRITON_CACHE_DIR to "
        "another folder"
    ]


# ---- Operators -------------------------------------------------------------------------------


def _implementation(x: Tensor) -> ModuleType:
    """Return the module that computes on the device of x. It is imported only where it runs."""
    if x.device.type == "cpu":
        return depthwise_cpu
    from slowfast.models import depthwise_triton

    return depthwise_triton


# `torch.library.custom_op` would import torch's compiler at the first call. These do not.
_library = torch.library.Library("slowfast", "FRAGMENT")
for _schema in (
    "depthwise(Tensor x, Tensor weight, Tensor bias) -> Tensor",
    "depthwise_input_gradient(Tensor dy, Tensor weight) -> Tensor",
    "depthwise_weight_gradient(Tensor dy, Tensor x, SymInt size) -> (Tensor, Tensor)",
):
    _library.define(_schema, tags=torch.Tag.pt2_compliant_tag)


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution of x, channels-last and in the dtype of x.

    Products and sums are in float32. On a GPU, the weights may have another dtype than x.

    Args:
        x: Shape (B, C, T, H, W), with a dtype in `KERNEL_DTYPES`, on a CPU float32.
        weight: Shape (C, 1, size, size, size), with `size` in `KERNEL_SIZES`.
        bias: Shape (C,).
    """
    return torch.ops.slowfast.depthwise(x, weight, bias)


def _input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.slowfast.depthwise_input_gradient(dy, weight)


def _weight_gradient(dy: Tensor, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return torch.ops.slowfast.depthwise_weight_gradient(dy, x, size)


@torch.library.impl(_library, "depthwise", "CompositeExplicitAutograd")
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _implementation(x).convolve(x, weight, bias)


@torch.library.impl(_library, "depthwise_input_gradient", "CompositeExplicitAutograd")
def _(dy: Tensor, weight: Tensor) -> Tensor:
    return _implementation(dy).input_gradient(dy, weight)


@torch.library.impl(_library, "depthwise_weight_gradient", "CompositeExplicitAutograd")
def _(dy: Tensor, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return _implementation(x).weight_gradient(dy, x, size=size)


@torch.library.register_fake("slowfast::depthwise")
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last_3d)


@torch.library.register_fake("slowfast::depthwise_input_gradient")
def _(dy: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(dy, memory_format=torch.channels_last_3d)


@torch.library.register_fake("slowfast::depthwise_weight_gradient")
def _(dy: Tensor, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    dim = x.shape[1]
    dweight = x.new_empty((dim, 1, size, size, size), dtype=torch.float32)
    return dweight, x.new_empty(dim, dtype=torch.float32)


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    x, weight, bias = inputs
    _, *needs_weights = ctx.needs_input_grad[:3]
    ctx.save_for_backward(x if any(needs_weights) else None, weight)
    ctx.bias_dtype = bias.dtype


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, *needs_weights = ctx.needs_input_grad
    if torch.is_grad_enabled():  # for second derivatives, which our kernels do not have
        return _differentiable_gradients(dy, x, weight, needs=ctx.needs_input_grad)
    dx = _input_gradient(dy, weight) if needs_x else None
    if not any(needs_weights):
        return dx, None, None
    dweight, dbias = _weight_gradient(dy, x, weight.shape[-1])
    return dx, dweight.to(weight.dtype), dbias.to(ctx.bias_dtype)


def _differentiable_gradients(
    dy: Tensor, x: Tensor | None, weight: Tensor, *, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight and bias by operators of torch."""
    dim, size = len(weight), weight.shape[-1]
    padding = size // 2
    dx = None
    if needs[0]:
        mirrored = weight.flip(2, 3, 4).to(dy.dtype)
        dx = F.conv3d(dy, mirrored, padding=padding, groups=dim)
    if x is None:
        return dx, None, None

    # As a grouped correlation of the input with the gradient: each channel of each clip is a group.
    clips = F.pad(x, [padding] * 6).flatten(0, 1).unsqueeze(0)  # (1, B*C, T, H, W)
    kernels = dy.to(x.dtype).flatten(0, 1).unsqueeze(1)  # (B*C, 1, T, H, W)
    taps = F.conv3d(clips, kernels, groups=len(kernels))  # (1, B*C, size, size, size)
    dweight = taps.view(len(x), dim, 1, size, size, size).sum(dim=0)
    return dx, dweight.to(weight.dtype), dy.sum(dim=(0, 2, 3, 4)).to(weight.dtype)


torch.library.register_autograd("slowfast::depthwise", _backward, setup_context=_save_for_backward)


# ---- Frame by frame --------------------------------------------------------------------------


def convolve_over_time(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution of x by 2-D convolutions, for any dtype and kernel size.

    Each frame is convolved with each time step of the kernel, and the results are summed over time.

    Args:
        x: Shape (B, C, T, H, W), channels-last.
        weight: Shape (C, 1, size, size, size).
        bias: Shape (C,).
    """
    B, C, T = x.shape[:3]
    size = weight.shape[-1]
    center = size // 2
    frames = x.transpose(1, 2).flatten(0, 1)  # (B, C, T, H, W) -> (B*T, C, H, W), channels-last

    def convolve_frames(step: int, bias: Tensor | None) -> Tensor:
        kernel = weight[:, :, step].contiguous(memory_format=torch.channels_last)
        return F.conv2d(frames, kernel, bias, padding=center, groups=C).unflatten(0, (B, T))

    y = convolve_frames(center, bias)
    for step in range(size):
        shift = step - center  # Output frame t depends on input frame t + shift.
        if shift == 0 or abs(shift) >= T:
            continue
        z = convolve_frames(step, None)
        if shift > 0:
            y[:, :-shift] += z[:, shift:]
        else:
            y[:, -shift:] += z[:, :shift]
    return y.transpose(1, 2)  # (B, T, C, H, W) -> (B, C, T, H, W)
