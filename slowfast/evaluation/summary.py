"""From the scores of views to what a result consists of: counts, view subsets and predictions."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slowfast.evaluation.fusion import ViewSubsets, fuse
from slowfast.evaluation.metric_counts import (
    FRACTION_BITS,
    NUM_RELIABILITY_BINS,
    MetricCounts,
    bin_confidences,
    rank_of,
    top_classes,
)
from slowfast.evaluation.metrics import Metrics, compute_metrics
from slowfast.evaluation.predictions import (
    NONFINITE,
    NUM_TOP,
    UNREADABLE,
    LabelColumns,
    PredictionsWriter,
)
from slowfast.evaluation.unlabeled_metrics import ConfidenceBin, PredictedClass, UnlabeledMetrics
from slowfast.evaluation.view_scores import ViewScores, join

_BYTES_AT_ONCE = 16 << 20  # logits that are fused at once


class FusedScores(NamedTuple):
    """One distribution for each scored video, and why the others have none."""

    is_scored: NDArray[np.bool_]  # (N,)
    log_probabilities: NDArray[np.float64]  # (S, K), of the scored videos
    unscored: dict[int, tuple[str, str]]  # status and reason by row of the list


def fuse_videos(
    scores: ViewScores,
    fusion: str,
    *,
    video_name: Callable[[int], str],
    temperature: float = 1.0,
) -> FusedScores:
    """Return the distributions of some videos.

    Args:
        scores: Scores of their views.
        fusion: How to combine the views, one of `fusion.FUSIONS`.
        video_name: Function from a row of the list to the name of its video.
        temperature: Number that divides the logits.
    """
    is_readable = scores.is_readable
    is_scored = is_readable & np.isfinite(scores.logits).all(axis=(1, 2))

    unscored = {row: (UNREADABLE, reason) for row, reason in scores.unreadable.items()}
    for row in scores.videos[is_readable & ~is_scored].tolist():
        unscored[row] = (NONFINITE, f"{video_name(row)}: its scores are not finite")

    log_probabilities = fuse(scores.logits[is_scored] / np.float64(temperature), fusion)
    return FusedScores(is_scored, log_probabilities, unscored)


class LabeledCounts:
    """Counts of a test on a list with labels: of its metrics, and of fewer views.

    Args:
        labels: Class number of each video of the list, shape (N,).
        num_classes: Number of classes.
        num_clips: Number of temporal clips per video.
        num_crops: Number of spatial crops per clip.
    """

    def __init__(
        self, labels: NDArray[np.int32], *, num_classes: int, num_clips: int, num_crops: int
    ) -> None:
        self._labels = labels
        self._counts = MetricCounts(num_classes)
        self._subsets = ViewSubsets(num_clips, num_crops)

    @property
    def num_scored(self) -> int:
        """The number of videos with scores."""
        return self._counts.num_scored

    def add(self, scores: ViewScores, fused: FusedScores) -> LabelColumns:
        """Add videos, and return what their labels say about their predictions."""
        labels = self._labels[scores.videos]
        scored_labels = labels[fused.is_scored]
        self._counts.add(fused.log_probabilities, scored_labels)
        self._subsets.add(scores.logits[fused.is_scored], scored_labels)
        for row, (status, _) in fused.unscored.items():
            self._counts.add_unscored(self._labels[row : row + 1], nonfinite=status == NONFINITE)

        return LabelColumns(
            labels,
            ranks=rank_of(fused.log_probabilities, scored_labels),
            nlls=-fused.log_probabilities[np.arange(len(scored_labels)), scored_labels],
        )

    def compute_metrics(self, class_names: Sequence[str]) -> Metrics:
        """Return the metrics of all videos. At least one of them has scores."""
        return compute_metrics(self._counts, class_names)

    def view_records(self) -> list[dict[str, Any]]:
        """Return the accuracies with fewer views, as in `metrics.json`."""
        return self._subsets.as_records()


class UnlabeledCounts:
    """Counts of a test on a list without labels.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        self._predicted = np.zeros(num_classes, np.int64)
        self._unscored = {UNREADABLE: 0, NONFINITE: 0}
        self._confidence_counts = np.zeros(NUM_RELIABILITY_BINS, np.int64)
        self._confidence_sums = np.zeros(NUM_RELIABILITY_BINS, np.int64)

    @property
    def num_scored(self) -> int:
        """The number of videos with scores."""
        return int(self._predicted.sum())

    def add(self, scores: ViewScores, fused: FusedScores) -> None:
        """Add videos."""
        confidences = np.exp(fused.log_probabilities.max(axis=1, initial=-np.inf))
        bins, in_units = bin_confidences(np.minimum(confidences, 1.0))
        np.add.at(self._predicted, fused.log_probabilities.argmax(axis=1), 1)
        np.add.at(self._confidence_counts, bins, 1)
        np.add.at(self._confidence_sums, bins, in_units)
        for status, _ in fused.unscored.values():
            self._unscored[status] += 1

    def compute_metrics(self, class_names: Sequence[str]) -> UnlabeledMetrics:
        """Return the metrics of all videos. At least one of them has scores."""
        sums = np.ldexp(self._confidence_sums.astype(float), -FRACTION_BITS)
        return UnlabeledMetrics(
            num_videos=self.num_scored + sum(self._unscored.values()),
            num_scored=self.num_scored,
            num_unreadable=self._unscored[UNREADABLE],
            num_nonfinite=self._unscored[NONFINITE],
            mean_confidence=100 * float(sums.sum()) / self.num_scored,
            classes=tuple(
                PredictedClass(name, number)
                for name, number in zip(class_names, self._predicted.tolist(), strict=True)
            ),
            confidences=tuple(
                ConfidenceBin(
                    low=100 * index / NUM_RELIABILITY_BINS,
                    high=100 * (index + 1) / NUM_RELIABILITY_BINS,
                    count=number,
                    confidence=100 * float(sums[index]) / number if number else None,
                )
                for index, number in enumerate(self._confidence_counts.tolist())
            ),
        )

    def view_records(self) -> list[dict[str, Any]]:
        """Return no records: there are no accuracies."""
        return []


class Summary:
    """Counts of a test, summed up video by video. Its memory does not grow with the list.

    Args:
        names: Name of each video of the list.
        counts: Counts of the test, without any video.
        num_views: Number of views of each video.
        fusion: How to combine the views of a video, one of `fusion.FUSIONS`.
        temperature: Number that divides the logits.

    Attributes:
        counts: Counts of the videos that were added.
        first_reason: Why the first video without scores has none, "" if all have.
    """

    def __init__(
        self,
        names: pa.ChunkedArray,
        counts: LabeledCounts | UnlabeledCounts,
        *,
        num_views: int,
        fusion: str,
        temperature: float = 1.0,
    ) -> None:
        self._names = names
        self._fusion = fusion
        self._temperature = temperature
        self._num_views = num_views
        self.counts = counts
        self.first_reason = ""

    def add(self, scores: ViewScores, predictions: PredictionsWriter) -> None:
        """Add videos, and write their predictions."""
        fused = fuse_videos(
            scores,
            self._fusion,
            video_name=lambda row: self._names[row].as_py(),
            temperature=self._temperature,
        )
        label_columns = self.counts.add(scores, fused)
        for _, (_, reason) in sorted(fused.unscored.items()):
            self.first_reason = self.first_reason or reason

        top = top_classes(fused.log_probabilities, NUM_TOP)
        first = int(scores.videos[0])
        predictions.write(
            scores.videos,
            paths=self._names.slice(first, len(scores.videos)),
            label_columns=label_columns,
            top=top,
            top_probabilities=np.exp(np.take_along_axis(fused.log_probabilities, top, axis=1)),
            num_views=self._num_views,
            unscored=fused.unscored,
        )


def in_blocks(scores: Iterable[ViewScores]) -> Iterable[ViewScores]:
    """Join consecutive records to blocks that are worth a call of numpy."""
    waiting: list[ViewScores] = []
    num_bytes = 0
    for record in scores:
        waiting.append(record)
        num_bytes += record.logits.nbytes
        if num_bytes >= _BYTES_AT_ONCE:
            yield join(waiting)
            waiting, num_bytes = [], 0
    if waiting:
        yield join(waiting)
