"""Feature files of clusters, one per class, for the tests of probes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from slowfast.inference.feature_files import (
    FeatureRecord,
    StoredFeatures,
    open_features,
    write_record,
)
from slowfast.inference.feature_writer import FeatureBlock, write_features

CLASS_NAMES = ["left", "right", "up"]


def write_clusters(
    folder: Path,
    *,
    num_videos: int = 30,
    per_video: int = 2,
    shape: tuple[int, ...] = (8,),
    seed: int = 0,
    unreadable: dict[int, str] | None = None,
    labels: np.ndarray | None = None,
    label_shift: int = 0,
    **identity: Any,
) -> StoredFeatures:
    """Write features around one center per class. Video v has the label v % 3 by default."""
    rng = np.random.default_rng(seed)
    if labels is None:
        labels = np.arange(num_videos) % 3
    centers = np.random.default_rng(99).standard_normal((3, shape[-1]))
    noise = rng.standard_normal((num_videos, per_video, *shape))
    by_video = centers[labels].reshape(num_videos, *([1] * len(shape)), shape[-1])
    features = (by_video + noise).astype(np.float32)

    record = FeatureRecord(
        identity={
            "weights_sha256": "w", "TEST.EMA": True, "stage": None, "tokens": len(shape) == 2,
            "num_clips": per_video, "num_crops": 1, "per": "view", "paths_sha256": str(folder),
            **identity,
        },
        class_names=CLASS_NAMES,
        num_videos=num_videos,
        features_per_video=per_video,
        shape=shape,
        fusion="sum",
        weights="w.pyth",
        list_path=f"{folder}.csv",
        config="",
    )  # fmt: skip
    block = FeatureBlock(
        np.arange(num_videos),
        features,
        np.full((num_videos, per_video, 2), np.nan),
        unreadable or {},
    )
    labels = np.where(labels < 0, labels, (labels + label_shift) % 3)
    names = pa.chunked_array([[f"{row}.mp4" for row in range(num_videos)]])
    write_record(folder, record)
    write_features(folder, record, [block], names=names, labels=labels.astype(np.int32))
    return open_features(folder)
