"""Predictions and features as plain records."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.evaluation.fusion import fuse
from slowfast.evaluation.metric_counts import top_classes


class ClassScore(NamedTuple):
    """A class and its probability."""

    label: str
    probability: float
    class_id: int  # row of the head


class ClipScores(NamedTuple):
    """Scores of one temporal clip of a video."""

    start: float | None  # seconds from the first frame of the video, None if times are unknown
    end: float | None
    logits: NDArray[np.float32]  # (num_crops, K)
    probabilities: NDArray[np.float64]  # (K,), of all its crops together


class Prediction(NamedTuple):
    """Scores of a video."""

    path: str
    top: list[ClassScore]  # the most probable classes, the best first
    probabilities: NDArray[np.float64]  # (K,)
    logits: NDArray[np.float32]  # (num_views, K), clip by clip
    clips: list[ClipScores]

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return self.top[0].label

    @property
    def probability(self) -> float:
        """Probability of the most probable class."""
        return self.top[0].probability

    def as_json(self) -> dict[str, Any]:
        """Return the path, the top classes and the times of the clips as plain data."""
        return {
            "path": self.path,
            "top": [score._asdict() for score in self.top],
            "clips": [
                {"start": clip.start, "end": clip.end, "probability": clip.probabilities[best]}
                for clip in self.clips
                for best in [self.top[0].class_id]
            ],
        }


class Features(NamedTuple):
    """Features of a video."""

    path: str
    mean: NDArray[np.float32]  # (C,), the mean over all views
    views: NDArray[np.float32]  # (num_views, C), or (num_views, N, C) for tokens, clip by clip
    intervals: list[tuple[float, float] | None]  # seconds of each view, None if unknown


class Unreadable(NamedTuple):
    """An input without a result."""

    path: str
    reason: str  # names the file

    def as_json(self) -> dict[str, Any]:
        """Return the path and the reason as plain data."""
        return self._asdict()


def make_prediction(
    path: str,
    logits: NDArray[np.float32],
    *,
    intervals: Sequence[tuple[float, float] | None],
    class_names: Sequence[str],
    top: int,
    fusion: str,
    temperature: float = 1.0,
) -> Prediction:
    """Return the prediction of a video from the logits of its views.

    Args:
        path: Name of the video.
        logits: Finite logits of shape (num_views, K), clip by clip.
        intervals: Start and end of each temporal clip in seconds, None if they are unknown.
        class_names: Names of the K classes.
        top: Number of the most probable classes to name.
        fusion: How to combine views, see `slowfast.evaluation.fusion.fuse`.
        temperature: Number that divides the logits, 1 for uncalibrated probabilities.

    Raises:
        ValueError: If the number of class names is not that of the logits.
    """
    if logits.shape[1] != len(class_names):
        raise ValueError(
            f"{path}: the model returns {logits.shape[1]} scores, but there are "
            f"{len(class_names)} class names. Set classifier.class_names"
        )
    probabilities = _probabilities(logits, fusion=fusion, temperature=temperature)
    order = top_classes(probabilities[None], top)[0]
    best = [ClassScore(class_names[k], float(probabilities[k]), int(k)) for k in order]

    clips = []
    for interval, clip_logits in zip(intervals, np.split(logits, len(intervals)), strict=True):
        start, end = interval or (None, None)
        clip = _probabilities(clip_logits, fusion=fusion, temperature=temperature)
        clips.append(ClipScores(start, end, clip_logits, clip))
    return Prediction(path, best, probabilities, logits, clips)


def _probabilities(
    logits: NDArray[np.float32], *, fusion: str, temperature: float
) -> NDArray[np.float64]:
    log_probabilities = fuse(logits[None] / np.float64(temperature), fusion)
    return np.exp(log_probabilities)[0]
