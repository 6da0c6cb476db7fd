"""Accuracies from a table of scores."""

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
