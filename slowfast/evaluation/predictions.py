"""Predictions of a test, `predictions.parquet`: one row per video, in the order of the list.

`predictions.csv` is written beside it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from slowfast.evaluation.predictions_csv import FILE_NAME as CSV_NAME
from slowfast.evaluation.predictions_csv import CsvWriter
from slowfast.utils.files import open_unfinished

FILE_NAME = "predictions.parquet"
VERSION = "1"
SCORED, UNREADABLE, NONFINITE = "scored", "unreadable", "nonfinite"
NUM_TOP = 5

_VERSION_KEY = b"slowfast.predictions"
_ROWS_PER_GROUP = 1 << 16
_REMEDY = "Run the test again"
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # row of the list, from 0
        ("path", pa.string()),  # name of the video, see `Video.name`
        ("label", pa.int32()),  # null in a list without labels, as the next column
        ("class_name", pa.string()),  # of the label
        # The columns from here to the top classes are null unless the video is scored.
        ("prediction", pa.int32()),
        ("label_rank", pa.int32()),  # 1 if the prediction is right, null without a label
        ("nll", pa.float32()),  # negative log probability of the label, null without one
        ("top_labels", pa.list_(pa.int32())),
        ("top_names", pa.list_(pa.string())),
        ("top_probabilities", pa.list_(pa.float32())),
        ("num_views", pa.int32()),  # views scored
        ("status", pa.string()),  # scored | unreadable | nonfinite
        ("reason", pa.string()),  # why it is not scored, "" otherwise
    ],
    metadata={_VERSION_KEY: VERSION},
)


class LabelColumns(NamedTuple):
    """What the labels of N videos say, of which S are scored."""

    labels: NDArray[np.int32]  # (N,), class numbers
    ranks: NDArray[np.int64]  # (S,), rank of the label among the classes, from 1
    nlls: NDArray[np.float64]  # (S,), negative log probability of the label


class PredictionsWriter:
    """Writes the predictions of a test, block by block. See `open_predictions`."""

    def __init__(
        self, parquet: pq.ParquetWriter, csv: CsvWriter, *, class_names: Sequence[str]
    ) -> None:
        self._parquet = parquet
        self._csv = csv
        self._class_names = pa.array(class_names, pa.string())
        self._waiting: list[pa.RecordBatch] = []

    def write(
        self,
        rows: NDArray[np.int64],
        *,
        paths: pa.ChunkedArray,
        label_columns: LabelColumns | None,
        top: NDArray[np.int64],
        top_probabilities: NDArray[np.float64],
        num_views: int,
        unscored: dict[int, tuple[str, str]],
    ) -> None:
        """Write the rows of some videos.

        Args:
            rows: Rows of the list, shape (N,).
            paths: Names of these videos, N.
            label_columns: What their labels say, None in a list without labels.
            top: Most probable classes of the scored ones among them, shape (S, T).
            top_probabilities: Their probabilities, shape (S, T).
            num_views: Number of views of a scored video.
            unscored: Status and reason of each other video, by row of the list.
        """
        is_scored = ~np.isin(rows, list(unscored))
        position = np.cumsum(is_scored) - 1  # among the scored ones
        take = pa.array(position, mask=~is_scored)

        def spread(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
            return pa.array(values).cast(kind).take(take)

        def spread_lists(values: pa.Array) -> pa.Array:
            offsets = np.arange(len(top) + 1, dtype=np.int32) * top.shape[1]
            return pa.ListArray.from_arrays(offsets, values).take(take)

        labels, ranks, nlls = (pa.nulls(len(rows), pa.int32()) for _ in range(3))
        if label_columns is not None:
            labels = pa.array(label_columns.labels).cast(pa.int32())
            ranks = spread(label_columns.ranks, pa.int32())
            nlls = spread(label_columns.nlls.astype(np.float32), pa.float32())

        top_labels = pa.array(top.ravel()).cast(pa.int32())
        probabilities = pa.array(top_probabilities.ravel().astype(np.float32))
        states = [unscored.get(row, (SCORED, "")) for row in rows.tolist()]
        columns = [
            pa.array(rows),
            pa.concat_arrays(paths.chunks).cast(pa.string()),
            labels,
            self._class_names.take(labels),
            spread(top[:, 0], pa.int32()),
            ranks,
            nlls.cast(pa.float32()),
            spread_lists(top_labels),
            spread_lists(self._class_names.take(top_labels)),
            spread_lists(probabilities),
            pa.array(np.where(is_scored, num_views, 0).astype(np.int32)),
            pa.array([status for status, _ in states]),
            pa.array([reason for _, reason in states]),
        ]
        self._waiting.append(pa.record_batch(columns, schema=SCHEMA))
        if sum(map(len, self._waiting)) >= _ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait for their row group."""
        if self._waiting:
            table = pa.Table.from_batches(self._waiting)
            self._parquet.write_table(table)
            self._csv.write(table)
            self._waiting = []


@contextmanager
def open_predictions(
    folder: Path, class_names: Sequence[str], *, has_spans: bool
) -> Iterator[PredictionsWriter]:
    """Write `predictions.parquet` and `predictions.csv`, whole or not at all.

    Args:
        folder: Folder of the test.
        class_names: Names of the classes, in the order of the head.
        has_spans: Whether `predictions.csv` has columns for the spans of videos.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = {"compression": "zstd", "write_page_checksum": True}
    with (
        open_unfinished(folder / FILE_NAME) as file,
        open_unfinished(folder / CSV_NAME) as csv_file,
    ):
        csv = CsvWriter(csv_file, has_spans=has_spans)
        with pq.ParquetWriter(file, SCHEMA, **options) as parquet:
            writer = PredictionsWriter(parquet, csv, class_names=class_names)
            yield writer
            writer.flush()

        csv_file.commit()
        file.commit()


@contextmanager
def reading_predictions(path: Path, *, columns: Sequence[str]) -> Iterator[pq.ParquetFile]:
    """Open a `predictions.parquet`, and name it in errors of its reader.

    Args:
        path: The file.
        columns: Names of the columns that it must have.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, has another version, or lacks a column.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(path, file.schema_arrow, columns=columns)
            yield file
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file. {_REMEDY}") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: is damaged ({reason}). {_REMEDY}") from error


def read_predictions(path: Path, *, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
    """Return columns of a `predictions.parquet`, all of them by default.

    Raises:
        FileNotFoundError, ValueError: See `reading_predictions`.
    """
    with reading_predictions(path, columns=columns) as file:
        return file.read(columns=list(columns))


def _check_schema(path: Path, schema: pa.Schema, *, columns: Sequence[str]) -> None:
    version = (schema.metadata or {}).get(_VERSION_KEY)
    if version is None:
        raise ValueError(f"{path}: holds no predictions of a test. {_REMEDY}")
    if version != VERSION.encode():
        raise ValueError(
            f"{path}: has version {version.decode(errors='replace')}, but this code reads version "
            f"{VERSION}. {_REMEDY}"
        )
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise ValueError(f"{path}: has no column {missing[0]!r}. {_REMEDY}")


def first_probabilities(videos: pa.Table) -> NDArray[np.float32]:
    """Return the probability of the prediction of each video, NaN for an unscored one."""
    lists = videos["top_probabilities"].combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)

    first = np.full(len(lengths), np.nan, np.float32)
    has_any = lengths > 0
    first[has_any] = lists.flatten().to_numpy()[starts[has_any]]
    return first
