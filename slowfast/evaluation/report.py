"""Report of an evaluation: `result.json`, `scores.npz` and the table on the console."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from slowfast.evaluation.metrics import Result
from slowfast.evaluation.scores import ScoreTable
from slowfast.utils.files import write_file, write_json
from slowfast.utils.provenance import provenance


def write_result(
    folder: Path, result: Result, *, table: ScoreTable, labels: Tensor, weights: str
) -> None:
    """Write `scores.npz` and `result.json` to a folder.

    `scores.npz` has the arrays scores (N, K), labels (N,) and is_scored (N,). `result.json` has the
    metrics, the path of the weights, the videos without scores, and the provenance of the result.

    Args:
        folder: Folder to write to.
        result: Metrics of the table.
        table: Combined table.
        labels: Class numbers of its videos, shape (N,).
        weights: Path of the weights that were evaluated.
    """
    arrays: dict[str, Any] = {
        "scores": table.scores.numpy(),
        "labels": labels.numpy(),
        "is_scored": table.is_scored.numpy(),
    }
    write_file(folder / "scores.npz", lambda file: np.savez_compressed(file, **arrays))

    unscored = [
        {"video": unscored.video_index, "reason": unscored.reason} for unscored in table.unscored
    ]
    content = {"weights": weights, **result._asdict(), "unscored": unscored}
    write_json(folder / "result.json", {**content, "run_by": provenance()})


def format_table(result: Result, class_names: Sequence[str], *, title: str) -> str:
    """Return a table of the accuracy of each class that has videos, and of all classes."""
    width = max(len(name) for name in [*class_names, "all classes"])
    rows = [
        f"  {name:<{width}}  {num_videos:>6}  {top1:>6.2f}"
        for name, num_videos, top1 in zip(
            class_names, result.class_counts, result.class_top1, strict=True
        )
        if num_videos
    ]

    head = f"  {'class':<{width}}  {'videos':>6}  {'top-1':>6}"
    foot = (
        f"  {'all classes':<{width}}  {result.num_scored:>6}  {result.top1:>6.2f}"
        f"    top-5 {result.top5:.2f}"
    )
    scored = f"  scored {result.num_scored}/{result.num_videos}"
    if result.num_scored < result.num_videos:
        scored += (
            f". With the others counted as wrong: top-1 {result.top1_listed:.2f}  "
            f"top-5 {result.top5_listed:.2f}"
        )
    return "\n".join([title, head, *rows, foot, scored])
