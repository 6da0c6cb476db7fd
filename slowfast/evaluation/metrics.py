"""Metrics of an evaluation: accuracies and the loss, over all videos and per class."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from slowfast.evaluation.scores import ScoreTable
from slowfast.utils.metrics import accuracy_by_class, hits_at


class Result(NamedTuple):
    """Metrics of an evaluation. Accuracies are in percent, and of the scored videos by default."""

    num_videos: int  # in the list
    num_scored: int  # readable, with finite scores
    num_nonfinite: int  # readable, with non-finite scores
    top1: float
    top5: float
    top1_listed: float  # of all videos of the list: those without scores count as wrong
    top5_listed: float
    loss: float  # mean over the scored videos
    class_top1: list[float]  # nan for a class without scored videos
    class_counts: list[int]  # scored videos of each class

    @property
    def num_unreadable(self) -> int:
        """The number of videos that could not be read."""
        return self.num_videos - self.num_scored - self.num_nonfinite


def summarize(
    table: ScoreTable,
    labels: Tensor,
    *,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Result:
    """Return the metrics of a combined table.

    Args:
        table: Combined table, see `ScoreTable.combine`.
        labels: Class numbers of its videos, shape (N,).
        loss_fn: Function from logits (N, K) and labels (N,) to the mean loss. The logits of a video
            are the mean over its views.

    Raises:
        ValueError: If no video has scores.
    """
    is_scored = table.is_scored
    num_videos, num_scored = len(labels), int(is_scored.sum())
    if not num_scored:
        raise ValueError(
            f"no video of {num_videos} has scores. The first one: {table.unscored[0].reason}"
        )

    scores, labels = table.scores[is_scored], labels[is_scored]
    top1, top5 = (100 * hits_at(scores, labels, k=k).double().mean().item() for k in (1, 5))
    class_accuracies, class_counts = accuracy_by_class(scores, labels)

    mean_scores = scores.double() / table.num_views
    if table.are_probabilities:
        loss = F.nll_loss(mean_scores.log(), labels)
    else:
        loss = loss_fn(mean_scores, labels)

    scored_fraction = num_scored / num_videos
    return Result(
        num_videos=num_videos,
        num_scored=num_scored,
        num_nonfinite=len(table.nonfinite),
        top1=top1,
        top5=top5,
        top1_listed=top1 * scored_fraction,
        top5_listed=top5 * scored_fraction,
        loss=loss.item(),
        class_top1=(100 * class_accuracies).tolist(),
        class_counts=class_counts.tolist(),
    )
