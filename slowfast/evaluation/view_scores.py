"""Scores of the views of some videos, on their way from the model to a file or to the metrics."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ViewScores(NamedTuple):
    """Logits of all views of some videos, and why others of them have none."""

    videos: NDArray[np.int64]  # (N,), rows of the annotation list, ascending
    logits: NDArray[np.float32]  # (N, V, K), NaN for an unreadable video
    unreadable: Mapping[int, str]  # reason by row of the list

    @property
    def is_readable(self) -> NDArray[np.bool_]:
        """Whether each video was read, shape (N,)."""
        if not self.unreadable:
            return np.ones(len(self.videos), bool)
        return ~np.isin(self.videos, list(self.unreadable))


def merge(scores: Sequence[ViewScores]) -> ViewScores:
    """Return one record of the same videos, each from the first record in which it was read.

    Args:
        scores: Records of the same videos, at least one.
    """
    merged, *others = scores
    for other in others:
        wanted = ~merged.is_readable & other.is_readable
        logits = np.where(wanted[:, None, None], other.logits, merged.logits)
        found = set(merged.videos[wanted].tolist())
        unreadable = {
            row: other.unreadable.get(row, reason)
            for row, reason in merged.unreadable.items()
            if row not in found
        }
        merged = ViewScores(merged.videos, logits, unreadable)
    return merged


def join(scores: Sequence[ViewScores]) -> ViewScores:
    """Return one record of all videos of consecutive records, at least one."""
    return ViewScores(
        np.concatenate([record.videos for record in scores]),
        np.concatenate([record.logits for record in scores]),
        {row: reason for record in scores for row, reason in record.unreadable.items()},
    )


def split(scores: ViewScores, num_videos: int) -> tuple[ViewScores, ViewScores]:
    """Return the first videos of a record, and the others.

    Args:
        scores: The record.
        num_videos: Number of videos of the first part.
    """
    first: dict[int, str] = {}
    others: dict[int, str] = {}
    if scores.unreadable:
        is_first = set(scores.videos[:num_videos].tolist())
        for row, reason in scores.unreadable.items():
            (first if row in is_first else others)[row] = reason
    return (
        ViewScores(scores.videos[:num_videos], scores.logits[:num_videos], first),
        ViewScores(scores.videos[num_videos:], scores.logits[num_videos:], others),
    )
