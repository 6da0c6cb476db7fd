"""From the scores of views to what a result consists of: counts, view subsets and predictions."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slowfast.evaluation.fusion import ViewSubsets, fuse
from slowfast.evaluation.metric_counts import MetricCounts, rank_of, top_classes
from slowfast.evaluation.predictions import (
    NONFINITE,
    NUM_TOP,
    UNREADABLE,
    PredictionsWriter,
)
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


class Summary:
    """Counts of a test, summed up video by video. Its memory does not grow with the list.

    Args:
        names: Name of each video of the list.
        labels: Class number of each video, shape (N,).
        num_classes: Number of classes.
        num_clips: Number of temporal clips per video.
        num_crops: Number of spatial crops per clip.
        fusion: How to combine the views of a video, one of `fusion.FUSIONS`.
        temperature: Number that divides the logits.

    Attributes:
        counts: Counts behind the metrics.
        subsets: Accuracy with fewer views.
        first_reason: Why the first video without scores has none, "" if all have.
    """

    def __init__(
        self,
        names: pa.ChunkedArray,
        labels: NDArray[np.int32],
        *,
        num_classes: int,
        num_clips: int,
        num_crops: int,
        fusion: str,
        temperature: float = 1.0,
    ) -> None:
        self._names = names
        self._labels = labels
        self._fusion = fusion
        self._temperature = temperature
        self._num_views = num_clips * num_crops
        self.counts = MetricCounts(num_classes)
        self.subsets = ViewSubsets(num_clips, num_crops)
        self.first_reason = ""

    def add(self, scores: ViewScores, predictions: PredictionsWriter) -> None:
        """Add videos, and write their predictions."""
        labels = self._labels[scores.videos]
        fused = fuse_videos(
            scores,
            self._fusion,
            video_name=lambda row: self._names[row].as_py(),
            temperature=self._temperature,
        )
        scored_labels = labels[fused.is_scored]
        self.counts.add(fused.log_probabilities, scored_labels)
        self.subsets.add(scores.logits[fused.is_scored], scored_labels)
        for row, (status, reason) in sorted(fused.unscored.items()):
            self.counts.add_unscored(self._labels[row : row + 1], nonfinite=status == NONFINITE)
            self.first_reason = self.first_reason or reason

        rows = np.arange(len(scored_labels))
        top = top_classes(fused.log_probabilities, NUM_TOP)
        first = int(scores.videos[0])
        predictions.write(
            scores.videos,
            paths=self._names.slice(first, len(scores.videos)),
            labels=labels,
            top=top,
            top_probabilities=np.exp(np.take_along_axis(fused.log_probabilities, top, axis=1)),
            ranks=rank_of(fused.log_probabilities, scored_labels),
            nlls=-fused.log_probabilities[rows, scored_labels],
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
