"""Tally of a validation: the counts behind its metrics, in memory and summed over all processes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.records import UnreadableVideo
from slowfast.distributed.collectives import device, gather_over_ranks, sum_over_ranks
from slowfast.engine.mistakes import WorstMistakes
from slowfast.evaluation.metrics import MetricCounts, Metrics, compute_metrics
from slowfast.evaluation.predictions import NONFINITE
from slowfast.evaluation.summary import fuse_videos
from slowfast.evaluation.view_scores import ViewScores

FUSION = "sum"  # A validation scores one view, for which all fusions are equal.
_UNITS_PER_NAT = 2**30  # Losses are added as integers without a limit, in any order the same.


class ValidationResult(NamedTuple):
    """Result of a validation."""

    metrics: Metrics
    loss: float  # mean over the scored videos

    def headline(self) -> dict[str, float]:
        """Return the numbers that the log and the records of a run hold."""
        return {
            "top1": self.metrics.top1,
            "top5": self.metrics.top5,
            "mean_class_accuracy": self.metrics.mean_class_accuracy,
            "loss": self.loss,
        }


class Tally:
    """Counts the scores of a process as they come, and sums them over all processes in the end.

    Args:
        class_names: Names of the classes.
        labels: Class number of each video of the list, shape (N,).
        video_name: Function from a row of the list to the name of its video.
        loss_fn: Function from logits (N, K), labels (N,) and reduction="none" to the losses (N,).
            The logits of a video are the mean over its views.
        mistakes: Empty collection of the worst mistakes. By default, none are kept.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        labels: NDArray[np.int32],
        *,
        video_name: Callable[[int], str],
        loss_fn: Callable[..., Tensor],
        mistakes: WorstMistakes | None = None,
    ) -> None:
        self._class_names = class_names
        self._labels = labels
        self._video_name = video_name
        self._loss_fn = loss_fn
        self._loss = 0
        self.counts = MetricCounts(len(class_names))
        self.mistakes = mistakes or WorstMistakes(0)
        self.unreadable: list[UnreadableVideo] = []
        self.nonfinite: list[UnreadableVideo] = []

    def add(self, scores: ViewScores) -> None:
        """Add the scores of some videos."""
        fused = fuse_videos(scores, FUSION, video_name=self._video_name)
        rows = scores.videos[fused.is_scored]
        labels = self._labels[rows]
        self.counts.add(fused.log_probabilities, labels)
        self.mistakes.add(rows, labels, fused.log_probabilities)

        logits = torch.from_numpy(scores.logits[fused.is_scored]).double().mean(dim=1)
        losses = self._loss_fn(logits, torch.from_numpy(labels).long(), reduction="none")
        self._loss += sum(round(loss * _UNITS_PER_NAT) for loss in losses.tolist())

        for row, (status, reason) in fused.unscored.items():
            is_nonfinite = status == NONFINITE
            self.counts.add_unscored(self._labels[row : row + 1], nonfinite=is_nonfinite)
            videos = self.nonfinite if is_nonfinite else self.unreadable
            videos.append(UnreadableVideo(row, reason))

    def so_far(self) -> dict[str, float]:
        """Return the mean loss and the top-1 accuracy of the videos that this process scored."""
        num_scored = self.counts.num_scored
        if not num_scored:
            return {}
        return {
            "loss": self._loss / (_UNITS_PER_NAT * num_scored),
            "top1": 100 * self.counts.confusion.trace() / num_scored,
        }

    def combine(self) -> None:
        """Sum the counts over all processes. Call it once in each of them, at the end."""
        for array in self.counts.arrays().values():
            total = sum_over_ranks(torch.from_numpy(np.array(array)).to(device()))
            array[...] = total.cpu().numpy()
        self._loss = sum(gather_over_ranks([self._loss]))
        self.mistakes.combine()
        self.unreadable = sorted(gather_over_ranks(self.unreadable))
        self.nonfinite = sorted(gather_over_ranks(self.nonfinite))

    @property
    def unscored(self) -> list[UnreadableVideo]:
        """The videos without scores, in the order of the list."""
        return sorted([*self.unreadable, *self.nonfinite])

    def result(self) -> ValidationResult:
        """Return the metrics and the loss of all videos.

        Raises:
            ValueError: If no video has scores.
        """
        num_scored = self.counts.num_scored
        if not num_scored:
            raise ValueError(
                f"no video of {len(self.unscored)} has scores. The first one: "
                f"{self.unscored[0].reason}"
            )
        metrics = compute_metrics(self.counts, self._class_names, num_resamples=0)
        return ValidationResult(metrics, self._loss / (_UNITS_PER_NAT * num_scored))
