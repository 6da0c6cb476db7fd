"""Video models of torchvision with the methods of timm's models: features, heads and stages.

The names of weights, and the logits to the bit, are those of torchvision. Importing this module
imports torchvision, which takes seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import video
from torchvision.models.video import mvit, resnet

from slowfast.models.layers import to_tokens, to_volume

_MVIT_DEPTHS = (1, 2, 11, 2)  # Number of blocks in each of the four stages.


class _Baseline(nn.Module):
    """The methods that the baselines share.

    Attributes:
        num_classes: Number of classes, 0 for a model that returns features.
        num_features: Number of channels C of the last stage and of the pooled features.
        default_cfg: Clips that the weights were trained for, see `slowfast.create_model`.
        first_conv: Name of the first convolution.
        head_modules: Names of the modules that belong to the head.
    """

    num_features: int
    first_conv: str
    head_modules: tuple[str, ...]
    # Modules of torchvision.
    avgpool: Any
    blocks: Any
    classifier: Any
    conv_proj: Any
    fc: Any
    features: Any
    head: Any
    layer1: Any
    layer2: Any
    layer3: Any
    layer4: Any
    norm: Any
    patch_embed: Any
    pos_drop: Any
    pos_encoding: Any
    stem: Any

    def _finish(self, *, num_classes: int, in_chans: int) -> None:
        """Set what torchvision does not know, after its constructor."""
        self.num_classes = max(num_classes, 1)
        self.default_cfg: dict[str, Any] = {}
        if in_chans != 3 and self._first_conv().in_channels == 3:
            self.set_submodule(self.first_conv, _with_channels(self._first_conv(), in_chans))
        if num_classes == 0:
            self.reset_classifier(0)

    def _first_conv(self) -> nn.Conv3d:
        return self.get_submodule(self.first_conv)  # type: ignore[return-value]

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of frames (B, in_chans, T, H, W).

        Without classes, it returns the pooled features (B, num_features).
        """
        return self.forward_head(self.forward_features(frames))

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return the output (B, C, T', H', W') of the last stage, normalized if the model does."""
        return self.forward_stages(frames)[-1]

    def forward_stages(self, frames: Tensor) -> list[Tensor]:
        """Return the output of each stage, (B, C, T', H', W')."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, num_classes) of what `forward_features` returned.

        Args:
            x: Shape (B, C, T', H', W').
            pre_logits: Whether to return the pooled features (B, C) instead.
        """
        raise NotImplementedError

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by one with random weights, on the same device.

        Args:
            num_classes: Number of classes. With 0, `forward` returns the pooled features.
        """
        raise NotImplementedError


def _with_channels(conv: nn.Conv3d, in_chans: int) -> nn.Conv3d:
    """Return a convolution with random weights that differs only in its input channels."""
    return nn.Conv3d(
        in_chans,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )


def _linear(num_features: int, num_classes: int, *, std: float, like: Tensor) -> nn.Module:
    """Return a linear classifier, or the identity without classes."""
    if num_classes == 0:
        return nn.Identity()
    layer = nn.Linear(num_features, num_classes)
    nn.init.trunc_normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer.to(like)


# ---- Convolutional models --------------------------------------------------------------------


class VideoResNet(_Baseline, video.VideoResNet):
    """R3D-18, MC3-18 or R(2+1)D-18.

    Args:
        conv_makers: Convolution of each of the four stages.
        stem: Class of the layers before the first stage.
        num_classes: Number of classes.
        in_chans: Number of channels of the frames.

    Source: Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition,
    arXiv:1711.11248.
    """

    num_features = 512
    first_conv = "stem.0"
    head_modules = ("fc",)

    def __init__(
        self,
        conv_makers: Sequence[type[nn.Module]],
        stem: Callable[[], nn.Sequential],
        *,
        num_classes: int,
        in_chans: int = 3,
    ) -> None:
        def make_stem() -> nn.Sequential:
            # torchvision initializes the convolutions after it has built the stem.
            layers = stem()
            if in_chans != 3:
                layers[0] = _with_channels(layers[0], in_chans)  # type: ignore[arg-type]
            return layers

        blocks = (resnet.BasicBlock, conv_makers, [2, 2, 2, 2])
        super().__init__(*blocks, make_stem, num_classes=max(num_classes, 1))
        self._finish(num_classes=num_classes, in_chans=in_chans)

    def forward_stages(self, frames: Tensor) -> list[Tensor]:
        """Return the output of each of the four stages, (B, C, T', H', W')."""
        x1 = self.layer1(self.stem(frames))
        x2 = self.layer2(x1)
        x3 = self.layer3(x2)
        return [x1, x2, x3, self.layer4(x3)]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, num_classes), or the pooled features (B, C) before them."""
        x = self.avgpool(x).flatten(1)
        return x if pre_logits else self.fc(x)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by one with random weights, or remove it with 0 classes."""
        like = self.layer4[0].conv1[1].weight
        self.fc = _linear(self.num_features, num_classes, std=0.01, like=like)
        self.num_classes = num_classes


class S3D(_Baseline, video.S3D):
    """S3D. Its classifier is a convolution, and the logits are averaged.

    The pooled features are the mean of what the classifier takes, so a classifier on them gives the
    same logits up to rounding.

    Args:
        num_classes: Number of classes.
        in_chans: Number of channels of the frames.

    Source: Xie et al., Rethinking Spatiotemporal Feature Learning, arXiv:1712.04851.
    """

    num_features = 1024
    first_conv = "features.0.0.0"
    head_modules = ("classifier",)
    _stage_ends = (3, 6, 12, 15)  # Index of the last layer of each stage, before a pooling.

    def __init__(self, *, num_classes: int, in_chans: int = 3) -> None:
        super().__init__(num_classes=max(num_classes, 1))
        self._finish(num_classes=num_classes, in_chans=in_chans)

    def forward_stages(self, frames: Tensor) -> list[Tensor]:
        """Return the output before each pooling over space and time, and the last one."""
        x, volumes = frames, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self._stage_ends:
                volumes.append(x)
        return volumes

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, num_classes), or the pooled features (B, C) before them."""
        layers = self.classifier[:1] if pre_logits else self.classifier
        return layers(self.avgpool(x)).mean(dim=(2, 3, 4))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by one with random weights, or remove it with 0 classes."""
        layer: nn.Module = nn.Identity()
        if num_classes:
            like = self.features[3][0][1].weight
            layer = nn.Conv3d(self.num_features, num_classes, kernel_size=1).to(like)
        self.classifier[1] = layer
        self.num_classes = num_classes


# ---- Transformers ----------------------------------------------------------------------------


class SwinTransformer3d(_Baseline, video.SwinTransformer3d):
    """Video Swin Transformer.

    Args:
        embed_dim: Number of channels of the first stage.
        depths: Number of blocks in each of the four stages.
        num_heads: Number of attention heads in each of the four stages.
        num_classes: Number of classes.
        in_chans: Number of channels of the frames.

    Source: Liu et al., Video Swin Transformer, arXiv:2106.13230.
    """

    first_conv = "patch_embed.proj"
    head_modules = ("head",)

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        num_classes: int,
        in_chans: int = 3,
    ) -> None:
        super().__init__(
            patch_size=[2, 4, 4],
            embed_dim=embed_dim,
            depths=list(depths),
            num_heads=list(num_heads),
            window_size=[8, 7, 7],
            stochastic_depth_prob=0.1,
            num_classes=max(num_classes, 1),
        )
        self._finish(num_classes=num_classes, in_chans=in_chans)

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return the normalized output (B, C, T', H', W') of the last stage."""
        x = self.forward_stages(frames)[-1].permute(0, 2, 3, 4, 1)  # (B, T', H', W', C)
        return self.norm(x).permute(0, 4, 1, 2, 3)

    def forward_stages(self, frames: Tensor) -> list[Tensor]:
        """Return the output (B, C, T', H', W') of each of the four stages, before the norm."""
        x = self.pos_drop(self.patch_embed(frames))  # (B, T', H', W', C)
        volumes = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index % 2 == 0:  # Stages alternate with poolings.
                volumes.append(x.permute(0, 4, 1, 2, 3))
        return volumes

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, num_classes), or the pooled features (B, C) before them."""
        x = self.avgpool(x).flatten(1)
        return x if pre_logits else self.head(x)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by one with random weights, or remove it with 0 classes."""
        self.head = _linear(self.num_features, num_classes, std=0.02, like=self.norm.weight)
        self.num_classes = num_classes


class MViT(_Baseline, video.MViT):
    """MViT-B or MViTv2-S for clips of one size.

    It classifies a class token, which a volume has no room for. The result of `forward_features`
    carries it as the attribute `class_token`, and `forward_head` takes it from there. An operation
    on the volume loses it, and `forward_head` then raises.

    Args:
        is_v2: Whether to build MViTv2-S.
        num_classes: Number of classes.
        num_frames: Number of frames in a clip, an even number.
        crop_size: Height and width of a clip in pixels, a multiple of 32.
        in_chans: Number of channels of the frames.

    Source: Fan et al., Multiscale Vision Transformers, arXiv:2104.11227. Li et al., MViTv2,
    arXiv:2112.01526.
    """

    num_features = 768
    first_conv = "conv_proj"
    head_modules = ("head",)

    def __init__(
        self,
        *,
        is_v2: bool,
        num_classes: int,
        num_frames: int,
        crop_size: int,
        in_chans: int = 3,
    ) -> None:
        super().__init__(
            spatial_size=(crop_size, crop_size),
            temporal_size=num_frames,
            block_setting=_mvit_blocks(is_v2=is_v2),
            residual_pool=is_v2,
            residual_with_cls_embed=False,
            rel_pos_embed=is_v2,
            proj_after_attn=is_v2,
            stochastic_depth_prob=0.2,
            num_classes=max(num_classes, 1),
        )
        self._finish(num_classes=num_classes, in_chans=in_chans)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of frames (B, in_chans, T, H, W).

        Without classes, it returns the pooled features (B, num_features).
        """
        volume = self.forward_stages(frames)[-1]
        return self._classify(self.norm(_join(volume))[:, 0])

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return the normalized output (B, C, T', H', W') of the last stage.

        It has the class token (B, C) as its attribute `class_token`.
        """
        volume = self.forward_stages(frames)[-1]
        return _split(self.norm(_join(volume)), volume.shape[2:])

    def forward_stages(self, frames: Tensor) -> list[Tensor]:
        """Return the output of each of the four stages, (B, C, T', H', W').

        Each has the class token (B, C) as its attribute `class_token`. A later stage goes on from
        the volume of the one before it, so that logits have a gradient there.
        """
        x = self.pos_encoding(self.conv_proj(frames).flatten(2).transpose(1, 2))
        thw = (self.pos_encoding.temporal_size, *self.pos_encoding.spatial_size)
        ends = [sum(_MVIT_DEPTHS[: stage + 1]) - 1 for stage in range(len(_MVIT_DEPTHS))]

        volumes = []
        for index, block in enumerate(self.blocks):
            x, thw = block(x, thw)
            if index in ends:
                volumes.append(_split(x, thw))
                x = _join(volumes[-1])
        return volumes

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, num_classes) of what `forward_features` returned.

        Args:
            x: Shape (B, C, T', H', W'), with the attribute `class_token`.
            pre_logits: Whether to return the class token (B, C) instead.

        Raises:
            ValueError: If the class token is missing.
        """
        if not hasattr(x, "class_token"):
            raise ValueError(
                f"forward_head of MViT got a tensor {tuple(x.shape)} without the attribute "
                "class_token, which it classifies. Pass the result of forward_features as it is"
            )
        return self._classify(x.class_token, pre_logits=pre_logits)

    def _classify(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        # The dropout works in place. Without a copy, the caller's class token would change.
        x = self.head[0](x.clone() if self.training else x)
        return x if pre_logits else self.head[1](x)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by one with random weights, or remove it with 0 classes."""
        like = self.norm.weight
        self.head[1] = _linear(self.num_features, num_classes, std=0.02, like=like)
        self.num_classes = num_classes


def _split(x: Tensor, thw: Sequence[int]) -> Tensor:
    """Return tokens (B, 1 + N, C) as a volume, with the first one as its `class_token`."""
    volume = to_volume(x[:, 1:], thw)
    volume.class_token = x[:, 0]  # type: ignore[attr-defined]
    return volume


def _join(volume: Tensor) -> Tensor:
    """Return the tokens (B, 1 + N, C) of a volume with a `class_token`."""
    class_token: Tensor = volume.class_token  # type: ignore[attr-defined]
    return torch.cat([class_token.unsqueeze(1), to_tokens(volume)], dim=1)


def _mvit_blocks(*, is_v2: bool) -> list[mvit.MSBlockConfig]:
    stages: list[int] = []
    for stage, depth in enumerate(_MVIT_DEPTHS):
        stages += [stage] * depth

    blocks = []
    for before, stage, after in zip([0, *stages], stages, [*stages[1:], 3], strict=False):
        # V2 widens at the start of a stage, V1 at its end.
        narrow, wide = (before, stage) if is_v2 else (stage, after)
        is_first = stage > before  # The first block of a stage halves height and width.
        kernel_q, stride_q = [], []
        if is_v2 or is_first:
            kernel_q = [3, 3, 3]
            stride_q = [1, 2, 2] if is_first else [1, 1, 1]

        blocks.append(
            mvit.MSBlockConfig(
                num_heads=2**stage,
                input_channels=96 * 2**narrow,
                output_channels=96 * 2**wide,
                kernel_q=kernel_q,
                kernel_kv=[3, 3, 3],
                stride_q=stride_q,
                stride_kv=[1, 8 >> stage, 8 >> stage],
            )
        )
    return blocks


# ---- Models by name --------------------------------------------------------------------------

_SIMPLE, _NO_TIME = resnet.Conv3DSimple, resnet.Conv3DNoTemporal
_swin = partial(SwinTransformer3d, num_heads=(3, 6, 12, 24), embed_dim=96)

# Each takes `num_classes` and `in_chans`. Those of MViT also take `num_frames` and `crop_size`.
MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "mc3_18": partial(VideoResNet, [_SIMPLE] + [_NO_TIME] * 3, resnet.BasicStem),
    "mvit_v1_b": partial(MViT, is_v2=False),
    "mvit_v2_s": partial(MViT, is_v2=True),
    "r2plus1d_18": partial(VideoResNet, [resnet.Conv2Plus1D] * 4, resnet.R2Plus1dStem),
    "r3d_18": partial(VideoResNet, [_SIMPLE] * 4, resnet.BasicStem),
    "s3d": S3D,
    "swin3d_b": partial(_swin, depths=(2, 2, 18, 2), embed_dim=128, num_heads=(4, 8, 16, 32)),
    "swin3d_s": partial(_swin, depths=(2, 2, 18, 2)),
    "swin3d_t": partial(_swin, depths=(2, 2, 6, 2)),
}
