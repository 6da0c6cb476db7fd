"""Heads: from the tokens of the last stage to the logits, through a pooling and a classifier.

`Head` is a head by itself, to train on stored features. The modules and the names of its weights
are those in the whole model, so that trained weights fit there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast.models.layers import Mlp, init_linear, trunc_normal_

HEADS = ("linear", "mlp", "attentive")  # values of MODEL.HEAD
# Modules of a model that belong to its head. Their weights are replaced together.
HEAD_MODULES = ("pool", "head")
_HEAD_DIM = 64  # channels of an attention head


class MeanPool(nn.Module):
    """The mean over all tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, C) for tokens (B, N, C)."""
        return tokens.mean(dim=1)


class AttentionPool(nn.Module):
    """Attentive pooling: a learned query attends to all tokens, and an MLP follows.

    Args:
        dim: Number of channels of the tokens and of the result. If it is a multiple of 64, each
            attention head has 64 channels. Otherwise there is one head.

    Source: the attentive probe of Bardes et al., Revisiting Feature Prediction for Learning Visual
    Representations from Video, arXiv:2404.08471.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.head_dim = dim if dim % _HEAD_DIM else _HEAD_DIM
        self.query = nn.Parameter(torch.empty(dim))
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim, layer=nn.Linear, dropout=0.0)
        trunc_normal_(self.query, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, C) for tokens (B, N, C)."""
        q = self.q(self.query).unflatten(0, (-1, 1, self.head_dim))  # (heads, 1, head_dim)
        q = q.expand(tokens.shape[0], -1, -1, -1)  # len() would export a single batch size
        kv = self.kv(self.norm1(tokens)).unflatten(2, (2, -1, self.head_dim))
        k, v = kv.permute(2, 0, 3, 1, 4)  # Each (B, heads, N, head_dim)

        x = F.scaled_dot_product_attention(q, k, v)
        x = self.query + self.proj(x.flatten(1))  # (B, heads, 1, head_dim) -> (B, C)
        return x + self.mlp(self.norm2(x))


class MlpClassifier(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_classes) for (B, C)."""
        return self.fc2(self.act(self.fc1(x)))


def make_pool(kind: str, *, num_features: int) -> nn.Module:
    """Return the pooling of a kind of head, from tokens (B, N, C) to vectors (B, C)."""
    return AttentionPool(num_features) if kind == "attentive" else MeanPool()


def make_classifier(kind: str, *, num_features: int, num_classes: int) -> nn.Module:
    """Return the classifier of a kind of head, from vectors (B, C) to logits (B, num_classes).

    Its last layer has a row for each class. Without classes, it returns the vectors as they are.
    """
    if num_classes == 0:
        return nn.Identity()
    layer = MlpClassifier if kind == "mlp" else nn.Linear
    return layer(num_features, num_classes)


class Head(nn.Module):
    """Pooling, dropout and classifier.

    Args:
        kind: linear (the mean over all tokens, then a linear layer), mlp (the mean, then two
            layers with a GELU between them) or attentive (`AttentionPool`, then a linear layer).
        num_features: Number of channels C of the tokens.
        num_classes: Number of classes K. With 0, the head returns the pooled features (B, C).
        dropout: Dropout rate of the pooled features.

    Raises:
        ValueError: If there is no such kind.
    """

    def __init__(
        self, kind: str, *, num_features: int, num_classes: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_kind(kind)
        self.pool = make_pool(kind, num_features=num_features)
        self.head_drop = nn.Dropout(dropout)
        self.head = make_classifier(kind, num_features=num_features, num_classes=num_classes)
        self.apply(init_linear)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, K) of tokens (B, N, C)."""
        return self.head(self.head_drop(self.pool(tokens)))


def build_head(kind: str, *, num_features: int, num_classes: int, dropout: float = 0.0) -> Head:
    """Return a head with random weights, see `Head`."""
    return Head(kind, num_features=num_features, num_classes=num_classes, dropout=dropout)


def check_kind(kind: str) -> None:
    """Raise ValueError if there is no such kind of head."""
    if kind not in HEADS:
        raise ValueError(f"there is no head {kind!r}. Choose one of: {', '.join(HEADS)}")
