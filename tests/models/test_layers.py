"""Layers of UniFormer against timm, against formulas and in their memory layout."""

from functools import partial
from typing import Any

import pytest
import timm.layers
import torch
from torch import Tensor, nn

from slowfast.models.layers import Attention, Convolution, DropPath, trunc_normal_


@pytest.mark.parametrize("std", [0.02, 1.0, 3.0])
@pytest.mark.parametrize("shape", [(7,), (64, 192), (3, 5, 2)])
def test_trunc_normal_draws_the_values_of_timm(std: float, shape: tuple[int, ...]) -> None:
    ours, theirs = torch.empty(shape), torch.empty(shape)
    torch.manual_seed(3)
    trunc_normal_(ours, std=std)
    torch.manual_seed(3)
    timm.layers.trunc_normal_(theirs, std=std)
    if std == 0.02:  # The models use this value.
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert ours.abs().max() <= 2


def test_a_draw_at_the_bound_gives_no_huge_weight() -> None:
    torch.manual_seed(84)
    draws = torch.empty(1 << 17).uniform_(-1, 1)
    assert draws.min() == -1  # One in 2**24 draws is the bound itself.
    torch.manual_seed(84)
    weight = torch.empty(1 << 17)
    trunc_normal_(weight, std=0.02)
    assert weight.abs().max() < 0.12


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(16, 5, 4), (16, 4, 2, 3, 3)])
def test_drop_path_drops_what_timm_drops(
    rate: float, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape).to(dtype)
    ours, theirs = DropPath(rate), timm.layers.DropPath(rate)
    torch.manual_seed(3)
    dropped = ours(x)
    torch.manual_seed(3)
    assert torch.equal(dropped, theirs(x))
    assert torch.equal(ours.eval()(x), x)


def attention_by_formula(attention: Attention, x: Tensor, *, scale: float) -> Tensor:
    """Attention written out as an oracle: softmax(q k^T * scale) v."""
    B, N, C = x.shape
    head_dim = attention.head_dim
    qkv = attention.qkv(x).reshape(B, N, 3, C // head_dim, head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) * scale).softmax(dim=-1)
    return attention.proj((weights @ v).transpose(1, 2).reshape(B, N, C))


def build_attention(**settings: Any) -> Attention:
    defaults = {"head_dim": 8, "qkv_bias": True, "qkv_scale": None}
    rates = {"dropout": 0.0, "attention_dropout": 0.0}
    return Attention(16, **{**defaults, **rates, **settings})


@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_equals_its_formula(scale: float | None) -> None:
    torch.manual_seed(0)
    attention = build_attention(qkv_scale=scale)
    nn.init.normal_(attention.qkv.bias)
    x = torch.randn(2, 12, 16)
    expected = attention_by_formula(attention, x, scale=scale if scale else 8**-0.5)
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-6)


def test_dropout_acts_only_in_training() -> None:
    torch.manual_seed(0)
    attention = build_attention(dropout=0.5, attention_dropout=0.5)
    tokens = torch.randn(1, 6, 16)
    assert not torch.equal(attention.train()(tokens), attention(tokens))
    assert torch.equal(attention.eval()(tokens), attention(tokens))


@pytest.mark.parametrize("num_clips", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3, 3), (1, 2, 2), 1), ((1, 2, 2), (1, 2, 2), 0), ((3, 4, 4), (2, 4, 4), (1, 0, 0))],
)
def test_a_convolution_is_torchs_in_channels_last_order(
    num_clips: int, kernel: Any, stride: Any, padding: Any
) -> None:
    torch.manual_seed(0)
    order = torch.channels_last_3d
    convolution = Convolution(3, 8, kernel, stride, padding).to(memory_format=order)
    frames = torch.randn(num_clips, 3, 5, 33, 32).contiguous(memory_format=order).requires_grad_()
    results = []
    for forward in (convolution.forward, partial(nn.Conv3d.forward, convolution)):
        y = forward(frames)
        y.square().sum().backward()
        leaves = (frames, convolution.weight, convolution.bias)
        results.append((y.detach(), *(leaf.grad.clone() for leaf in leaves)))  # type: ignore[union-attr]
        frames.grad = None
        convolution.zero_grad()
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
    assert results[0][0].is_contiguous(memory_format=order)


def test_other_tools_see_a_plain_convolution() -> None:
    convolution, frames = Convolution(3, 8, 3, 2, 1), torch.randn(1, 3, 4, 16, 16)
    graph = torch.export.export(convolution, (frames,)).graph
    assert any("aten.conv3d" in str(node.target) for node in graph.nodes)
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(frames).dtype == torch.bfloat16
    result = torch.func.vmap(convolution)(frames[None])
    torch.testing.assert_close(result[0], convolution(frames), rtol=1e-5, atol=1e-5)
