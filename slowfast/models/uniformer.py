"""UniFormer for video: local blocks in stages 1 and 2, global attention over all space-time tokens in stages 3 and 4.

Activations stay in channels-last order, (B, T, H, W, C) in memory, from the first convolution to the head: convolutions
run fastest in it, and the tokens (B, T*H*W, C) that attention needs are a view of it, not a copy.

Attribute names are a file format: published weights load by them.

Source: Li et al., UniFormer: Unified Transformer for Efficient Spatiotemporal Representation Learning,
arXiv:2201.04676.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from slowfast.models.depthwise import Depthwise

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

# The published models use this in the attention blocks, but torch's default in the patch embeddings.
BlockNorm = partial(nn.LayerNorm, eps=1e-6)
SMALLEST_SIDE = 32  # pixels of a frame: one patch of the last stage


def to_tokens(x: Tensor) -> Tensor:
    """Return (B, C, T, H, W) as (B, T*H*W, C): a view where x is channels-last."""
    return x.flatten(2).transpose(1, 2)


def to_volume(tokens: Tensor, thw: Sequence[int]) -> Tensor:
    """Return (B, T*H*W, C) as (B, C, T, H, W), a channels-last view; the inverse of `to_tokens`."""
    return tokens.unflatten(1, tuple(thw)).permute(0, 4, 1, 2, 3)


class Pointwise(nn.Conv3d):
    """A 1x1x1 convolution, computed as a matrix product over the channels.

    torch's own convolution returns channels-first order for small batches on one CPU thread.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__(in_dim, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, dim, T, H, W) of (B, in_dim, T, H, W), channels-last."""
        return F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias).permute(
            0, 4, 1, 2, 3
        )


class PatchEmbed(nn.Module):
    """A strided convolution to fewer, wider tokens, and their LayerNorm."""

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
        self.proj = nn.Conv3d(in_dim, dim, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, dim, T', H', W') of (B, in_dim, T, H, W)."""
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
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, C) of (B, N, C)."""
        qkv = self.qkv(x).unflatten(
            2, (3, -1, self.head_dim)
        )  # (B, N, 3*C) -> (B, N, 3, heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, head_dim)
        dropout = self.attention_dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        return self.proj_drop(
            self.proj(x.transpose(1, 2).flatten(2))
        )  # (B, heads, N, head_dim) -> (B, N, C)


class Mlp(nn.Module):
    """Two layers with GELU between, `layer` making each: linear on tokens or 1x1x1 convolutions on volumes."""

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


class CBlock(nn.Module):
    """Local block: attention in a 5x5x5 neighborhood by a learnt, content-independent affinity."""

    def __init__(self, dim: int, *, mlp_ratio: float, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.pos_embed = Depthwise(dim, 3)
        self.norm1 = nn.BatchNorm3d(dim)
        self.conv1 = Pointwise(dim, dim)
        self.conv2 = Pointwise(dim, dim)
        self.attn = Depthwise(dim, 5)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.BatchNorm3d(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), layer=Pointwise, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) of (B, C, T, H, W)."""
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.conv2(self.attn(self.conv1(self.norm1(x)))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SABlock(nn.Module):
    """Global block: self-attention over all T*H*W tokens."""

    def __init__(
        self,
        dim: int,
        *,
        mlp_ratio: float,
        dropout: float,
        drop_path: float,
        attention: Callable[[int], Attention],
    ) -> None:
        super().__init__()
        self.pos_embed = Depthwise(dim, 3)
        self.norm1 = BlockNorm(dim)
        self.attn = attention(dim)
        self.drop_path = DropPath(drop_path)
        self.norm2 = BlockNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), layer=nn.Linear, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) of (B, C, T, H, W)."""
        x = x + self.pos_embed(x)
        tokens = to_tokens(x)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return to_volume(tokens, x.shape[2:])


class SplitSABlock(SABlock):
    """Global block, split: attention over time at each place, then over space at each time."""

    def __init__(
        self,
        dim: int,
        *,
        mlp_ratio: float,
        dropout: float,
        drop_path: float,
        attention: Callable[[int], Attention],
    ) -> None:
        super().__init__(
            dim, mlp_ratio=mlp_ratio, dropout=dropout, drop_path=drop_path, attention=attention
        )
        self.t_norm = BlockNorm(dim)
        self.t_attn = attention(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) of (B, C, T, H, W)."""
        x = x + self.pos_embed(x)
        B, _, T, H, W = x.shape
        spatial = (
            x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
        )  # (B, C, T, H, W) -> (B*T, H*W, C)
        temporal = x.permute(0, 3, 4, 2, 1).flatten(0, 2)  # (B, C, T, H, W) -> (B*H*W, T, C)
        temporal = temporal + self.drop_path(self.t_attn(self.t_norm(temporal)))
        temporal = (
            temporal.unflatten(0, (B, H * W)).transpose(1, 2).flatten(0, 1)
        )  # -> (B*T, H*W, C)
        # The residual is the input of the block: time reaches the output through the spatial attention alone.
        spatial = spatial + self.drop_path(self.attn(self.norm1(temporal)))
        tokens = spatial.reshape(B, T * H * W, -1)
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return to_volume(tokens, (T, H, W))


class UniFormer(nn.Module):
    """The video classifier.

    Args:
        num_classes: width of the head.
        dims: channels of the four stages.
        depths: blocks of the four stages.
        head_dim: channels of an attention head.
        mlp_ratio: hidden over outer channels of the feed-forward layers, of all stages or of each.
        qkv_bias: whether the query, key and value projection has a bias.
        qkv_scale: scale of the attention logits; None for head_dim ** -0.5.
        dropout: of embeddings, projections and feed-forward layers.
        attention_dropout: of attention weights.
        head_dropout: of the mean over all tokens, before the head.
        drop_path: rate of the last block; it rises linearly from 0 over all blocks.
        split: attention over time, then space, in the global blocks.
        overlap_time: patch embeddings 2 to 4 see three frames each (UNIFORMER.STD).
        recomputed: first n blocks of each stage whose activations are recomputed in the backward pass.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 8, 3),
        head_dim: int = 64,
        mlp_ratio: float | Sequence[float] = 4.0,
        qkv_bias: bool = True,
        qkv_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        head_dropout: float = 0.0,
        drop_path: float = 0.1,
        split: bool = False,
        overlap_time: bool = False,
        recomputed: Sequence[int] = (0, 0, 0, 0),
    ) -> None:
        super().__init__()
        self.recomputed = tuple(recomputed)
        attention = partial(
            Attention,
            head_dim=head_dim,
            qkv_bias=qkv_bias,
            qkv_scale=qkv_scale,
            dropout=dropout,
            attention_dropout=attention_dropout,
        )
        ratios = mlp_ratio if isinstance(mlp_ratio, Sequence) else [mlp_ratio] * 4
        local = partial(CBlock, dropout=dropout)
        attend = partial(SplitSABlock if split else SABlock, dropout=dropout, attention=attention)
        time_kernel, time_padding = (3, 1) if overlap_time else (1, 0)
        halve = partial(
            PatchEmbed, kernel=(time_kernel, 2, 2), stride=(1, 2, 2), padding=(time_padding, 0, 0)
        )

        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())

        def blocks_of(stage: int, block: Callable[..., nn.Module]) -> nn.ModuleList:
            settings = {"mlp_ratio": ratios[stage]}
            return nn.ModuleList(
                block(dims[stage], drop_path=next(rates), **settings) for _ in range(depths[stage])
            )

        self.patch_embed1 = PatchEmbed(
            3, dims[0], kernel=(3, 4, 4), stride=(2, 4, 4), padding=(1, 0, 0)
        )
        self.pos_drop = nn.Dropout(dropout)
        self.blocks1 = blocks_of(0, local)
        self.patch_embed2 = halve(dims[0], dims[1])
        self.blocks2 = blocks_of(1, local)
        self.patch_embed3 = halve(dims[1], dims[2])
        self.blocks3 = blocks_of(2, attend)
        self.patch_embed4 = halve(dims[2], dims[3])
        self.blocks4 = blocks_of(3, attend)
        self.norm = nn.BatchNorm3d(dims[3])
        self.head_drop = nn.Dropout(head_dropout)
        self.head = nn.Linear(dims[3], num_classes)

        self.apply(_init_linear)
        for name, parameter in self.named_parameters():
            # Attention over time starts as the identity: 0 from its value projection, so 0 added to its input.
            if ".t_attn." in name:
                nn.init.constant_(parameter, 1.0 if name.endswith("t_attn.proj.weight") else 0.0)
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of frames (B, 3, T, H, W).

        Raises:
            ValueError: the frames are smaller than one patch of the last stage.
        """
        if min(frames.shape[-2:]) < SMALLEST_SIDE:
            raise ValueError(
                f"UniFormer needs frames of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels, "
                f"not {tuple(frames.shape[-2:])}"
            )
        x = frames.contiguous(memory_format=torch.channels_last_3d)
        x = self._run(
            self.blocks1, self.pos_drop(self.patch_embed1(x)), recomputed=self.recomputed[0]
        )
        x = self._run(self.blocks2, self.patch_embed2(x), recomputed=self.recomputed[1])
        x = self._run(self.blocks3, self.patch_embed3(x), recomputed=self.recomputed[2])
        x = self._run(self.blocks4, self.patch_embed4(x), recomputed=self.recomputed[3])
        return self.head(self.head_drop(to_tokens(self.norm(x)).mean(dim=1)))

    def _run(self, blocks: nn.ModuleList, x: Tensor, *, recomputed: int) -> Tensor:
        for number, block in enumerate(blocks):
            if number < recomputed and self.training:
                contexts = partial(_statistics_once, block)
                x = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
            else:
                x = block(x)
        return x


def _statistics_once(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a first and of a repeated forward pass: the batch enters the running statistics once."""
    return nullcontext(), _buffers_kept(block)


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """Return in which layer each parameter of a UniFormer lies, from 0, the first patch embedding, up to the head.

    A later patch embedding counts with the first block of its stage, the last norm with the head. With n blocks, the
    head is layer n + 1.
    """
    first_of_stage, number = [], 1
    for stage in range(1, 5):
        first_of_stage.append(number)
        number += len(model.get_submodule(f"blocks{stage}"))  # type: ignore[arg-type]
    layers = {}
    for name, _ in model.named_parameters():
        part, _, rest = name.partition(".")
        stage = int(part[-1]) - 1 if part[-1].isdigit() else 0
        if part.startswith("blocks"):
            layers[name] = first_of_stage[stage] + int(rest.split(".")[0])
        elif part.startswith("patch_embed"):
            layers[name] = first_of_stage[stage] if stage else 0
        else:
            layers[name] = number
    return layers


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def find_uniformer_problems(cfg: "CfgNode") -> list[str]:
    """Return which crops of a config are too small for UniFormer, one sentence each."""
    sizes = {
        "DATA.TRAIN_CROP_SIZE": cfg.DATA.TRAIN_CROP_SIZE,
        "DATA.TEST_CROP_SIZE": cfg.DATA.TEST_CROP_SIZE,
    }
    return [
        f"{key} is {size}; {cfg.MODEL.MODEL_NAME} takes {SMALLEST_SIDE} or more"
        for key, size in sizes.items()
        if size < SMALLEST_SIDE
    ]


def build_uniformer(cfg: "CfgNode") -> UniFormer:
    """Return the UniFormer that a config describes, with random weights."""
    return UniFormer(
        num_classes=cfg.MODEL.NUM_CLASSES,
        dims=cfg.UNIFORMER.EMBED_DIM,
        depths=cfg.UNIFORMER.DEPTH,
        head_dim=cfg.UNIFORMER.HEAD_DIM,
        mlp_ratio=cfg.UNIFORMER.MLP_RATIO,
        qkv_bias=cfg.UNIFORMER.QKV_BIAS,
        qkv_scale=cfg.UNIFORMER.QKV_SCALE,
        dropout=cfg.UNIFORMER.DROPOUT_RATE,
        attention_dropout=cfg.UNIFORMER.ATTENTION_DROPOUT_RATE,
        head_dropout=cfg.UNIFORMER.HEAD_DROPOUT_RATE,
        drop_path=cfg.UNIFORMER.DROP_DEPTH_RATE,
        split=cfg.UNIFORMER.SPLIT,
        overlap_time=cfg.UNIFORMER.STD,
        recomputed=cfg.MODEL.CHECKPOINT_NUM if cfg.MODEL.USE_CHECKPOINT else (0, 0, 0, 0),
    )


_PARAMETERS = {  # of UniFormer, by the key of its section
    "EMBED_DIM": "dims",
    "DEPTH": "depths",
    "HEAD_DIM": "head_dim",
    "MLP_RATIO": "mlp_ratio",
    "QKV_BIAS": "qkv_bias",
    "QKV_SCALE": "qkv_scale",
    "DROPOUT_RATE": "dropout",
    "ATTENTION_DROPOUT_RATE": "attention_dropout",
    "HEAD_DROPOUT_RATE": "head_dropout",
    "DROP_DEPTH_RATE": "drop_path",
    "SPLIT": "split",
    "STD": "overlap_time",
}


def changed_keys(cfg: "CfgNode") -> dict[str, Any]:
    """Return the keys that UniFormer alone reads and that ask for another than the default, with their values."""
    defaults = signature(UniFormer).parameters
    pairs = {
        f"UNIFORMER.{key}": (cfg.UNIFORMER[key], defaults[name].default)
        for key, name in _PARAMETERS.items()
    }
    pairs["UNIFORMER.PRETRAIN_NAME"] = (cfg.UNIFORMER.PRETRAIN_NAME, "")
    pairs["MODEL.USE_CHECKPOINT"] = (cfg.MODEL.USE_CHECKPOINT, False)
    pairs["MODEL.CHECKPOINT_AUTO"] = (cfg.MODEL.CHECKPOINT_AUTO, False)
    pairs["MODEL.CHECKPOINT_NUM"] = (cfg.MODEL.CHECKPOINT_NUM, defaults["recomputed"].default)
    return {
        key: value
        for key, (value, default) in pairs.items()
        if (tuple(value) if isinstance(value, list) else value) != default
    }
