"""Metrics of a test on a list without labels: what was predicted, and how confidently."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True)
class PredictedClass:
    """A class, and how many videos are predicted as it."""

    name: str
    predicted: int


@dataclass(frozen=True)
class ConfidenceBin:
    """The videos whose confidence lies from `low` to below `high`, in percent."""

    low: float
    high: float
    count: int
    confidence: float | None  # mean over the videos, None if there are none


@dataclass(frozen=True)
class UnlabeledMetrics:
    """Metrics of a test on a list without labels. There is no accuracy."""

    is_labeled: ClassVar[bool] = False

    num_videos: int  # in the list
    num_scored: int  # readable, with finite scores
    num_unreadable: int
    num_nonfinite: int  # readable, with non-finite scores
    mean_confidence: float  # probability of the prediction, in percent
    classes: tuple[PredictedClass, ...]
    confidences: tuple[ConfidenceBin, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the fields as they are written to `metrics.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "UnlabeledMetrics":
        """Return the metrics in the content of `metrics.json`."""
        values = {field.name: content[field.name] for field in fields(cls)}
        for name, kind in (("classes", PredictedClass), ("confidences", ConfidenceBin)):
            values[name] = tuple(kind(**entry) for entry in values[name])
        return cls(**values)
