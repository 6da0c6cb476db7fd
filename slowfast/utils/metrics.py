"""Accuracies of a table of scores."""

import torch
from torch import Tensor


def hits_at(scores: Tensor, labels: Tensor, *, k: int) -> Tensor:
    """Return whether each label is among the k classes of the highest scores.

    Args:
        scores: (N, K).
        labels: (N,), class numbers.
        k: capped at K.

    Returns:
        (N,), bool.
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1)


def accuracy_by_class(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each of the K classes, the share of its rows that are right (nan without rows) and their number.

    Args:
        scores: (N, K).
        labels: (N,), class numbers.
    """
    num_classes = scores.shape[1]
    counts = torch.bincount(labels, minlength=num_classes)
    right = torch.bincount(labels[hits_at(scores, labels, k=1)], minlength=num_classes)
    return right / counts, counts
