"""Rows: depthwise Conv3d, forward and backward, in each way that it can be computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_rows.numbers import relative_error
from benchmarks.gpu_rows.report import Result, verdict
from benchmarks.gpu_rows.setup import Setup
from benchmarks.gpu_rows.timing import median_seconds
from slowfast.models.depthwise import (
    Depthwise,
    can_use_triton,
    convolve,
    convolve_over_time,
    find_triton_problems,
)

Convolve = Callable[[Tensor, Tensor, Tensor], Tensor]  # Of x (B, C, T, H, W), weight and bias.

KERNELS = (3, 5)
LIMIT = 0.02  # Relative error in bf16, of the output and of each gradient.


# ---- The variants ----------------------------------------------------------------------------------------------------


def as_is(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve in channels-last order, with the algorithm that cuDNN expects to be the fastest."""
    return _Switched.apply(x, weight, bias, "benchmark", False)


def with_benchmark(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve in channels-last order, with the algorithm that cuDNN finds to be the fastest."""
    return _Switched.apply(x, weight, bias, "benchmark", True)


def native(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve contiguous copies with torch's own kernel."""
    y = _Switched.apply(x.contiguous(), weight.contiguous(), bias, "enabled", False)
    return y.contiguous(memory_format=torch.channels_last_3d)


def by_triton(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve with the kernels of the package, as the model does where Triton can be used."""
    if not x.is_cuda:
        raise RuntimeError("the kernels are those of a GPU")
    if not can_use_triton():
        raise RuntimeError("; ".join(find_triton_problems()))
    return convolve(x, weight, bias)


VARIANTS: dict[str, Convolve] = {
    "channels-last": as_is,
    "cudnn.benchmark": with_benchmark,
    "native, contiguous": native,
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
    """A depthwise convolution whose forward and backward pass both run with a switch of cuDNN set."""

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


# ---- The rows --------------------------------------------------------------------------------------------------------


def each_variant(setup: Setup) -> Iterator[Result]:
    """Check and time each variant for each shape and kernel, in bf16."""
    for shape in setup.depthwise_shapes:
        for size in KERNELS:
            yield from _variants_of(setup, shape, size)


def _variants_of(setup: Setup, shape: tuple[int, ...], size: int) -> Iterator[Result]:
    title = f"depthwise {size}x{size}x{size} of {tuple(shape)}, bf16"
    tensors = _tensors(setup, shape, size)
    gradient = torch.randn(shape, device=setup.device).to(torch.bfloat16)
    gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
    reference = _results(native, [tensor.double() for tensor in tensors], gradient.double())
    yield _check_reference(setup, tensors, size, title)

    for name, variant in VARIANTS.items():
        try:
            errors = [
                relative_error(result, expected)
                for result, expected in zip(
                    _results(variant, tensors, gradient), reference, strict=True
                )
            ]
        except RuntimeError as error:
            if variant is as_is:
                raise
            # A variant that a card cannot run is no fault of the model, which does not use it.
            yield Result(f"{title}, {name}", f"cannot run: {str(error)[:160]}")
            continue
        seconds = _seconds_of(setup, variant, tensors, gradient)
        measured = (
            f"forward {seconds['forward'] * 1000:.3g} ms, backward {seconds['backward'] * 1000:.3g} ms; errors of "
            f"output {errors[0]:.1e}, input gradient {errors[1]:.1e}, weight gradient {errors[2]:.1e}"
        )
        yield Result(f"{title}, {name}", measured, verdict(max(errors) <= LIMIT))


def _tensors(setup: Setup, shape: tuple[int, ...], size: int) -> list[Tensor]:
    generator = torch.Generator(setup.device).manual_seed(3)
    dim = shape[1]
    draw = partial(torch.randn, generator=generator, device=setup.device)
    x = draw(shape).contiguous(memory_format=torch.channels_last_3d)
    weight = (draw(dim, 1, size, size, size) / size**1.5).contiguous(
        memory_format=torch.channels_last_3d
    )
    return [x.bfloat16(), weight.bfloat16(), draw(dim).bfloat16()]


def _results(convolve: Convolve, tensors: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """The output and the gradients of x, weight and bias."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = convolve(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient)]


def _check_reference(setup: Setup, tensors: list[Tensor], size: int, title: str) -> Result:
    """Compare the reference, torch's own kernel in float64, with a CPU on a part of the clip."""
    x = tensors[0][:1, :8, :, :14, :14].double()
    parts = [x, tensors[1][:8].double(), tensors[2][:8].double()]
    gradient = torch.randn(x.shape, dtype=torch.float64, device=setup.device)
    on_device = _results(native, parts, gradient)
    on_cpu = _results(as_is, [tensor.cpu() for tensor in parts], gradient.cpu())
    error = max(relative_error(one, other) for one, other in zip(on_device, on_cpu, strict=True))
    return Result(
        f"{title}, reference in float64 against a CPU",
        f"relative error {error:.1e}",
        verdict(error <= 1e-9),
    )


def _seconds_of(
    setup: Setup, convolve: Convolve, tensors: list[Tensor], gradient: Tensor
) -> dict[str, float]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = convolve(*leaves)
    functions = {
        "forward": lambda: convolve(*leaves),
        "backward": lambda: torch.autograd.grad(y, leaves, gradient, retain_graph=True),
    }
    return median_seconds(
        setup.device, functions, seconds=setup.seconds / 10, calls=2, hides_host=True
    )


def runnable_variants(device: torch.device) -> dict[str, Convolve]:
    """Return the variants without Triton's where this process cannot use it."""
    has_triton = device.type == "cuda" and can_use_triton()
    return {
        name: variant
        for name, variant in VARIANTS.items()
        if variant is not by_triton or has_triton
    }


def use_variant(model: nn.Module, variant: Convolve | None) -> None:
    """Have the depthwise convolutions of a model computed in another way, or with None in the model's own."""
    for module in model.modules():
        if not isinstance(module, Depthwise):
            continue
        module.__dict__.pop("forward", None)
        if variant is not None:
            module.forward = partial(_convolved, module, variant)  # type: ignore[method-assign]


def _convolved(module: Depthwise, variant: Convolve, x: Tensor) -> Tensor:
    weight, bias = module.weight, module.bias
    assert bias is not None
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    return variant(x, weight, bias)
