"""Light UniFormers for video, XXS and XS, with two heads and with token pruning from stage 3 on.

Attribute names are part of the file format of published weights.

Source: Li et al., UniFormer: Unifying Convolution and Self-attention for Visual Recognition,
arXiv:2201.09450.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slowfast.models.heads import make_classifier
from slowfast.models.layers import Convolution, PatchEmbed, init_linear, to_tokens
from slowfast.models.pruned_blocks import (
    ClassAttention,
    PrunedSABlock,
    ScaledCBlock,
    halve_score,
)
from slowfast.models.recomputation import run_block
from slowfast.models.training_loss import Loss, LossFunction
from slowfast.models.uniformer import CBlock, check_frame_size

# Of UniFormer-XXS. A list may have more numbers than its stage has blocks.
_SHARES = ((), (), (1, *[0.5] * 7), (0.5, 0.5, 0.5))


class LightOutputs(NamedTuple):
    """Outputs of a light model in training mode.

    Attributes:
        logits: Logits (B, K) of the mean over all tokens, which are the output in evaluation mode.
        cls_logits: Logits (B, K) of the class token.
    """

    logits: Tensor
    cls_logits: Tensor


class StemEmbed(nn.Module):
    """Two convolutions to a quarter of the height and width, and half the frames."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            Convolution(in_dim, dim // 2, 3, stride=(1, 2, 2), padding=1),
            nn.BatchNorm3d(dim // 2),
            nn.GELU(),
            Convolution(dim // 2, dim, 3, stride=2, padding=1),
            nn.BatchNorm3d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, dim, T', H', W') for (B, in_dim, T, H, W)."""
        return self.proj(x)


class UniFormerLight(nn.Module):
    """The light video classifier.

    In training mode, its output is `LightOutputs`. The attributes and arguments that UniFormer has
    mean the same.

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
        drop_path: Drop path rate of the last block. The rate rises linearly from 0 over all blocks.
        keep_ratios: Fraction of the tokens that each block of each stage updates one by one
            (UNIFORMER.PRUNE_RATIO). An empty list means 1, for all tokens. Stages 1 and 2 are not
            pruned, nor is the first global block.
        trade_offs: Share of the attention of each block of each stage in the new scores
            (UNIFORMER.TRADE_OFF). An empty list means 1, as does any number of the first global
            block, before which there are no scores.
        in_float32: Whether attention is computed in float32 even under autocast.
        init_value: Initial value of the layer scale. None for a model without it.
        recomputed: Number of leading blocks in each stage that recompute their activations in the
            backward pass.

    Raises:
        ValueError: If blocks cannot prune as `keep_ratios` and `trade_offs` say.
    """

    first_conv = "patch_embed1.proj.0"
    head_modules = ("head", "head_cls")
    classifiers = ("head", "head_cls")
    # A training may start from weights without layer scale, as the published ones did.
    fresh_weights = ("*.gamma_1", "*.gamma_2")
    head: Any  # A linear layer or the identity, like `head_cls`.

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int = 3,
        dims: Sequence[int] = (56, 112, 224, 448),
        depths: Sequence[int] = (2, 5, 8, 2),
        head_dim: int = 28,
        mlp_ratio: float | Sequence[float] = 3.0,
        qkv_bias: bool = True,
        qkv_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        keep_ratios: Sequence[Sequence[float]] = _SHARES,
        trade_offs: Sequence[Sequence[float]] = _SHARES,
        in_float32: bool = False,
        init_value: float | None = None,
        recomputed: Sequence[int] = (0, 0, 0, 0),
    ) -> None:
        super().__init__()
        if problems := find_pruning_problems(depths, keep_ratios, trade_offs):
            raise ValueError("; ".join(problems))
        self.num_classes = num_classes
        self.num_features = dims[3]
        self.default_cfg: dict[str, Any] = {}
        self.recomputed = tuple(recomputed)

        attention = partial(
            ClassAttention,
            head_dim=head_dim,
            qkv_bias=qkv_bias,
            qkv_scale=qkv_scale,
            dropout=dropout,
            attention_dropout=attention_dropout,
            in_float32=in_float32,
        )
        local_block: Callable[..., nn.Module] = partial(CBlock, dropout=dropout)
        if init_value is not None:
            local_block = partial(ScaledCBlock, dropout=dropout, init_value=init_value)
        global_block = partial(
            PrunedSABlock, dropout=dropout, attention=attention, init_value=init_value
        )
        ratios = mlp_ratio if isinstance(mlp_ratio, Sequence) else [mlp_ratio] * 4
        keep, trade = _per_block(keep_ratios, depths), _per_block(trade_offs, depths)
        first = _first_global_stage(depths)
        trade[first] = [1.0, *trade[first][1:]][: depths[first]]  # There are no scores before it.
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())

        def build_local_blocks(stage: int) -> nn.ModuleList:
            build_block = partial(local_block, dims[stage], mlp_ratio=ratios[stage])
            return nn.ModuleList(build_block(drop_path=next(rates)) for _ in range(depths[stage]))

        def build_global_blocks(stage: int) -> nn.ModuleList:
            build_block = partial(global_block, dims[stage], mlp_ratio=ratios[stage])
            settings = zip(keep[stage], trade[stage], strict=True)
            return nn.ModuleList(
                build_block(drop_path=next(rates), keep_ratio=keep_ratio, trade_off=trade_off)
                for keep_ratio, trade_off in settings
            )

        downsample = partial(PatchEmbed, kernel=(1, 2, 2), stride=(1, 2, 2))
        self.patch_embed1 = StemEmbed(in_chans, dims[0])
        self.pos_drop = nn.Dropout(dropout)
        self.blocks1 = build_local_blocks(0)
        self.patch_embed2 = downsample(dims[0], dims[1])
        self.blocks2 = build_local_blocks(1)
        self.patch_embed3 = downsample(dims[1], dims[2])
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims[2]))
        self.blocks3 = build_global_blocks(2)
        self.patch_embed4 = downsample(dims[2], dims[3])
        self.cls_upsample = nn.Linear(dims[2], dims[3])
        self.blocks4 = build_global_blocks(3)
        self.norm = nn.BatchNorm3d(dims[3])
        self.norm_cls = nn.LayerNorm(dims[3])
        self.head = make_classifier("linear", num_features=dims[3], num_classes=num_classes)
        self.head_cls = make_classifier("linear", num_features=dims[3], num_classes=num_classes)

        self.apply(init_linear)
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, frames: Tensor) -> Tensor | LightOutputs:
        """Return the logits (B, num_classes) of frames (B, in_chans, T, H, W).

        In training mode, it returns `LightOutputs`. Without classes, logits are pooled features.

        Raises:
            ValueError: If the frames are smaller than one patch of the last stage.
        """
        stages, cls_token = self._run(frames)
        logits = self.forward_head(self.norm(stages[-1]))
        if not self.training:
            return logits
        return LightOutputs(logits, self.head_cls(self.norm_cls(cls_token[:, 0])))

    def forward_features(self, frames: Tensor) -> Tensor:
        """Return the normalized output (B, C, T', H', W') of the last stage."""
        return self.norm(self.forward_stages(frames)[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (B, num_classes) of what `forward_features` returned.

        Args:
            x: Shape (B, C, T', H', W').
            pre_logits: Whether to return the pooled features (B, C) instead.
        """
        x = to_tokens(x).mean(dim=1)
        return x if pre_logits else self.head(x)

    def forward_stages(self, frames: Tensor) -> list[Tensor]:
        """Return the output of each of the four stages, (B, C, T', H', W'), before the last norm.

        Raises:
            ValueError: If the frames are smaller than one patch of the last stage.
        """
        return self._run(frames)[0]

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifiers by new ones with random weights, on the same device.

        Args:
            num_classes: Number of classes. With 0, `forward` returns the pooled features.
        """
        for name in self.head_modules:
            classifier = make_classifier(
                "linear", num_features=self.num_features, num_classes=num_classes
            )
            setattr(self, name, classifier.apply(init_linear).to(self.norm.weight))
        self.num_classes = num_classes

    def _run(self, frames: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the output of each stage, and the class token (B, 1, C) after the last one."""
        check_frame_size(frames)
        x = frames.contiguous(memory_format=torch.channels_last_3d)
        x1 = self._run_local(self.blocks1, self.pos_drop(self.patch_embed1(x)), stage=0)
        x2 = self._run_local(self.blocks2, self.patch_embed2(x1), stage=1)

        x = self.patch_embed3(x2)
        # Not expanded: torch lets a view of a parameter require gradients even under no_grad.
        cls_token = self.cls_token.repeat(x.shape[0], 1, 1)
        score = x.new_zeros(x.shape[0], x.shape[2:].numel(), dtype=torch.float32)
        x3, cls_token, score = self._run_global(self.blocks3, x, cls_token, score, stage=2)

        score = halve_score(score, x3.shape[2:])
        cls_token, x = self.cls_upsample(cls_token), self.patch_embed4(x3)
        x4, cls_token, _ = self._run_global(self.blocks4, x, cls_token, score, stage=3)
        return [x1, x2, x3, x4], cls_token

    def _run_local(self, blocks: nn.ModuleList, x: Tensor, *, stage: int) -> Tensor:
        for index, block in enumerate(blocks):
            x = run_block(block, x, is_recomputed=self._recomputes(stage, index))
        return x

    def _run_global(
        self, blocks: nn.ModuleList, x: Tensor, cls_token: Tensor, score: Tensor, *, stage: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        for index, block in enumerate(blocks):
            x, cls_token, score = run_block(
                block, x, cls_token, score, is_recomputed=self._recomputes(stage, index)
            )
        return x, cls_token, score

    def _recomputes(self, stage: int, index: int) -> bool:
        return self.training and index < self.recomputed[stage]


def light_loss(outputs: LightOutputs, targets: Tensor, loss_fn: LossFunction) -> Loss:
    """Return the mean of the losses of both heads, and the logits that a test uses.

    Args:
        outputs: Outputs of a light model in training mode.
        targets: Labels, as `loss_fn` takes them.
        loss_fn: Function from logits (B, K) and labels to the mean loss of the batch.
    """
    logits, cls_logits = outputs.logits.float(), outputs.cls_logits.float()
    loss = 0.5 * loss_fn(logits, targets) + 0.5 * loss_fn(cls_logits, targets)
    return Loss(loss, logits)


# ---- Settings of the pruning -------------------------------------------------------------------


def _per_block(numbers: Sequence[Sequence[float]], depths: Sequence[int]) -> list[list[float]]:
    """Return a number for each block of each stage, 1 for stages without numbers.

    As in published configs, a stage may have more numbers than blocks. They are ignored.
    """
    pairs = zip(numbers, depths, strict=True)
    return [[*of_stage][:depth] if of_stage else [1.0] * depth for of_stage, depth in pairs]


def _first_global_stage(depths: Sequence[int]) -> int:
    return 2 if depths[2] else 3


def find_pruning_problems(
    depths: Sequence[int],
    keep_ratios: Sequence[Sequence[float]],
    trade_offs: Sequence[Sequence[float]],
) -> list[str]:
    """Return one sentence for each reason why blocks cannot prune their tokens.

    Args:
        depths: Number of blocks in each of the four stages.
        keep_ratios: UNIFORMER.PRUNE_RATIO, see `UniFormerLight`.
        trade_offs: UNIFORMER.TRADE_OFF, see `UniFormerLight`.
    """
    problems = []
    for key, numbers in (("PRUNE_RATIO", keep_ratios), ("TRADE_OFF", trade_offs)):
        is_nested = len(numbers) == 4 and all(isinstance(stage, list | tuple) for stage in numbers)
        if not is_nested or not all(_is_share(number) for stage in numbers for number in stage):
            problems.append(
                f"UNIFORMER.{key} is {numbers}. Use a list with a list for each of the 4 stages, "
                "which has a number from 0 to 1 for each block or is empty"
            )
            continue
        for index, (stage, depth) in enumerate(zip(numbers, depths, strict=True)):
            if stage and len(stage) < depth and index >= 2:
                problems.append(
                    f"UNIFORMER.{key} is {numbers}, with {len(stage)} numbers for the {depth} "
                    f"blocks of stage {index + 1}. Use one number for each block"
                )
    if problems:
        return problems

    if any(number != 1 for stage in keep_ratios[:2] for number in stage):
        problems.append(
            f"UNIFORMER.PRUNE_RATIO is {keep_ratios}. Leave the lists of stages 1 and 2 empty: "
            "they have no class token that could score the others"
        )
    first = _first_global_stage(depths)
    if any(number != 1 for number in _per_block(keep_ratios, depths)[first][:1]):
        problems.append(
            f"UNIFORMER.PRUNE_RATIO is {keep_ratios}. Use 1 for the first block of stage "
            f"{first + 1}: there are no scores before it"
        )
    return problems


def _is_share(number: object) -> bool:
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return is_number and 0 <= number <= 1  # type: ignore[operator]
