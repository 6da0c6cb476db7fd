"""Results of tests that never ran: given logits in score shards, merged as a test merges them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from slowfast.evaluation.result import Result, open_result, write_result
from slowfast.evaluation.result_record import ResultRecord, write_record
from slowfast.evaluation.view_scores import ViewScores


def write_test(
    folder: Path,
    logits: ArrayLike,
    labels: Sequence[int] | None,
    *,
    paths: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    unreadable: Mapping[int, str] | None = None,
    views_per_forward: int = 4,
    fusion: str = "sum",
    weights: Path | str = "weights.pyth",
    weights_sha256: str = "a" * 64,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Write the result of a test.

    Args:
        folder: Folder of the result.
        logits: Logits of every view of every video, shape (N, V, K), or (N, K) for one view.
        labels: Class numbers of the videos, None for a list without labels.
        paths: Paths of the videos, by default 0.mp4 and so on.
        class_names: Names of the classes, by default class 0 and so on.
        unreadable: Reasons of unreadable videos by row.
        views_per_forward: Largest number of views in a forward pass.
        fusion: How to combine the views.
        weights: Path of the weights.
        weights_sha256: SHA-256 of the weights.
        settings: Further entries of the identity.
    """
    scores: NDArray[np.float32] = np.array(logits, np.float32)
    if scores.ndim == 2:
        scores = scores[:, None]
    num_videos, num_views, num_classes = scores.shape
    names = list(paths or [f"{row}.mp4" for row in range(num_videos)])
    reasons = dict(unreadable or {})
    scores[list(reasons)] = np.nan

    record = ResultRecord(
        identity={
            "weights_sha256": weights_sha256,
            "paths_sha256": "/".join(names),
            "labels_sha256": str(labels),
            "num_clips": num_views,
            **(settings or {}),
        },
        class_names=list(class_names or [f"class {number}" for number in range(num_classes)]),
        num_videos=num_videos,
        num_clips=num_views,
        num_crops=1,
        views_per_forward=views_per_forward,
        weights=str(weights),
        list_path="test.csv",
        is_labeled=labels is not None,
    )
    write_record(folder, record)
    shards = record.shards(folder)
    with shards.writer(start=1, rank=0) as writer:
        for group in range(shards.groups.num_groups):
            videos = np.array(shards.groups.videos(group))
            writer.write(
                ViewScores(
                    videos,
                    scores[videos],
                    {row: reasons[row] for row in videos.tolist() if row in reasons},
                )
            )

    columns = pa.chunked_array([names], pa.string())
    numbers = np.array([-1] * num_videos if labels is None else labels, np.int32)
    write_result(folder, record, names=columns, labels=numbers, fusion=fusion)
    return open_result(folder)


def one_hot(predictions: Sequence[int], num_classes: int, *, confidence: float = 2.0) -> NDArray:
    """Return logits with one view per video that predict given classes."""
    return confidence * np.eye(num_classes, dtype=np.float32)[list(predictions)]
