"""Layers of UniFormer on channels-last volumes: patch embedding, attention, MLP and drop path.

Attribute names are part of the file format of published weights.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast.models.linear import Linear, linear
from slowfast.models.other_tools import is_transformed


def to_tokens(x: Tensor) -> Tensor:
    """Return (B, C, T, H, W) as tokens (B, T*H*W, C), a view if x is channels-last."""
    return x.flatten(2).transpose(1, 2)


def to_volume(tokens: Tensor, thw: Sequence[int]) -> Tensor:
    """Return tokens (B, T*H*W, C) as (B, C, T, H, W), a channels-last view."""
    return tokens.unflatten(1, tuple(thw)).permute(0, 4, 1, 2, 3)


def trunc_normal_(weight: Tensor, *, std: float) -> None:
    """Fill a tensor in place from a normal distribution of mean 0, truncated to [-2, 2].

    The values are drawn with the inverse CDF, so that one uniform draw gives one value.
    """
    if weight.is_meta:  # It has no values, and erfinv of a meta tensor imports torch's compiler.
        return
    bound = math.erf(2 / (std * math.sqrt(2)))
    largest = 1 - 2**-24  # A draw of exactly 1 or -1 would give a weight of 2, 100 times `std`.
    with torch.no_grad():
        weight.uniform_(-bound, bound).clamp_(-largest, largest)
        weight.erfinv_().mul_(std * math.sqrt(2)).clamp_(-2, 2)


def init_linear(module: nn.Module) -> None:
    """Initialize a module in place if it is a linear layer, as all those of UniFormer are."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which operators compute in the dtype of their inputs."""
    is_known = torch.amp.is_autocast_available(device.type)  # not on the meta device
    if not (is_known and torch.is_autocast_enabled(device.type)):
        return nullcontext()  # An exported graph would hold the other context.
    return torch.autocast(device.type, enabled=False)


class DropPath(nn.Module):
    """Stochastic depth: in training, zeroes a residual branch for a random share of the samples.

    The other samples are scaled up, so that the expected value stays the same.

    Args:
        rate: Probability of zeroing a sample.

    Source: Huang et al., Deep Networks with Stochastic Depth, arXiv:1603.09382.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of x, (B, ...)."""
        if self.rate == 0 or not self.training:
            return x

        keep = 1 - self.rate
        is_kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(keep)
        return x * is_kept.div_(keep) if keep > 0 else x * is_kept


class Pointwise(nn.Conv3d):
    """A 1x1x1 convolution, computed as a matrix product over the channels.

    For small batches on one CPU thread, the convolution of torch returns channels-first order.

    Attributes:
        has_constant_weight: Whether the weight is a constant of a compiled graph.
    """

    has_constant_weight = False

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__(in_dim, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, dim, T, H, W) for (B, in_dim, T, H, W), channels-last."""
        x = x.permute(0, 2, 3, 4, 1)  # (B, C, T, H, W) -> (B, T, H, W, C)
        weight = self.weight.flatten(1)
        x = linear(x, weight, self.bias, is_constant=self.has_constant_weight)
        return x.permute(0, 4, 1, 2, 3)  # (B, T, H, W, C) -> (B, C, T, H, W)


class Convolution(nn.Conv3d):
    """A 3-D convolution that also uses oneDNN for a single clip on a CPU.

    torch has a kernel of its own for it, which takes up to four times as long and returns
    channels-first order.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', T', H', W') for (B, C, T, H, W)."""
        is_single = x.device.type == "cpu" and x.shape[0] == 1 and x.dtype == torch.float32
        if not is_single or not torch.backends.mkldnn.is_available() or _is_watched(x):
            return super().forward(x)
        assert not isinstance(self.padding, str)
        return torch.mkldnn_convolution(
            x,
            self.weight,
            self.bias,
            padding=self.padding,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
        )


def _is_watched(x: Tensor) -> bool:
    """Whether autocast or a tool that knows only plain operators sees the current call."""
    is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    is_fake = type(x) not in (Tensor, nn.Parameter)  # has a shape, but no values
    return is_recorded or is_fake or torch.is_autocast_enabled(x.device.type) or is_transformed()


class PatchEmbed(nn.Module):
    """A strided convolution to fewer and wider tokens, followed by a LayerNorm."""

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int],
        padding: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.proj = Convolution(in_dim, dim, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, dim, T', H', W') for (B, in_dim, T, H, W)."""
        x = self.proj(x)
        return to_volume(self.norm(to_tokens(x)), x.shape[2:])


class Attention(nn.Module):
    """Multi-head self-attention over all tokens of a sequence."""

    def __init__(
        self,
        dim: int,
        *,
        head_dim: int,
        qkv_bias: bool,
        qkv_scale: float | None,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.scale = qkv_scale
        self.attention_dropout = attention_dropout
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, C) for (B, N, C)."""
        return self.from_heads(self.attend(*self.to_heads(x)))

    def to_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values (B, heads, N, head_dim) of tokens (B, N, C)."""
        qkv = self.qkv(x).unflatten(2, (3, -1, self.head_dim))  # (B, N, 3, heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the values (B, heads, N, head_dim) that each query attends to."""
        dropout = self.attention_dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)

    def from_heads(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, C), projected, of what `attend` returned."""
        x = x.transpose(1, 2).flatten(2)  # (B, heads, N, head_dim) -> (B, N, C)
        return self.proj_drop(self.proj(x))


class Mlp(nn.Module):
    """Two layers with a GELU between them.

    Args:
        dim: Number of input and output channels.
        hidden_dim: Number of channels between the layers.
        layer: Class of both layers, Linear for tokens or Pointwise for volumes.
        dropout: Dropout rate after each layer.
    """

    def __init__(
        self, dim: int, hidden_dim: int, *, layer: Callable[[int, int], nn.Module], dropout: float
    ) -> None:
        super().__init__()
        self.fc1 = layer(dim, hidden_dim)
        self.act = nn.GELU()
        self.drop = nn.Dropout(dropout)
        self.fc2 = layer(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of x."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
