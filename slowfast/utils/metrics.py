"""Accuracies from a table of scores."""

import torch
from torch import Tensor


def hits_at(scores: Tensor, labels: Tensor, *, k: int) -> Tensor:
    """Return whether each label is among the k classes with the highest scores.

    Args:
        scores: Scores of shape (N, K).
        labels: Class numbers of shape (N,).
        k: Number of classes that count, capped at K.

    Returns:
        Booleans of shape (N,).
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1)


def accuracy_by_class(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the top-1 accuracy and the number of rows of each class.

    Args:
        scores: Scores of shape (N, K).
        labels: Class numbers of shape (N,).

    Returns:
        Accuracies of shape (K,), nan for a class without rows, and counts of shape (K,).
    """
    num_classes = scores.shape[1]
    counts = torch.bincount(labels, minlength=num_classes)
    correct = torch.bincount(labels[hits_at(scores, labels, k=1)], minlength=num_classes)
    return correct / counts, counts
