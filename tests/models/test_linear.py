"""Linear layers by oneDNN, against torch's."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from slowfast.engine.recompute import kept_tensors
from slowfast.models.linear import Linear, linear


def draw(shape: tuple[int, ...], num_channels: int, *, has_bias: bool = True) -> list[Tensor]:
    torch.manual_seed(0)
    leaves = [torch.randn(*shape), torch.randn(num_channels, shape[-1])]
    leaves += [torch.randn(num_channels)] if has_bias else []
    return [leaf.requires_grad_() for leaf in leaves]


def run(function: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of all leaves."""
    y = function(*leaves) if len(leaves) == 3 else function(*leaves, None)
    dy = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y).sin()
    return [y, *torch.autograd.grad(y, leaves, dy)]


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "num_channels"),
    [((2, 100, 64), 192), ((64, 64), 64), ((1, 2, 5, 7, 96), 65), ((3, 333, 129), 320)],
)
def test_outputs_and_gradients_equal_float64(
    shape: tuple[int, ...], num_channels: int, has_bias: bool
) -> None:
    leaves = draw(shape, num_channels, has_bias=has_bias)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    found, expected = run(linear, leaves), run(F.linear, exact)
    assert "OneDnn" in str(found[0].grad_fn)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= 1e-6 * other.norm()


def test_frozen_weights_get_no_gradient_and_keep_no_input() -> None:
    leaves = draw((100, 64), 64)
    for leaf in leaves[1:]:
        leaf.requires_grad_(False)
    with kept_tensors() as kept:
        linear(*leaves)
    assert [tensor.shape for tensor in kept] == [(64, 64)]

    [gradient] = torch.autograd.grad(linear(*leaves).sum(), [leaves[0]])
    torch.testing.assert_close(gradient, leaves[1].sum(dim=0).expand(100, 64))


def test_non_contiguous_input_and_gradient() -> None:
    leaves = draw((90, 128, 2), 1)
    x = leaves[0].transpose(0, 2)  # (2, 128, 90)
    weight = torch.randn(64, 90)
    y = linear(x, weight, None)
    torch.testing.assert_close(y, x @ weight.t())
    dy = y.detach().transpose(1, 2).contiguous().transpose(1, 2)
    [gradient] = torch.autograd.grad(y, [x], dy)
    torch.testing.assert_close(gradient, y @ weight)
    [gradient] = torch.autograd.grad(linear(x, weight, None).sum(), [x])  # strides of 0
    torch.testing.assert_close(gradient, weight.sum(dim=0).expand_as(x))


def test_second_derivatives_are_those_of_torch() -> None:
    leaves = draw((70, 64), 64)

    def derive_twice(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        y = function(*leaves)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), leaves)

    for one, other in zip(derive_twice(linear), derive_twice(F.linear), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


@pytest.mark.parametrize(
    ("shape", "num_channels", "dtype"),
    [
        ((2, 512), 400, torch.float32),  # few rows
        ((100, 32), 64, torch.float32),  # few channels
        ((100, 64), 64, torch.float64),
    ],
)
def test_torch_computes_what_is_small_or_not_float32(
    shape: tuple[int, ...], num_channels: int, dtype: torch.dtype
) -> None:
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in draw(shape, num_channels)]
    assert "OneDnn" not in str(linear(*leaves).grad_fn)
    assert torch.equal(linear(*leaves), F.linear(*leaves))


def test_autocast_and_compilation_take_the_operator_of_torch() -> None:
    layer = Linear(64, 64)
    x = torch.randn(100, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16

    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    assert any("linear" in target for target in targets)
    assert not any("mkldnn" in target for target in targets)


def test_shapes_without_content_suffice() -> None:
    with FakeTensorMode():
        layer = Linear(64, 192)
        y = layer(torch.randn(2, 100, 64, requires_grad=True))
        assert "OneDnn" in str(y.grad_fn)
        assert y.shape == (2, 100, 192)
        y.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.shape == (192, 64)


def test_transforms_of_torch_func_run_it() -> None:
    x, weight, bias = (leaf.detach() for leaf in draw((100, 64), 64))

    def loss(weight: Tensor) -> Tensor:
        return linear(x, weight, bias).square().mean()

    expected = 2 * (x @ weight.t() + bias).t() @ x / 6400
    torch.testing.assert_close(torch.func.grad(loss)(weight), expected)
    change = torch.func.jvp(loss, (weight,), (torch.ones_like(weight),))[1]
    torch.testing.assert_close(change, expected.sum(), rtol=1e-4, atol=1e-4)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weight, torch.ones_like(weight))
        tangent = forward_ad.unpack_dual(loss(dual)).tangent
    torch.testing.assert_close(tangent, expected.sum(), rtol=1e-4, atol=1e-4)
