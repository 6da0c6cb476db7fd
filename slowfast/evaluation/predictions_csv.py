"""Predictions of a test as `predictions.csv`, for spreadsheets and scripts: one row per video."""

import csv
import io
from collections.abc import Iterable
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from slowfast.datasets.records import SPAN_PATTERN

FILE_NAME = "predictions.csv"


def has_spans(names: pa.ChunkedArray) -> bool:
    """Return whether some of the names of videos (see `Video.name`) are those of spans."""
    return bool(pc.any(pc.match_substring_regex(names, SPAN_PATTERN)).as_py())


class CsvWriter:
    """Writes the rows of `predictions.csv`, which is a table as in RFC 4180.

    Args:
        file: Open binary file.
        has_spans: Whether to write the columns `start` and `end`.
    """

    def __init__(self, file: IO[bytes], *, has_spans: bool) -> None:
        self._file = file
        self._has_spans = has_spans
        spans = ("start", "end") if has_spans else ()
        self._write_rows([("path", "class", "probability", *spans, "status", "reason")])

    def write(self, predictions: pa.Table) -> None:
        """Write rows of `predictions.parquet`."""
        paths, spans = predictions["path"], []
        if self._has_spans:
            found = pc.extract_regex(paths, f"^(?P<path>.*){SPAN_PATTERN}")
            path, *spans = (pc.struct_field(found, name) for name in ("path", "start", "end"))
            paths = pc.coalesce(path, paths)

        probabilities = pc.list_element(predictions["top_probabilities"], 0)
        columns = [
            paths,
            pc.list_element(predictions["top_names"], 0),
            probabilities.cast(pa.string()),  # the shortest text of the same float32
            *spans,
            predictions["status"],
            predictions["reason"],
        ]
        self._write_rows(zip(*(column.to_pylist() for column in columns), strict=True))

    def _write_rows(self, rows: Iterable[tuple[str | None, ...]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        self._file.write(text.getvalue().encode())
