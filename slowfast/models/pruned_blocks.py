"""Blocks of the light models: local blocks with layer scale, and global blocks with token pruning.

From stage 3 on, a class token attends to all tokens, and how much it attends to a token is the
score of that token. A pruned block updates the tokens of the highest scores one by one, and all
others by the update of one token that represents them.

Attribute names are part of the file format of published weights.

Source: Xu et al., Evo-ViT: Slow-Fast Token Evolution for Dynamic Vision Transformer,
arXiv:2108.01390. Layer scale: Touvron et al., Going deeper with Image Transformers,
arXiv:2103.17239.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast.models.depthwise import Depthwise
from slowfast.models.layers import (
    Attention,
    DropPath,
    Mlp,
    to_tokens,
    to_volume,
    without_autocast,
)
from slowfast.models.linear import Linear
from slowfast.models.other_tools import is_exported_or_traced
from slowfast.models.uniformer import BlockNorm, CBlock


class ScaledCBlock(CBlock):
    """Local block with layer scale.

    Args:
        dim: Number of channels.
        init_value: Initial value of the layer scale.
        settings: Other arguments of `CBlock`.
    """

    def __init__(self, dim: int, *, init_value: float, **settings: float) -> None:
        super().__init__(dim, **settings)
        self.gamma_1 = nn.Parameter(torch.full((1, dim, 1, 1, 1), init_value))
        self.gamma_2 = nn.Parameter(torch.full((1, dim, 1, 1, 1), init_value))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T, H, W) for (B, C, T, H, W)."""
        x = x + self.pos_embed(x)
        local = self.conv2(self.attn(self.conv1(self.norm1(x))))
        x = x + self.drop_path(self.gamma_1 * local)
        return x + self.drop_path(self.gamma_2 * self.mlp(self.norm2(x)))


class ClassAttention(Attention):
    """Self-attention that also returns how much the first token attends to the others.

    Args:
        dim: Number of channels of the tokens.
        in_float32: Whether to compute the products of queries, keys and values in float32 even
            under autocast.
        settings: Arguments of `Attention`.
    """

    def __init__(self, dim: int, *, in_float32: bool, **settings: Any) -> None:
        super().__init__(dim, **settings)
        self.in_float32 = in_float32

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return tokens (B, N, C) and attention (B, N - 1), the mean over heads, for (B, N, C)."""
        q, k, v = self.to_heads(x)
        if not self.in_float32:
            return self.from_heads(self.attend(q, k, v)), self._class_attention(q, k)

        q, k, v = q.float(), k.float(), v.float()
        with without_autocast(x.device):
            attended, attention = self.attend(q, k, v), self._class_attention(q, k)
        return self.from_heads(attended), attention

    def _class_attention(self, q: Tensor, k: Tensor) -> Tensor:
        # The fused kernel returns no attention, and one row of it costs next to nothing.
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        row = (scale * q[:, :, :1]) @ k.transpose(2, 3)  # (B, heads, 1, N)
        return row.float().softmax(dim=-1).mean(dim=1)[:, 0, 1:]


class PrunedSABlock(nn.Module):
    """Global block with a class token, in which tokens of low scores share one update.

    Args:
        dim: Number of channels of the tokens.
        mlp_ratio: Hidden over outer channels of the MLP.
        dropout: Dropout rate of the MLP.
        drop_path: Drop path rate.
        attention: Function from the number of channels to the attention.
        keep_ratio: Fraction of the tokens that are updated one by one. 1 for all of them.
        trade_off: Share of the attention of this block in the new scores.
        init_value: Initial value of the layer scale. None for a block without it.
    """

    gamma_1: nn.Parameter | None
    gamma_2: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        *,
        mlp_ratio: float,
        dropout: float,
        drop_path: float,
        attention: Callable[[int], ClassAttention],
        keep_ratio: float,
        trade_off: float,
        init_value: float | None,
    ) -> None:
        super().__init__()
        self.keep_ratio = keep_ratio
        self.trade_off = trade_off
        self.pos_embed = Depthwise(dim, 3)
        self.norm1 = BlockNorm(dim)
        self.attn = attention(dim)
        self.drop_path = DropPath(drop_path)
        self.norm2 = BlockNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), layer=Linear, dropout=dropout)
        for name in ("gamma_1", "gamma_2"):
            gamma = None if init_value is None else nn.Parameter(torch.full((dim,), init_value))
            self.register_parameter(name, gamma)

    def forward(self, x: Tensor, cls_token: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the volume, the class token and the scores after this block.

        Args:
            x: Shape (B, C, T, H, W).
            cls_token: Class token, shape (B, 1, C).
            score: Score of each token, shape (B, T*H*W), in float32.
        """
        x = x + self.pos_embed(x)
        tokens = to_tokens(x)
        if self.keep_ratio == 1:
            cls_token, tokens, score = self._update_all(cls_token, tokens, score)
        else:
            cls_token, tokens, score = self._update_kept(cls_token, tokens, score)
        return to_volume(tokens, x.shape[2:]), cls_token, score

    def num_kept(self, num_tokens: int) -> int:
        """Return how many of a number of tokens this block updates one by one."""
        return int(num_tokens * self.keep_ratio)

    def _update_all(self, cls_token: Tensor, tokens: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        sequence, _, attention = self._update(torch.cat([cls_token, tokens], dim=1))
        cls_token, tokens = sequence.split([1, tokens.shape[1]], dim=1)
        return cls_token, tokens, self._mix_scores(score, attention)

    def _update_kept(self, cls_token: Tensor, tokens: Tensor, score: Tensor) -> tuple[Tensor, ...]:
        num_kept = self.num_kept(tokens.shape[1])
        sizes = [num_kept, tokens.shape[1] - num_kept]
        order = _descending_order(score)
        kept, dropped = _take(tokens, order).split(sizes, dim=1)
        kept_score, dropped_score = score.gather(1, order).split(sizes, dim=1)

        representative = _merge(dropped, dropped_score)
        sequence, update, attention = self._update(
            torch.cat([cls_token, kept, representative], dim=1)
        )
        cls_token, kept, _ = sequence.split([1, num_kept, 1], dim=1)
        kept_score = self._mix_scores(kept_score, attention[:, :-1])

        place = order.argsort(dim=1)
        tokens = _take(torch.cat([kept, dropped + update], dim=1), place)
        score = torch.cat([kept_score, dropped_score], dim=1).gather(1, place)
        return cls_token, tokens, score

    def _update(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens (B, N, C) after attention and MLP, and two results for pruning.

        They are the update (B, 1, C) of the last token without drop path, as in the published code,
        and how much the first token attends to the others, (B, N - 1).
        """
        attended, attention = self.attn(self.norm1(tokens))
        attended = _scale(attended, self.gamma_1)
        tokens = tokens + self.drop_path(attended)
        hidden = _scale(self.mlp(self.norm2(tokens)), self.gamma_2)
        tokens = tokens + self.drop_path(hidden)
        return tokens, attended[:, -1:] + hidden[:, -1:], attention

    def _mix_scores(self, score: Tensor, attention: Tensor) -> Tensor:
        return (1 - self.trade_off) * score + self.trade_off * attention


def _scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x


def _descending_order(score: Tensor) -> Tensor:
    """Return the indices (B, N) of falling scores (B, N). Equal scores keep their order."""
    # Exported files have the only sort that ONNX knows, which keeps their order as well.
    is_stable = {} if is_exported_or_traced() else {"stable": True}
    return score.argsort(dim=1, descending=True, **is_stable)


def _take(tokens: Tensor, order: Tensor) -> Tensor:
    """Return tokens (B, N, C) in the order (B, N)."""
    return tokens.gather(1, order.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def _merge(tokens: Tensor, score: Tensor) -> Tensor:
    """Return the mean (B, 1, C) of tokens (B, N, C), weighted by their scores (B, N)."""
    # Attention so sharp that it is 0 for all of them would otherwise give 0 / 0.
    weights = score / score.sum(dim=1, keepdim=True).clamp_min(torch.finfo(score.dtype).tiny)
    return (weights.unsqueeze(2) * tokens).sum(dim=1, keepdim=True)


def halve_score(score: Tensor, thw: Sequence[int]) -> Tensor:
    """Return the scores (B, T*H*W) averaged over 1x2x2 tokens, with the sum that they had."""
    halved = F.avg_pool2d(score.unflatten(1, tuple(thw)), 2).flatten(1)
    total, new_total = (scores.sum(dim=1, keepdim=True) for scores in (score, halved))
    return halved * (total / new_total.clamp_min(torch.finfo(score.dtype).tiny))
