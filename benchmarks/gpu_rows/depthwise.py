"""Rows: forward and backward pass of a depthwise Conv3d in each of its implementations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_rows.relative_error import relative_error
from benchmarks.gpu_rows.report import Result, verdict
from benchmarks.gpu_rows.timing import median_seconds
from benchmarks.gpu_rows.workload import Workload
from slowfast.models.depthwise import (
    Depthwise,
    can_use_triton,
    convolve,
    convolve_over_time,
    find_triton_problems,
)

Convolve = Callable[[Tensor, Tensor, Tensor], Tensor]  # Takes x, weight and bias.

KERNEL_SIZES = (3, 5)
ERROR_LIMIT = 0.02  # Relative error of the output and of each gradient in bf16.


# ---- Variants --------------------------------------------------------------------------------


def by_cudnn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve channels-last with the algorithm that cuDNN expects to be the fastest."""
    return _Switched.apply(x, weight, bias, "benchmark", False)


def by_cudnn_benchmark(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve channels-last with the algorithm that cuDNN measures to be the fastest."""
    return _Switched.apply(x, weight, bias, "benchmark", True)


def by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve contiguous copies with the native kernel of torch."""
    y = _Switched.apply(x.contiguous(), weight.contiguous(), bias, "enabled", False)
    return y.contiguous(memory_format=torch.channels_last_3d)


def by_triton(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve with the Triton kernels of the package."""
    if not x.is_cuda:
        raise RuntimeError("the Triton kernels need a GPU")
    if not can_use_triton():
        raise RuntimeError("; ".join(find_triton_problems()))
    return convolve(x, weight, bias)


VARIANTS: dict[str, Convolve] = {
    "channels-last": by_cudnn,
    "cudnn.benchmark": by_cudnn_benchmark,
    "native, contiguous": by_torch,
    "2-D over time": convolve_over_time,
    "Triton": by_triton,
}


@contextmanager
def _cudnn(flag: str, value: bool) -> Iterator[None]:
    before = getattr(torch.backends.cudnn, flag)
    setattr(torch.backends.cudnn, flag, value)
    try:
        yield
    finally:
        setattr(torch.backends.cudnn, flag, before)


class _Switched(torch.autograd.Function):
    """A depthwise convolution with a cuDNN flag set in the forward and the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, flag: str, value: bool) -> Tensor:  # type: ignore[no-untyped-def]
        """Return the convolution."""
        ctx.save_for_backward(x, weight)
        ctx.flag, ctx.value = flag, value
        with _cudnn(flag, value):
            return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        dim, padding = len(weight), weight.shape[-1] // 2
        if x.is_contiguous():
            gradient = gradient.contiguous()
        with _cudnn(ctx.flag, ctx.value):
            gradients = torch.ops.aten.convolution_backward(
                gradient,
                x,
                weight,
                [dim],
                [1, 1, 1],
                [padding] * 3,
                [1, 1, 1],
                False,
                [0, 0, 0],
                dim,
                [True, True, True],
            )
        return (*gradients, None, None)


# ---- Rows ------------------------------------------------------------------------------------


def compare_variants(workload: Workload) -> Iterator[Result]:
    """Check and time each variant for each shape and kernel size.

    The dtype is bf16 on a GPU and fp32 on a CPU, where oneDNN's gradients in bf16 can be wrong.
    """
    for shape in workload.depthwise_shapes:
        for size in KERNEL_SIZES:
            yield from _compare_for_shape(workload, shape, size)


def _compare_for_shape(workload: Workload, shape: tuple[int, ...], size: int) -> Iterator[Result]:
    dtype = torch.bfloat16 if workload.is_gpu else torch.float32
    precision = "bf16" if workload.is_gpu else "fp32"
    title = f"depthwise {size}x{size}x{size} of {tuple(shape)}, {precision}"
    tensors = [tensor.to(dtype) for tensor in _tensors(workload, shape, size)]
    gradient = torch.randn(shape, device=workload.device).to(dtype)
    gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
    reference = _results(by_torch, [tensor.double() for tensor in tensors], gradient.double())
    yield _check_reference(workload, tensors, size, title)

    for name, variant in VARIANTS.items():
        try:
            results = _results(variant, tensors, gradient)
        except RuntimeError as error:
            if variant is by_cudnn:
                raise
            # The model does not use a variant that the GPU cannot run, so this is no failure.
            yield Result(f"{title}, {name}", f"cannot run: {str(error)[:160]}")
            continue
        pairs = zip(results, reference, strict=True)
        errors = [relative_error(result, expected) for result, expected in pairs]
        seconds = _measure(workload, variant, tensors, gradient)
        measured = (
            f"forward {seconds['forward'] * 1000:.3g} ms, "
            f"backward {seconds['backward'] * 1000:.3g} ms; errors of output {errors[0]:.1e}, "
            f"input gradient {errors[1]:.1e}, weight gradient {errors[2]:.1e}"
        )
        yield Result(f"{title}, {name}", measured, verdict(max(errors) <= ERROR_LIMIT))


def _tensors(workload: Workload, shape: tuple[int, ...], size: int) -> list[Tensor]:
    generator = torch.Generator(workload.device).manual_seed(3)
    dim = shape[1]
    draw = partial(torch.randn, generator=generator, device=workload.device)
    x = draw(shape).contiguous(memory_format=torch.channels_last_3d)
    weight = (draw(dim, 1, size, size, size) / size**1.5).contiguous(
        memory_format=torch.channels_last_3d
    )
    return [x, weight, draw(dim)]


def _results(convolve: Convolve, tensors: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """Return the output and the gradients of x, weight and bias."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = convolve(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient)]


def _check_reference(workload: Workload, tensors: list[Tensor], size: int, title: str) -> Result:
    """Compare the reference, the native kernel in float64, with a CPU on a crop of the clip."""
    x = tensors[0][:1, :8, :, :14, :14].double()
    crop = [x, tensors[1][:8].double(), tensors[2][:8].double()]
    gradient = torch.randn(x.shape, dtype=torch.float64, device=workload.device)

    on_device = _results(by_torch, crop, gradient)
    on_cpu = _results(by_cudnn, [tensor.cpu() for tensor in crop], gradient.cpu())
    error = max(relative_error(one, other) for one, other in zip(on_device, on_cpu, strict=True))
    title = f"{title}, reference in float64 against a CPU"
    return Result(title, f"relative error {error:.1e}", verdict(error <= 1e-9))


def _measure(
    workload: Workload, convolve: Convolve, tensors: list[Tensor], gradient: Tensor
) -> dict[str, float]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = convolve(*leaves)
    functions = {
        "forward": lambda: convolve(*leaves),
        "backward": lambda: torch.autograd.grad(y, leaves, gradient, retain_graph=True),
    }
    return median_seconds(
        workload.device, functions, seconds=workload.seconds / 10, calls=2, hides_host=True
    )


def runnable_variants(device: torch.device) -> dict[str, Convolve]:
    """Return the variants that run on a device, which are all except Triton on some."""
    has_triton = device.type == "cuda" and can_use_triton()
    if has_triton:
        return VARIANTS
    return {name: variant for name, variant in VARIANTS.items() if variant is not by_triton}


def use_variant(model: nn.Module, variant: Convolve | None) -> None:
    """Set the implementation of the depthwise convolutions of a model. None for its own."""
    for module in model.modules():
        if not isinstance(module, Depthwise):
            continue
        module.__dict__.pop("forward", None)
        if variant is not None:
            module.forward = partial(_convolve, module, variant)  # type: ignore[method-assign]


def _convolve(module: Depthwise, variant: Convolve, x: Tensor) -> Tensor:
    weight, bias = module.weight, module.bias
    assert bias is not None
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    return variant(x, weight, bias)
