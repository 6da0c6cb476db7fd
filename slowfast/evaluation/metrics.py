"""Metrics of an evaluation: accuracies and the loss, over all videos and per class."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from slowfast.evaluation.intervals import LEVEL, Interval, metric_intervals
from slowfast.evaluation.metric_counts import (
    FRACTION_BITS,
    NUM_RELIABILITY_BINS,
    MetricCounts,
    class_means,
    rank_of,
    top_classes,
)

__all__ = [
    "MetricCounts",
    "Metrics",
    "compute_metrics",
    "rank_of",
    "top_classes",
]

NUM_MOST_CONFUSED = 50


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of a class, in percent."""

    name: str
    support: int  # scored videos
    listed: int  # videos in the list
    precision: float | None  # None if no video was classified as it
    recall: float | None  # the top-1 accuracy of the class, None without scored videos
    f1: float | None  # None without scored videos


@dataclass(frozen=True)
class Confusion:
    """A label and a prediction that differs from it."""

    label: int
    prediction: int
    count: int  # videos
    percent: float  # of the scored videos of the label


@dataclass(frozen=True)
class ReliabilityBin:
    """The videos whose confidence lies from `low` to below `high`, in percent."""

    low: float
    high: float
    count: int
    confidence: float | None  # means over the videos, None if there are none
    accuracy: float | None


@dataclass(frozen=True)
class Metrics:
    """Metrics of an evaluation. Accuracies, F1 and ECE are in percent.

    They are of the scored videos. Means over classes are over those with scored videos.
    """

    is_labeled: ClassVar[bool] = True

    num_videos: int  # in the list
    num_scored: int  # readable, with finite scores
    num_unreadable: int
    num_nonfinite: int  # readable, with non-finite scores
    top1: float
    top5: float
    mean_class_accuracy: float
    macro_f1: float
    nll: float  # mean negative log-likelihood of the labels, in nats
    ece: float  # expected calibration error
    top1_listed: float  # of all videos of the list: those without scores count as wrong
    top5_listed: float
    intervals: dict[str, Any]  # level, num_resamples, seed, and (low, high) by metric
    classes: tuple[ClassMetrics, ...]
    most_confused: tuple[Confusion, ...]  # most frequent first, then by label and prediction
    confusion: dict[str, list[int]]  # labels, predictions and counts of the nonzero cells
    reliability: tuple[ReliabilityBin, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the fields as they are written to `metrics.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Metrics":
        """Return the metrics in the content of `metrics.json`."""
        values = {field.name: content[field.name] for field in fields(cls)}
        kinds = {"classes": ClassMetrics, "most_confused": Confusion, "reliability": ReliabilityBin}
        for name, kind in kinds.items():
            values[name] = tuple(kind(**entry) for entry in values[name])
        return cls(**values)


def compute_metrics(
    counts: MetricCounts,
    class_names: Sequence[str],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Metrics:
    """Return the metrics of an evaluation.

    Args:
        counts: Counts of all videos.
        class_names: Names of the K classes.
        num_resamples: Number of resamples of the bootstrap intervals, 0 for no intervals.
        seed: Seed of the resamples.

    Raises:
        ValueError: If no video has scores, or the number of names is not that of the classes.
    """
    if len(class_names) != counts.num_classes:
        raise ValueError(
            f"there are {len(class_names)} class names for scores of {counts.num_classes} classes"
        )

    num_videos, num_scored = int(counts.listed.sum()), counts.num_scored
    num_unreadable, num_nonfinite = int(counts.unreadable.sum()), int(counts.nonfinite.sum())
    if not num_scored:
        raise ValueError(
            f"no video of {num_videos} has scores: {num_unreadable} could not be read, and the "
            f"scores of {num_nonfinite} are not finite"
        )

    correct = counts.confusion.diagonal()
    num_correct, num_top5 = int(correct.sum()), int(counts.top5_hits.sum())
    mean_accuracy, macro_f1 = class_means(
        correct,
        support=counts.confusion.sum(axis=1),
        predicted=counts.confusion.sum(axis=0),
    )
    intervals: dict[str, Interval] = {}
    if num_resamples:
        intervals = metric_intervals(counts, num_resamples=num_resamples, seed=seed)

    return Metrics(
        num_videos=num_videos,
        num_scored=num_scored,
        num_unreadable=num_unreadable,
        num_nonfinite=num_nonfinite,
        top1=100 * num_correct / num_scored,
        top5=100 * num_top5 / num_scored,
        mean_class_accuracy=100 * float(mean_accuracy),
        macro_f1=100 * float(macro_f1),
        nll=counts.mean_nll(),
        ece=_calibration_error(counts),
        top1_listed=100 * num_correct / num_videos,
        top5_listed=100 * num_top5 / num_videos,
        intervals={
            "level": LEVEL,
            "num_resamples": num_resamples,
            "seed": seed,
            **{name: list(interval) for name, interval in intervals.items()},
        },
        classes=_class_metrics(counts, class_names),
        most_confused=_most_confused(counts.confusion),
        confusion=_nonzero_cells(counts.confusion),
        reliability=_reliability(counts),
    )


def _class_metrics(counts: MetricCounts, class_names: Sequence[str]) -> tuple[ClassMetrics, ...]:
    columns = zip(
        class_names,
        counts.listed.tolist(),
        counts.confusion.sum(axis=1).tolist(),
        counts.confusion.sum(axis=0).tolist(),
        counts.confusion.diagonal().tolist(),
        strict=True,
    )
    return tuple(
        ClassMetrics(
            name=name,
            support=support,
            listed=listed,
            precision=_percent(correct, predicted),
            recall=_percent(correct, support),
            f1=_percent(2 * correct, support + predicted) if support else None,
        )
        for name, listed, support, predicted, correct in columns
    )


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _most_confused(confusion: NDArray[np.int64]) -> tuple[Confusion, ...]:
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    labels, predictions = np.nonzero(errors)  # ordered by label, then by prediction
    counts = errors[labels, predictions]
    percents = 100 * counts / confusion.sum(axis=1)[labels]

    order = np.argsort(-counts, kind="stable")[:NUM_MOST_CONFUSED]
    columns = (column[order].tolist() for column in (labels, predictions, counts, percents))
    return tuple(Confusion(*row) for row in zip(*columns, strict=True))


def _nonzero_cells(confusion: NDArray[np.int64]) -> dict[str, list[int]]:
    labels, predictions = np.nonzero(confusion)
    return {
        "labels": labels.tolist(),
        "predictions": predictions.tolist(),
        "counts": confusion[labels, predictions].tolist(),
    }


def _reliability(counts: MetricCounts) -> tuple[ReliabilityBin, ...]:
    bins = []
    for index, (num_wrong, num_correct) in enumerate(counts.confidence_counts.tolist()):
        num_videos = num_wrong + num_correct
        confidence_sum = int(counts.confidence_sums[index].sum()) / 2**FRACTION_BITS
        bins.append(
            ReliabilityBin(
                low=100 * index / NUM_RELIABILITY_BINS,
                high=100 * (index + 1) / NUM_RELIABILITY_BINS,
                count=num_videos,
                confidence=100 * confidence_sum / num_videos if num_videos else None,
                accuracy=_percent(num_correct, num_videos),
            )
        )
    return tuple(bins)


def _calibration_error(counts: MetricCounts) -> float:
    num_correct = counts.confidence_counts[:, 1]
    confidence_sums = np.ldexp(counts.confidence_sums.sum(axis=1).astype(float), -FRACTION_BITS)
    gaps = np.abs(num_correct - confidence_sums)
    return 100 * float(gaps.sum()) / counts.num_scored
