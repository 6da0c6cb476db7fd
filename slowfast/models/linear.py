"""Linear layers that use oneDNN's matrix products on a CPU, where torch would use MKL's."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast.models.other_tools import is_transformed

# Below these sizes, the call itself takes longer than the product saves.
_MIN_ROWS = 64
_MIN_CHANNELS = 64


class Linear(nn.Linear):
    """A linear layer.

    Attributes:
        has_constant_weight: Whether the weight is a constant of a compiled graph.
    """

    has_constant_weight = False

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features) for (..., in_features)."""
        return linear(x, self.weight, self.bias, is_constant=self.has_constant_weight)


def make_weights_constant(model: nn.Module) -> None:
    """Tell the linear layers of a model that graphs may have their weights as constants.

    torch.compile then multiplies by oneDNN as well, which takes no other weights.
    """
    if _find_product() is None:
        return
    for module in model.modules():
        if hasattr(module, "has_constant_weight"):
            vars(module)["has_constant_weight"] = True


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, is_constant: bool = False) -> Tensor:
    """Return `torch.nn.functional.linear`, by oneDNN for large float32 tensors on a CPU.

    Other graphs that are compiled, exported or traced have torch's operator, which all tools know.

    Args:
        x: Shape (..., K).
        weight: Shape (N, K).
        bias: Shape (N,), or None.
        is_constant: Whether weight and bias are constants if torch.compile traces the call.

    Returns:
        A tensor of shape (..., N).
    """
    is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if (is_recorded and not is_constant) or not _suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    if is_recorded:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    if _find_product() is None or is_transformed():
        return F.linear(x, weight, bias)
    return _OneDnnLinear.apply(x, weight, bias)


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and min(weight.shape) >= _MIN_CHANNELS
        and x.numel() >= _MIN_ROWS * weight.shape[1]
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def _find_product() -> Callable[..., Tensor] | None:
    """Return the operator by which torch.compile runs linear layers, if torch was built with it."""
    if not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = _find_product()
    assert product is not None
    return product(x, weight, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    """A linear layer by oneDNN, and the gradient of its input. MKL is as fast for the weight's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output of the layer."""
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = dy.flatten(0, -2)  # (..., N) -> (M, N)

        dx = None
        if needs_x and torch.is_grad_enabled():  # for second derivatives
            dx = dy @ weight
        elif needs_x:
            dx = _multiply(dy, weight.t())
        dweight = rows.t() @ x.flatten(0, -2) if needs_weight else None
        return dx, dweight, rows.sum(dim=0) if needs_bias else None
