"""Result of a test: its folder with `test.json`, the score shards, predictions and metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slowfast.evaluation.metrics import Metrics
from slowfast.evaluation.predictions import FILE_NAME as PREDICTIONS_NAME
from slowfast.evaluation.predictions import SCHEMA, open_predictions, read_predictions
from slowfast.evaluation.predictions_csv import has_spans
from slowfast.evaluation.result_record import FILE_NAME as RECORD_NAME
from slowfast.evaluation.result_record import ResultRecord, read_record
from slowfast.evaluation.summary import LabeledCounts, Summary, UnlabeledCounts, in_blocks
from slowfast.evaluation.unlabeled_metrics import UnlabeledMetrics
from slowfast.utils.files import read_json, write_json
from slowfast.utils.provenance import provenance

METRICS_NAME = "metrics.json"
REPORT_NAME = "report.html"
GALLERY_NAME = "gallery.json"

VERSION = 1  # of metrics.json and predictions.parquet
_REMEDY = "Run the test again"


@dataclass(frozen=True)
class Result:
    """A finished test in a folder.

    Args:
        folder: Folder of the test.
        record: What was scored and with what.
        metrics: Content of `metrics.json`.
    """

    folder: Path
    record: ResultRecord
    metrics: dict[str, Any]

    def predictions(self, *columns: str) -> pa.Table:
        """Return columns of `predictions.parquet`, all of them by default.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or has other rows than the list.
        """
        path = self.folder / PREDICTIONS_NAME
        table = read_predictions(path, columns=columns or SCHEMA.names)
        if len(table) != self.record.num_videos:
            raise ValueError(
                f"{path}: has {len(table)} rows for {self.record.num_videos} videos. {_REMEDY}"
            )
        return table


def find_result(path: Path) -> Path:
    """Return the folder of a finished test.

    Args:
        path: This folder, or the OUTPUT_DIR that holds it as `test`.

    Raises:
        FileNotFoundError: If neither holds a finished test.
    """
    for folder in (path, path / "test"):
        if (folder / METRICS_NAME).is_file():
            return folder
    for folder in (path, path / "test"):
        if (folder / RECORD_NAME).is_file():
            raise FileNotFoundError(
                f"{folder}: the test is not finished ({METRICS_NAME} is missing). The same test "
                "command continues it"
            )
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder. Name the OUTPUT_DIR of a finished test")
    raise FileNotFoundError(
        f"{path}: holds no {METRICS_NAME}, and neither does its folder test. Name the OUTPUT_DIR "
        "of a finished test"
    )


def open_result(path: Path) -> Result:
    """Return the result of a test.

    Args:
        path: Folder of the test, or the OUTPUT_DIR that holds it as `test`.

    Raises:
        FileNotFoundError: If there is no finished test.
        ValueError: If a file is damaged or has another version.
    """
    folder = find_result(path)
    record, metrics = read_record(folder), read_metrics(folder)
    if metrics.get("test_id") != record.test_id:
        raise ValueError(f"{folder}: {METRICS_NAME} belongs to another test than {RECORD_NAME}")
    return Result(folder, record, metrics)


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the content of `metrics.json` in the folder of a test.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or has another version.
    """
    path = folder / METRICS_NAME
    content = read_json(path, remedy=_REMEDY)
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise ValueError(
            f"{path}: has version {version}, but this code reads version {VERSION}. {_REMEDY}"
        )
    metrics: dict[str, Any] = {"is_labeled": True, **content}
    return metrics


def parse_metrics(content: Mapping[str, Any]) -> Metrics | UnlabeledMetrics:
    """Return the metrics in the content of `metrics.json`, see `read_metrics`."""
    kind = Metrics if content["is_labeled"] else UnlabeledMetrics
    return kind.from_json(content)


def require_labels(results: Sequence[Result], *, purpose: str) -> None:
    """Check that results are of lists with labels.

    Args:
        results: The results.
        purpose: What needs the labels, such as "compare them".

    Raises:
        ValueError: If the list of a result has no labels. The message names the result.
    """
    for result in results:
        if not result.record.is_labeled:
            raise ValueError(
                f"{result.folder}: its list has no labels, so there is nothing to {purpose} by. "
                "Test on a list with labels"
            )


def write_result(
    folder: Path,
    record: ResultRecord,
    *,
    names: pa.ChunkedArray,
    labels: NDArray[np.int32],
    fusion: str,
    temperature: float | None = None,
    facts: dict[str, Any] | None = None,
) -> Metrics | UnlabeledMetrics:
    """Merge the score shards of a test, and write its predictions and metrics.

    The scores are streamed: memory does not grow with the number of videos times classes.

    Args:
        folder: Folder of the test.
        record: What was scored and with what.
        names: Name of each video of the list.
        labels: Class number of each video, shape (N,). They are not read if the record says that
            the list has no labels.
        fusion: How to combine the views of a video, one of `fusion.FUSIONS`.
        temperature: Number that divides the logits. None leaves them as they are.
        facts: Further entries of `metrics.json`, such as the seconds that the test took.

    Returns:
        The metrics.

    Raises:
        ShardError: If a shard is damaged, or videos are missing.
        ValueError: If no video has scores.
        OSError: If a file cannot be written.
    """
    summary = Summary(
        names,
        _make_counts(record, labels),
        num_views=record.num_clips * record.num_crops,
        fusion=fusion,
        temperature=temperature or 1.0,
    )
    for name in (METRICS_NAME, REPORT_NAME, GALLERY_NAME):  # They would describe others.
        (folder / name).unlink(missing_ok=True)
    spans = has_spans(names)
    with open_predictions(folder, record.class_names, has_spans=spans) as predictions:
        for scores in in_blocks(record.shards(folder).read()):
            summary.add(scores, predictions)

    if not summary.counts.num_scored:
        raise ValueError(
            f"no video of {record.num_videos} has scores. The first one: {summary.first_reason}"
        )
    metrics = summary.counts.compute_metrics(record.class_names)
    content = {
        "version": VERSION,
        "test_id": record.test_id,
        "is_labeled": record.is_labeled,
        **metrics.as_json(),
        "views": summary.counts.view_records(),
        "num_clips": record.num_clips,
        "num_crops": record.num_crops,
        "fusion": fusion,
        "temperature": temperature,
        "weights": record.weights,
        "weights_sha256": record.identity.get("weights_sha256"),
        "list": record.list_path,
        "identity": record.identity,
        **(facts or {}),
        "run_by": provenance(),
    }
    write_json(folder / METRICS_NAME, content)
    return metrics


def _make_counts(
    record: ResultRecord, labels: NDArray[np.int32]
) -> LabeledCounts | UnlabeledCounts:
    num_classes = len(record.class_names)
    if not record.is_labeled:
        return UnlabeledCounts(num_classes)
    return LabeledCounts(
        labels, num_classes=num_classes, num_clips=record.num_clips, num_crops=record.num_crops
    )
