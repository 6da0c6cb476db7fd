"""A score table for tests of what is computed from one."""

import torch

from slowfast.datasets.records import UnreadableVideo
from slowfast.evaluation.scores import ScoreTable


def combined_table(
    scores: list[list[float]], unreadable: dict[int, str] | None = None
) -> ScoreTable:
    """Return a combined table with one view per video.

    Args:
        scores: Scores of each video.
        unreadable: Rows of unreadable videos with their reasons. Their scores are ignored.
    """
    reasons = unreadable or {}
    rows = [row for row in range(len(scores)) if row not in reasons]
    readable = torch.tensor(rows, dtype=torch.long)

    table = ScoreTable(len(scores), num_views=1, num_classes=len(scores[0]))
    table.add(torch.tensor(scores)[readable], video=readable, view=torch.zeros_like(readable))
    table.add_unreadable([UnreadableVideo(row, reason) for row, reason in reasons.items()])
    table.combine()
    return table
