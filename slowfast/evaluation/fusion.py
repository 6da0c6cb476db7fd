"""Fusion of the views of a video into one distribution, and the accuracy of fewer views."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slowfast.evaluation.metric_counts import rank_of

# Mean of the logits (published), mean of the probabilities, largest probability renormalized.
FUSIONS = ("sum", "probabilities", "max")

# Below it, a mean of probabilities loses digits and is computed from their logarithms.
_SMALLEST_MEAN = 1e-290

# Subsets are added from blocks of videos that fit into the cache of a core.
_SCORES_PER_BLOCK = 2**18


def log_softmax(scores: NDArray) -> NDArray[np.float64]:
    """Return the log-probabilities of logits along the last axis, in float64."""
    shifted = scores.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def fuse(scores: NDArray, method: str) -> NDArray[np.float64]:
    """Return the log-probabilities of videos from the logits of their views.

    The views are added in their order, and the result of a video does not depend on the others.

    Args:
        scores: Finite logits of shape (N, V, K).
        method: One of `FUSIONS`.

    Returns:
        Normalized log-probabilities of shape (N, K).

    Raises:
        ValueError: If the method is unknown.
    """
    if method not in FUSIONS:
        raise ValueError(f"the fusion is {method!r}. Choose one of: {', '.join(FUSIONS)}")

    views = range(scores.shape[1])
    if method == "sum":
        return log_softmax(mean_logits(scores))

    log_probabilities = log_softmax(scores)  # (N, V, K)
    if method == "max":
        return log_softmax(_max_of(log_probabilities, views))
    return _log_mean_exp(log_probabilities)


def mean_logits(scores: NDArray) -> NDArray[np.float64]:
    """Return the mean over the views of logits of shape (N, V, K), shape (N, K), in float64."""
    views = range(scores.shape[1])
    return _sum_of(scores, views) / len(views)


def _sum_of(scores: NDArray, views: range | list[int]) -> NDArray[np.float64]:
    # A loop, because the order in which numpy adds along an axis depends on the shape.
    total = scores[:, views[0]].astype(np.float64)
    for view in views[1:]:
        total += scores[:, view]
    return total


def _max_of(scores: NDArray, views: range | list[int]) -> NDArray[np.float64]:
    highest = scores[:, views[0]].astype(np.float64)
    for view in views[1:]:
        np.maximum(highest, scores[:, view], out=highest)
    return highest


def _log_mean_exp(log_probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithm of the mean probability over the views, which never underflows."""
    views = range(log_probabilities.shape[1])
    mean = _sum_of(np.exp(log_probabilities), views) / len(views)
    is_small = mean < _SMALLEST_MEAN

    log_mean = np.log(np.where(is_small, 1.0, mean))
    if is_small.any():
        small = log_probabilities.swapaxes(1, 2)[is_small][:, :, None]  # (M, V, 1)
        highest = _max_of(small, views)
        relative = _sum_of(np.exp(small - highest[:, None]), views)
        log_mean[is_small] = (highest + np.log(relative / len(views)))[:, 0]
    return log_mean


class ViewSubsets:
    """Top-1 and top-5 hits of scored videos for fewer clips and crops, and for every fusion.

    The clips of a smaller number c of C clips are floor((i + 0.5) * C / c), and one crop is the
    center. All fusions of a single view are equal, and only the first one is counted. The counts
    are integers, and those of several processes can be summed.

    Args:
        num_clips: Number of clips C of each video.
        num_crops: Number of crops of each clip. View number = clip * num_crops + crop.

    Attributes:
        hits: Top-1 and top-5 hits of each subset and fusion, shape (S, 2).
        num_videos: Number of videos, shape ().
    """

    def __init__(self, num_clips: int, num_crops: int) -> None:
        self._num_views = num_clips * num_crops
        self._subsets = {
            (clips, crops): _views_of_subset(
                clips, crops=crops, num_clips=num_clips, num_crops=num_crops
            )
            for clips in _numbers_of_clips(num_clips)
            for crops in sorted({1, num_crops})
        }
        self._rows = [
            (subset, fusion)
            for subset, views in self._subsets.items()
            for fusion in (FUSIONS if len(views) > 1 else FUSIONS[:1])
        ]
        self.hits = np.zeros((len(self._rows), 2), dtype=np.int64)
        self.num_videos = np.zeros((), dtype=np.int64)

    def add(self, scores: NDArray, labels: NDArray) -> None:
        """Add scored videos.

        Args:
            scores: Finite logits of shape (N, V, K).
            labels: Class numbers of shape (N,).

        Raises:
            ValueError: If the number of views is another one, or a label is not a class.
        """
        num_videos, num_views, num_classes = scores.shape
        if num_views != self._num_views:
            raise ValueError(f"the scores have {num_views} views instead of {self._num_views}")

        block = max(1, _SCORES_PER_BLOCK // (num_views * num_classes))
        for start in range(0, num_videos, block):
            self._add_block(scores[start : start + block], labels[start : start + block])
        self.num_videos += num_videos

    def _add_block(self, scores: NDArray, labels: NDArray) -> None:
        # The ranks are those of the fused distribution, which keeps the order of these scores.
        tables = {"sum": scores}
        if self._num_views > 1:
            tables["max"] = log_softmax(scores)
            tables["probabilities"] = np.exp(tables["max"])

        for row, (subset, fusion) in enumerate(self._rows):
            combine = _max_of if fusion == "max" else _sum_of
            ranks = rank_of(combine(tables[fusion], self._subsets[subset]), labels)
            self.hits[row] += (np.count_nonzero(ranks <= 1), np.count_nonzero(ranks <= 5))

    def as_records(self) -> list[dict[str, Any]]:
        """Return the accuracies in percent as in `metrics.json`. No videos, no records."""
        if not self.num_videos:
            return []

        records = []
        accuracies = (100 * self.hits / self.num_videos).tolist()
        for ((clips, crops), fusion), (top1, top5) in zip(self._rows, accuracies, strict=True):
            subset = {"num_clips": clips, "num_crops": crops, "fusion": fusion}
            records.append({**subset, "top1": top1, "top5": top5})
        return records

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """Return the counts by name, not copied: sum them in place over the processes."""
        return {"hits": self.hits, "num_videos": self.num_videos}

    def update(self, other: "ViewSubsets") -> None:
        """Add the counts of other videos with the same views."""
        self.hits += other.hits
        self.num_videos += other.num_videos


def _numbers_of_clips(num_clips: int) -> list[int]:
    """Return up to ten numbers from 1 to `num_clips`, close where the accuracy changes most."""
    if num_clips <= 10:
        return list(range(1, num_clips + 1))
    return np.unique(np.rint(np.geomspace(1, num_clips, 10)).astype(int)).tolist()


def _views_of_subset(clips: int, *, crops: int, num_clips: int, num_crops: int) -> list[int]:
    chosen_clips = [(2 * i + 1) * num_clips // (2 * clips) for i in range(clips)]
    chosen_crops = range(num_crops) if crops == num_crops else [num_crops // 2]
    return [clip * num_crops + crop for clip in chosen_clips for crop in chosen_crops]
