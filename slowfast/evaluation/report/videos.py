"""Data of the page's scripts: the table of all videos and the cells of the confusion matrix."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slowfast.evaluation.predictions import first_probabilities
from slowfast.utils.text import printable

MAX_NAME = 300  # characters shown of a path or of a class name
MAX_REASON = 600  # characters shown of a reason
MAX_CELLS = 100_000  # cells of the confusion matrix, the largest ones


def shorten(text: str, most: int = MAX_NAME) -> str:
    """Return a text that is safe to show, without the middle of it if it is too long."""
    text = printable(text[: most * 2] + text[-most:] if len(text) > most * 3 else text)
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]} … {text[head - most + 3 :]}"


def pack(content: Any) -> str:
    """Return plain data as gzipped JSON in base64, which is safe inside any element."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def pack_videos(videos: pa.Table, *, max_bytes: int) -> tuple[str, int]:
    """Return the packed columns of as many of the first videos as fit, in the order of the list.

    Args:
        videos: Videos, the most important ones first.
        max_bytes: Maximum number of bytes.

    Returns:
        The packed columns, and the number of videos in them.
    """
    num_videos = len(videos)
    packed = pack(_to_columns(videos))
    while len(packed) > max_bytes and num_videos:
        num_videos = int(0.97 * num_videos * max(max_bytes, 0) / len(packed))
        packed = pack(_to_columns(videos.slice(0, num_videos)))
    return packed, num_videos


def pack_classes(class_names: Sequence[str], confusion: Mapping[str, Sequence[int]]) -> str:
    """Return the packed class names and the largest cells of the confusion matrix.

    Args:
        class_names: Names of all classes.
        confusion: The record `confusion` of metrics.json.
    """
    counts = np.array(confusion["counts"], np.int64)
    largest = np.sort(np.argsort(-counts, kind="stable")[:MAX_CELLS])
    cells = {
        name: np.array(confusion[name], np.int64)[largest].tolist()
        for name in ("labels", "predictions", "counts")
    }
    return pack({"names": [shorten(name) for name in class_names], **cells})


def _to_columns(videos: pa.Table) -> dict[str, Any]:
    videos = videos.take(np.argsort(videos["row"].to_numpy(), kind="stable"))
    reasons = {
        index: shorten(reason, MAX_REASON)
        for index, reason in enumerate(videos["reason"].to_pylist())
        if reason
    }
    return {
        "row": videos["row"].to_pylist(),
        "path": [shorten(path) for path in videos["path"].to_pylist()],
        "label": videos["label"].to_pylist(),
        "prediction": videos["prediction"].to_pylist(),
        "rank": videos["label_rank"].to_pylist(),
        "probability": _to_floats(first_probabilities(videos)),
        "nll": _to_floats(videos["nll"].to_numpy()),
        "status": videos["status"].to_pylist(),
        "reasons": reasons,
    }


def _to_floats(values: NDArray[np.float32]) -> list[float | None]:
    """Return the shortest decimals that give the same float32 numbers, None for NaN."""
    return [float(str(value)) if np.isfinite(value) else None for value in values]
