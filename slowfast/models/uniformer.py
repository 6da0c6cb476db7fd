"""UniFormer for video: local blocks in stages 1 and 2, global space-time attention in 3 and 4.

Activations stay in channels-last order, (B, T, H, W, C) in memory, from the first convolution to
the head. Convolutions run fastest in this order, and the tokens (B, T*H*W, C) for attention are a
view of it instead of a copy.

Attribute names are part of the file format of published weights.

Source: Li et al., UniFormer: Unified Transformer for Efficient Spatiotemporal Representation
Learning, arXiv:2201.04676.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from slowfast.models.depthwise import Depthwise
from slowfast.models.heads import HEAD_MODULES, check_kind, make_classifier, make_pool
from slowfast.models.layers import (
    Attention,
    DropPath,
    Mlp,
    PatchEmbed,
    Pointwise,
    init_linear,
    to_tokens,
    to_volume,
)
from slowfast.models.linear import Linear
from slowfast.models.recomputation import run_block

# The published models use this eps in the attention blocks, but torch's in the patch embeddings.
BlockNorm = partial(nn.LayerNorm, eps=1e-6)
MIN_FRAME_SIDE = 32  # Pixels, one patch of the last stage.


def check_frame_size(frames: Tensor) -> None:
    """Raise ValueError if frames (B, C, T, H, W) are smaller than one patch of the last stage."""
    if min(frames.shape[-2:]) < MIN_FRAME_SIDE:
        raise ValueError(
            f"UniFormer needs frames of at least {MIN_FRAME_SIDE}x{MIN_FRAME_SIDE} pixels, "
            f"not {tuple(frames.shape[-2:])}"
        )


# ---- Blocks ----------------------------------------------------------------------------------


class CBlock(nn.Module):
    """Local block: attention in a 5x5x5 neighborhood with a learned affinity."""

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
        """Return (B, C, T, H, W) for (B, C, T, H, W)."""
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
        self.mlp = Mlp(dim, int(dim * mlp_ratio), layer=Linear, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) for (B, C, T, H, W)."""
        x = x + self.pos_embed(x)
        tokens = to_tokens(x)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return to_volume(tokens, x.shape[2:])


class SplitSABlock(SABlock):
    """Split global block: attention over time at each position, then over space in each frame."""

    def __init__(
        self, dim: int, *, attention: Callable[[int], Attention], **settings: float
    ) -> None:
        super().__init__(dim, attention=attention, **settings)
        self.t_norm = BlockNorm(dim)
        self.t_attn = attention(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) for (B, C, T, H, W)."""
        x = x + self.pos_embed(x)
        B, _, T, H, W = x.shape

        temporal = x.permute(0, 3, 4, 2, 1).flatten(0, 2)  # (B, C, T, H, W) -> (B*H*W, T, C)
        temporal = temporal + self.drop_path(self.t_attn(self.t_norm(temporal)))
        temporal = temporal.unflatten(0, (B, H * W)).transpose(1, 2)
        temporal = temporal.flatten(0, 1)  # (B, T, H*W, C) -> (B*T, H*W, C)

        # The residual is the input of the block. The attention over time therefore reaches the
        # output only through the attention over space.
        spatial = x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)  # (B*T, H*W, C)
        spatial = spatial + self.drop_path(self.attn(self.norm1(temporal)))

        tokens = spatial.reshape(B, T * H * W, -1)
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return to_volume(tokens, (T, H, W))


# ---- Model -----------------------------------------------------------------------------------


class UniFormer(nn.Module):
    """The video classifier.

    Attributes:
        num_classes: Number of classes, 0 for a model that returns features.
        num_features: Number of channels C of the last stage and of the pooled features.
        default_cfg: Clips that the weights were trained for, see `slowfast.create_model`. It is
            empty for a model that was built without them.

    Args:
        num_classes: Number of classes. With 0, `forward` returns the pooled features.
        in_chans: Number of channels of the frames.
        dims: Number of channels in each of the four stages.
        depths: Number of blocks in each of the four stages.
        head_dim: Number of channels in an attention head.
        mlp_ratio: Hidden over outer channels of the MLPs, for all stages or for each one.
        qkv_bias: Whether the query, key and value projection has a bias.
        qkv_scale: Scale of the attention logits. None for head_dim ** -0.5.
        dropout: Dropout rate of embeddings, projections and MLPs.
        attention_dropout: Dropout rate of the attention weights.
        head_dropout: Dropout rate of the mean over all tokens, before the head.
        drop_path: Drop path rate of the last block. The rate rises linearly from 0 over all blocks.
        split: Whether global blocks attend over time first, then over space (UNIFORMER.SPLIT).
        overlap_time: Whether patch embeddings 2 to 4 span three frames each (UNIFORMER.STD).
        recomputed: Number of leading blocks in each stage that recompute their activations in the
            backward pass.
        head: Kind of the head: linear, mlp or attentive, see `slowfast.models.heads.Head`.
    """

    first_conv = "patch_embed1.proj"
    head_modules = HEAD_MODULES
    head: Any  # A linear layer, an MLP or the identity.

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int = 3,
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
        head: str = "linear",
    ) -> None:
        super().__init__()
        check_kind(head)
        self.num_classes = num_classes
        self.num_features = dims[3]
        self.default_cfg: dict[str, Any] = {}
        self.recomputed = tuple(recomputed)
        self.head_kind = head

        attention = partial(
            Attention,
            head_dim=head_dim,
            qkv_bias=qkv_bias,
            qkv_scale=qkv_scale,
            dropout=dropout,
            attention_dropout=attention_dropout,
        )
        local_block = partial(CBlock, dropout=dropout)
        global_block = partial(
            SplitSABlock if split else SABlock, dropout=dropout, attention=attention
        )
        ratios = mlp_ratio if isinstance(mlp_ratio, Sequence) else [mlp_ratio] * 4
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())

        def build_blocks(stage: int, block: Callable[..., nn.Module]) -> nn.ModuleList:
            build_block = partial(block, dims[stage], mlp_ratio=ratios[stage])
            return nn.ModuleList(build_block(drop_path=next(rates)) for _ in range(depths[stage]))

        time_kernel, time_padding = (3, 1) if overlap_time else (1, 0)
        downsample = partial(
            PatchEmbed, kernel=(time_kernel, 2, 2), stride=(1, 2, 2), padding=(time_padding, 0, 0)
        )

        self.patch_embed1 = PatchEmbed(
            in_chans, dims[0], kernel=(3, 4, 4), stride=(2, 4, 4), padding=(1, 0, 0)
        )
        self.pos_drop = nn.Dropout(dropout)
        self.blocks1 = build_blocks(0, local_block)
        self.patch_embed2 = downsample(dims[0], dims[1])
        self.blocks2 = build_blocks(1, local_block)
        self.patch_embed3 = downsample(dims[1], dims[2])
        self.blocks3 = build_blocks(2, global_block)
        self.patch_embed4 = downsample(dims[2], dims[3])
        self.blocks4 = build_blocks(3, global_block)
        self.norm = nn.BatchNorm3d(dims[3])
        self.pool = make_pool(head, num_features=dims[3])
        self.head_drop = nn.Dropout(head_dropout)
        self.head = make_classifier(head, num_features=dims[3], num_classes=num_classes)

        self.apply(init_linear)
        self._init_attention_over_time()
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of frames (B, in_chans, T, H, W).

        Without classes, it returns the pooled features (B, num_features).

        Raises:
            ValueError: If the frames are smaller than one patch of the last stage.
        """
        return self.forward_head(self.forward_features(frames))

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return the normalized output (B, C, T', H', W') of the last stage."""
        return self.norm(self.forward_stages(frames)[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, num_classes) of what `forward_features` returned.

        Args:
            x: Shape (B, C, T', H', W').
            pre_logits: Whether to return the pooled features (B, C) instead.
        """
        x = self.head_drop(self.pool(to_tokens(x)))
        return x if pre_logits else self.head(x)

    def forward_stages(self, frames: Tensor) -> list[Tensor]:
        """Return the output of each of the four stages, (B, C, T', H', W'), before the last norm.

        Raises:
            ValueError: If the frames are smaller than one patch of the last stage.
        """
        check_frame_size(frames)
        x = frames.contiguous(memory_format=torch.channels_last_3d)
        x = self.pos_drop(self.patch_embed1(x))
        x1 = self._run(self.blocks1, x, num_recomputed=self.recomputed[0])
        x2 = self._run(self.blocks2, self.patch_embed2(x1), num_recomputed=self.recomputed[1])
        x3 = self._run(self.blocks3, self.patch_embed3(x2), num_recomputed=self.recomputed[2])
        x4 = self._run(self.blocks4, self.patch_embed4(x3), num_recomputed=self.recomputed[3])
        return [x1, x2, x3, x4]

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by one with random weights, on the same device.

        Args:
            num_classes: Number of classes. With 0, `forward` returns the pooled features.
        """
        classifier = make_classifier(
            self.head_kind, num_features=self.num_features, num_classes=num_classes
        )
        self.head = classifier.apply(init_linear).to(self.norm.weight)
        self.num_classes = num_classes

    def _run(self, blocks: nn.ModuleList, x: Tensor, *, num_recomputed: int) -> Tensor:
        for index, block in enumerate(blocks):
            is_recomputed = self.training and index < num_recomputed
            x = run_block(block, x, is_recomputed=is_recomputed)
        return x

    def _init_attention_over_time(self) -> None:
        # With a value projection of 0, attention over time adds 0: it starts as the identity.
        for name, parameter in self.named_parameters():
            if ".t_attn." in name:
                nn.init.constant_(parameter, 1.0 if name.endswith("t_attn.proj.weight") else 0.0)


# Parts of a light model before the blocks of a stage, beside the patch embeddings.
_BEFORE_STAGE = {"cls_token": 3, "cls_upsample": 4}


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter of a UniFormer or light UniFormer by name.

    Layer 0 is the first patch embedding. Each block is a layer, and what comes before the blocks of
    a later stage belongs to the first of them. With n blocks, the last norms and the heads are
    layer n + 1.
    """
    first_layers, num_layers = [], 1
    for stage in range(1, 5):
        first_layers.append(num_layers)
        num_layers += len(model.get_submodule(f"blocks{stage}"))  # type: ignore[arg-type]

    layers = {}
    for name, _ in model.named_parameters():
        module, _, rest = name.partition(".")
        if module == "patch_embed1":
            layers[name] = 0
        elif module.startswith("patch_embed"):
            layers[name] = first_layers[int(module[-1]) - 1]
        elif module in _BEFORE_STAGE:
            layers[name] = first_layers[_BEFORE_STAGE[module] - 1]
        elif module.startswith("blocks"):
            layers[name] = first_layers[int(module[-1]) - 1] + int(rest.split(".")[0])
        else:
            layers[name] = num_layers
    return layers
