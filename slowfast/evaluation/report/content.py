"""The result of a test as its report page shows it, from metrics.json and predictions.parquet."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slowfast.evaluation.predictions import FILE_NAME as PREDICTIONS_NAME
from slowfast.evaluation.predictions import first_probabilities, reading_predictions
from slowfast.evaluation.result import METRICS_NAME, read_metrics

MAX_HIGHLIGHTS = 24  # videos with thumbnails
MAX_UNSCORED = 200  # videos in the table of unscored videos
MAX_VIDEOS = 20_000  # videos in the table of all videos

_BATCH_ROWS = 1 << 16
_REMEDY = "Run the test again"

_COLUMNS = {
    "row": pa.int64(),
    "path": pa.string(),
    "label": pa.int32(),
    "prediction": pa.int32(),
    "label_rank": pa.int32(),
    "nll": pa.float32(),
    "top_labels": pa.list_(pa.int32()),
    "top_probabilities": pa.list_(pa.float32()),
    "status": pa.string(),
    "reason": pa.string(),
}
_ALWAYS = ("row", "path", "status", "reason")  # columns that every video has
_IF_LABELED = ("label",)
_IF_SCORED = ("prediction", "top_labels", "top_probabilities")
_IF_SCORED_AND_LABELED = ("label_rank", "nll")
_METRICS = (
    "num_videos",
    "num_scored",
    "num_unreadable",
    "num_nonfinite",
    "classes",
    "num_clips",
    "num_crops",
    "fusion",
    "weights",
    "run_by",
)
_METRICS_IF_LABELED = (
    "top1",
    "top5",
    "mean_class_accuracy",
    "macro_f1",
    "nll",
    "ece",
    "top1_listed",
    "top5_listed",
    "intervals",
    "most_confused",
    "confusion",
    "reliability",
    "views",
)
_METRICS_IF_UNLABELED = ("mean_confidence", "confidences")


class Prediction(NamedTuple):
    """The prediction for one video, or why there is none."""

    row: int  # index in the list
    path: str
    label: int | None  # None in a list without labels, as `label_rank` and `nll`
    prediction: int | None
    label_rank: int | None
    nll: float | None
    top_labels: list[int] | None
    top_probabilities: list[float] | None
    status: str  # scored | unreadable | nonfinite
    reason: str  # "" if scored


class Content(NamedTuple):
    """The result of a test. Of a large list, it holds only the videos that the page shows.

    The highlights are the most confident mistakes, in descending order of confidence. In a list
    without labels, they are the least confident predictions, in ascending order.
    """

    metrics: dict[str, Any]  # content of metrics.json
    config: str  # text of config.yaml, "" if there is none
    highlights: list[Prediction]  # videos with thumbnails
    unscored: list[Prediction]  # the first ones, in the order of the list
    videos: pa.Table  # unscored videos, then mistakes, then the others, each in the list's order


def read_content(folder: Path) -> Content:
    """Return the result of a test. Memory does not grow with the number of videos.

    Args:
        folder: Directory with metrics.json and predictions.parquet.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If one is damaged or of another version, or the two do not fit together.
    """
    metrics = _read_complete_metrics(folder)
    is_labeled, num_classes = metrics["is_labeled"], len(metrics["classes"])
    selection = _Selection(is_labeled=is_labeled)
    path = folder / PREDICTIONS_NAME
    for batch in _read_predictions(path, num_classes=num_classes, is_labeled=is_labeled):
        selection.add(batch)

    for status, number in selection.counts.items():
        if number != metrics[f"num_{status}"]:
            raise ValueError(
                f"{path}: has {number} {status} videos, but metrics.json has "
                f"{metrics[f'num_{status}']}. The two files are of different tests. {_REMEDY}"
            )

    config = folder / "config.yaml"
    return Content(
        metrics,
        config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        highlights=_to_predictions(selection.highlights),
        unscored=_to_predictions(selection.unscored.slice(0, MAX_UNSCORED)),
        videos=selection.videos,
    )


def _read_complete_metrics(folder: Path) -> dict[str, Any]:
    metrics, path = read_metrics(folder), folder / METRICS_NAME
    needed = _METRICS_IF_LABELED if metrics["is_labeled"] else _METRICS_IF_UNLABELED
    missing = [name for name in (*_METRICS, *needed) if name not in metrics]
    if missing:
        raise ValueError(f"{path}: has no {missing[0]!r}. {_REMEDY}")
    if metrics["is_labeled"]:
        _check_confusions(path, metrics)
    return metrics


def _check_confusions(path: Path, metrics: Mapping[str, Any]) -> None:
    num_classes = len(metrics["classes"])
    cells, pairs = metrics["confusion"], metrics["most_confused"]
    found = [*cells["labels"], *cells["predictions"]]
    found += [pair[name] for pair in pairs for name in ("label", "prediction")]
    if found and not 0 <= min(found) <= max(found) < num_classes:
        raise ValueError(
            f"{path}: has confusions of other than its {num_classes} classes. {_REMEDY}"
        )


def _read_predictions(path: Path, *, num_classes: int, is_labeled: bool) -> Iterator[pa.Table]:
    with reading_predictions(path, columns=list(_COLUMNS)) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(_COLUMNS)):
            table = pa.Table.from_batches([batch]).select(list(_COLUMNS))
            table = table.cast(pa.schema(_COLUMNS.items()))
            _check_values(path, table, num_classes=num_classes, is_labeled=is_labeled)
            yield table


def _check_values(path: Path, table: pa.Table, *, num_classes: int, is_labeled: bool) -> None:
    scored = table.filter(pc.equal(table["status"], "scored"))
    always, if_scored = list(_ALWAYS), list(_IF_SCORED)
    if is_labeled:
        always += _IF_LABELED
        if_scored += _IF_SCORED_AND_LABELED

    incomplete = [name for name in always if table[name].null_count]
    incomplete += [name for name in if_scored if scored[name].null_count]
    if incomplete:
        raise ValueError(f"{path}: has no {incomplete[0]!r} of some videos. {_REMEDY}")
    if not is_labeled and table["label"].null_count < len(table):
        raise ValueError(f"{path}: has labels, but metrics.json is of a list without. {_REMEDY}")

    for name in ("label", "prediction"):
        found = pc.min_max(table[name]).as_py()
        values = [value for value in found.values() if value is not None]
        if any(not 0 <= value < num_classes for value in values):
            raise ValueError(
                f"{path}: has a {name} of {values[0] if values[0] < 0 else values[-1]}, but "
                f"metrics.json has {num_classes} classes. {_REMEDY}"
            )


class _Selection:
    """The videos that the page shows, chosen in one pass over the list.

    A scored video without a label is no right prediction, and counts as a mistake here.

    Args:
        is_labeled: Whether the list has labels.

    Attributes:
        counts: Number of videos by status.
        highlights: See `Content`.
    """

    def __init__(self, *, is_labeled: bool) -> None:
        self.counts = {"scored": 0, "unreadable": 0, "nonfinite": 0}
        self.highlights = pa.schema(_COLUMNS.items()).empty_table()
        self._kinds = [self.highlights for _ in range(3)]  # unscored, mistakes, others
        self._order = -1 if is_labeled else 1

    def add(self, batch: pa.Table) -> None:
        """Add the next videos of the list."""
        for name in self.counts:
            self.counts[name] += pc.sum(pc.equal(batch["status"], name)).as_py()

        is_scored = pc.equal(batch["status"], "scored").to_numpy()
        prediction = pc.fill_null(batch["prediction"], -1).to_numpy()
        is_mistake = is_scored & (prediction != pc.fill_null(batch["label"], -1).to_numpy())
        self._add_highlights(batch.filter(pa.array(is_mistake)))

        for kind, is_kind in enumerate((~is_scored, is_mistake, is_scored & ~is_mistake)):
            room = MAX_VIDEOS - len(self._kinds[kind])
            rows = np.flatnonzero(is_kind)[:room]
            if len(rows):
                self._kinds[kind] = pa.concat_tables([self._kinds[kind], batch.take(rows)])

    def _add_highlights(self, mistakes: pa.Table) -> None:
        candidates = pa.concat_tables([self.highlights, mistakes])
        confidences = self._order * first_probabilities(candidates)
        order = np.lexsort((candidates["row"].to_numpy(), confidences))
        self.highlights = candidates.take(order[:MAX_HIGHLIGHTS]).combine_chunks()

    @property
    def unscored(self) -> pa.Table:
        """The first unscored videos."""
        return self._kinds[0]

    @property
    def videos(self) -> pa.Table:
        """The videos for the table of all videos, the most important ones first."""
        return pa.concat_tables(self._kinds).slice(0, MAX_VIDEOS).combine_chunks()


def _to_predictions(videos: pa.Table) -> list[Prediction]:
    return [Prediction(**video) for video in videos.to_pylist()]
