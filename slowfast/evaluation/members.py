"""Members of an ensemble: the scores of several results of a list, read side by side."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.evaluation.fusion import fuse, mean_logits
from slowfast.evaluation.result import Result
from slowfast.evaluation.summary import in_blocks
from slowfast.evaluation.view_scores import ViewScores, split

# What is averaged over the members. Each of them first averages the same over its views.
COMBINATIONS = ("logits", "probabilities")


class MemberScores(NamedTuple):
    """Scores of the same videos by all members."""

    videos: NDArray[np.int64]  # (N,), rows of the list
    is_scored: NDArray[np.bool_]  # (N,), whether every member scored the video
    scores: NDArray[np.float64]  # (M, S, K), logits or log-probabilities of the scored ones
    unscored: dict[int, str]  # reason by row of the list, of the others


def read_members(results: Sequence[Result], *, combine: str) -> Iterator[MemberScores]:
    """Iterate over the scores of several results of the same list, in the order of the list.

    It holds one block of each result in memory, whatever the length of the list.

    Args:
        results: Results of the same list and classes.
        combine: What is combined. "logits" gives the mean of the logits over the views,
            "probabilities" the logarithm of the mean of the probabilities.

    Raises:
        ShardError: If a shard is damaged, or videos are missing.
    """
    for blocks in _read_aligned(results):
        reasons: dict[int, str] = {}
        for number, (result, block) in enumerate(zip(results, blocks, strict=True), 1):
            for row, reason in _find_unscored(block).items():
                reasons.setdefault(row, f"member {number} ({result.folder}): {reason}")

        videos = blocks[0].videos
        is_scored = ~np.isin(videos, list(reasons))
        scores = [_fuse_views(block.logits[is_scored], combine) for block in blocks]
        yield MemberScores(videos, is_scored, np.stack(scores), dict(sorted(reasons.items())))


def _read_aligned(results: Sequence[Result]) -> Iterator[list[ViewScores]]:
    """Iterate over records of the same videos, one of each result."""
    streams = [iter(in_blocks(result.record.shards(result.folder).read())) for result in results]
    waiting = [next(stream, None) for stream in streams]
    while True:
        blocks = [block for block in waiting if block is not None]
        if len(blocks) < len(waiting):
            return

        num_videos = min(len(block.videos) for block in blocks)
        parts = [split(block, num_videos) for block in blocks]
        yield [first for first, _ in parts]
        waiting = [
            others if len(others.videos) else next(stream, None)
            for (_, others), stream in zip(parts, streams, strict=True)
        ]


def _find_unscored(scores: ViewScores) -> dict[int, str]:
    """Return why videos have no scores, by row of the list."""
    reasons = dict(scores.unreadable)
    is_finite = np.isfinite(scores.logits).all(axis=(1, 2))
    for row in scores.videos[scores.is_readable & ~is_finite].tolist():
        reasons[row] = "its scores are not finite"
    return reasons


def _fuse_views(logits: NDArray[np.float32], combine: str) -> NDArray[np.float64]:
    return mean_logits(logits) if combine == "logits" else fuse(logits, "probabilities")
