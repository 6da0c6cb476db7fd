"""UniFormer in its plain formulation, the baseline: contiguous tensors and plain convolutions.

Its parameters have the names of `slowfast.models.uniformer.UniFormer`, so that it loads the same
weights.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast.models.layers import DropPath

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Triple = tuple[int, int, int]


def attend_materialized(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return attention (B, heads, N, head_dim), with the scores of all token pairs in memory."""
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return attention (B, heads, N, head_dim) from the kernel of torch."""
    return F.scaled_dot_product_attention(q, k, v)


class PlainEmbed(nn.Module):
    """A patch embedding: a convolution and a LayerNorm over tokens."""

    def __init__(
        self, in_dim: int, dim: int, *, kernel: Triple, stride: Triple, padding: int
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Conv3d(in_dim, dim, kernel, stride, (padding, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, dim, T', H', W') for (B, in_dim, T, H, W)."""
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
        """Return (B, N, C) for (B, N, C)."""
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # Each (B, heads, N, head_dim)
        x = self.attend(q, k, v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


class PlainMlp(nn.Module):
    """Two layers with a GELU between them."""

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
        """Return (B, C, T, H, W) for (B, C, T, H, W)."""
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
        """Return (B, C, T, H, W) for (B, C, T, H, W)."""
        x = x + self.pos_embed(x)
        tokens = x.flatten(2).transpose(1, 2)  # (B, C, T, H, W) -> (B, T*H*W, C)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.transpose(1, 2).reshape(x.shape).contiguous()


class PlainUniFormer(nn.Module):
    """The plain video classifier.

    Args:
        num_classes: Number of classes.
        attend: Function that computes attention from q, k and v.
        dims: Number of channels in each of the four stages.
        depths: Number of blocks in each of the four stages.
        head_dim: Number of channels in an attention head.
        drop_path: Drop path rate of the last block. The rate rises linearly from 0.
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
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").split(list(depths))
        local_block = PlainLocalBlock
        global_block = partial(PlainGlobalBlock, head_dim=head_dim, attend=attend)

        for stage, in_dim in enumerate((3, *dims[:3])):
            block: Callable[..., nn.Module] = local_block if stage < 2 else global_block
            blocks = [block(dims[stage], drop_path=rate) for rate in rates[stage].tolist()]
            setattr(self, f"patch_embed{stage + 1}", _plain_embed(stage, in_dim, dims[stage]))
            setattr(self, f"blocks{stage + 1}", nn.ModuleList(blocks))
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


def _plain_embed(stage: int, in_dim: int, dim: int) -> PlainEmbed:
    if stage == 0:
        return PlainEmbed(in_dim, dim, kernel=(3, 4, 4), stride=(2, 4, 4), padding=1)
    return PlainEmbed(in_dim, dim, kernel=(1, 2, 2), stride=(1, 2, 2), padding=0)
