"""Packing of features: their means, and the times of their clips in the same record.

A score shard has one array per video. The times of a feature follow its numbers there, as the bits
of float64 numbers.
"""

import numpy as np
from numpy.typing import NDArray

from slowfast.datasets.records import Batch
from slowfast.evaluation.view_scores import ViewScores
from slowfast.inference.feature_writer import FeatureBlock

NUM_TIMES = 4  # float32 numbers behind each feature: the bits of its start and its end


class NotedIntervals:
    """Times of the views of each video, from its batch until its features are there."""

    def __init__(self, num_views: int) -> None:
        self._num_views = num_views
        self._by_row: dict[int, NDArray[np.float64]] = {}

    def note(self, batch: Batch) -> None:
        """Note the times of the videos of a batch."""
        times = [interval or (np.nan, np.nan) for interval in batch.intervals]
        array = np.array(times, np.float64).reshape(-1, self._num_views, 2)
        rows = batch.video_indices[:: self._num_views].tolist()
        self._by_row.update(zip(rows, array, strict=True))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the times of some videos, shape (N, V, 2) with NaN for unknown, and drop them."""
        unknown = np.full((self._num_views, 2), np.nan)
        return np.stack([self._by_row.pop(row, unknown) for row in rows.tolist()])


def pack(scores: ViewScores, times: NDArray[np.float64], *, num_crops: int, per: str) -> ViewScores:
    """Reduce the features (N, V, D) of views, and append the bits of their times."""
    features = scores.logits
    if per == "clip":
        by_clip = features.reshape(len(features), -1, num_crops, features.shape[-1])
        features, times = by_clip.mean(axis=2), times[:, ::num_crops]
    elif per == "video":
        features = features.mean(axis=1, keepdims=True)
        first, last = times[:, :, 0].min(axis=1), times[:, :, 1].max(axis=1)
        times = np.stack([first, last], axis=-1)[:, None]

    bits = np.ascontiguousarray(times).view(np.float32)  # (N, F, 2) -> (N, F, 4)
    return scores._replace(logits=np.concatenate([features, bits], axis=2))


def unpack(scores: ViewScores, *, shape: tuple[int, ...]) -> FeatureBlock:
    """Return the features of packed scores in their shape, and their times."""
    features, bits = np.split(scores.logits, [-NUM_TIMES], axis=2)
    times = np.ascontiguousarray(bits).view(np.float64)
    features = features.reshape(*features.shape[:2], *shape)
    return FeatureBlock(scores.videos, features, times, dict(scores.unreadable))
