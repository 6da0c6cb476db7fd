"""UniFormer written in the plain way, as a baseline: contiguous, a convolution for each 1x1x1, attention as products.

It has the parameter names of `slowfast.models.uniformer.UniFormer`, so that it loads the same weights.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Triple = tuple[int, int, int]


def materialized(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return attention (B, heads, N, head_dim) with the matrix of all pairs of tokens in memory."""
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the same attention from torch's own kernel."""
    return F.scaled_dot_product_attention(q, k, v)


class PlainEmbed(nn.Module):
    """A patch embedding: convolution, tokens, LayerNorm, and back."""

    def __init__(
        self, in_dim: int, dim: int, *, kernel: Triple, stride: Triple, padding: int
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Conv3d(in_dim, dim, kernel, stride, (padding, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, dim, T', H', W') of (B, in_dim, T, H, W)."""
        x = self.proj(x)
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(x.shape).contiguous()


class PlainAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, *, head_dim: int, attend: Attend) -> None:
        super().__init__()
        self.heads = dim // head_dim
        self.attend = attend
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, C) of (B, N, C)."""
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, head_dim)
        x = self.attend(q, k, v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


class PlainMlp(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.fc1 = first
        self.fc2 = second

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of x."""
        return self.fc2(F.gelu(self.fc1(x)))


class PlainLocalBlock(nn.Module):
    """A block of stages 1 and 2."""

    def __init__(self, dim: int, *, drop_path: float) -> None:
        super().__init__()
        self.pos_embed = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.BatchNorm3d(dim)
        self.conv1 = nn.Conv3d(dim, dim, 1)
        self.attn = nn.Conv3d(dim, dim, 5, padding=2, groups=dim)
        self.conv2 = nn.Conv3d(dim, dim, 1)
        self.norm2 = nn.BatchNorm3d(dim)
        self.mlp = PlainMlp(nn.Conv3d(dim, 4 * dim, 1), nn.Conv3d(4 * dim, dim, 1))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) of (B, C, T, H, W)."""
        x = x + self.pos_embed(x)
        local = self.conv2(self.attn(self.conv1(self.norm1(x))))
        x = x + self.drop_path(local)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PlainGlobalBlock(nn.Module):
    """A block of stages 3 and 4."""

    def __init__(self, dim: int, *, head_dim: int, drop_path: float, attend: Attend) -> None:
        super().__init__()
        self.pos_embed = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, head_dim=head_dim, attend=attend)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = PlainMlp(nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) of (B, C, T, H, W)."""
        x = x + self.pos_embed(x)
        tokens = x.flatten(2).transpose(1, 2)  # (B, C, T, H, W) -> (B, T*H*W, C)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.transpose(1, 2).reshape(x.shape).contiguous()


class PlainUniFormer(nn.Module):
    """The baseline.

    Args:
        num_classes: The number of classes.
        attend: What computes attention from q, k and v.
        dims: The channels of the four stages.
        depths: The blocks of the four stages.
        head_dim: The channels of an attention head.
        drop_path: The rate of the last block; it rises linearly from 0.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        attend: Attend,
        dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 8, 3),
        head_dim: int = 64,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        rates = torch.linspace(0, drop_path, sum(depths)).split(list(depths))
        in_dims = (3, *dims)
        for stage in range(4):
            kernel, stride, padding = (
                ((3, 4, 4), (2, 4, 4), 1) if stage == 0 else ((1, 2, 2), (1, 2, 2), 0)
            )
            embed = PlainEmbed(
                in_dims[stage], dims[stage], kernel=kernel, stride=stride, padding=padding
            )
            setattr(self, f"patch_embed{stage + 1}", embed)
            blocks = nn.ModuleList()
            for rate in rates[stage].tolist():
                if stage < 2:
                    blocks.append(PlainLocalBlock(dims[stage], drop_path=rate))
                else:
                    blocks.append(
                        PlainGlobalBlock(
                            dims[stage], head_dim=head_dim, drop_path=rate, attend=attend
                        ),
                    )
            setattr(self, f"blocks{stage + 1}", blocks)
        self.norm = nn.BatchNorm3d(dims[3])
        self.head = nn.Linear(dims[3], num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of frames (B, 3, T, H, W)."""
        x = frames
        for stage in range(1, 5):
            x = self.get_submodule(f"patch_embed{stage}")(x)
            for block in self.get_submodule(f"blocks{stage}").children():
                x = block(x)
        return self.head(self.norm(x).flatten(2).mean(dim=2))
