"""Output of predictions: text for people, JSON lines and CSV, on standard output or in a file."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import simplejson

from slowfast.utils.files import explain, open_unfinished
from slowfast.utils.text import printable

FORMATS = ("text", "json", "csv")

_COLUMNS = {
    "video": ["path"],
    "window": ["path", "start", "end"],
    "stream": ["path", "start", "end", "latency", "num_dropped"],
    "segment": ["path", "start", "end", "num_windows", "label", "probability"],
}


class Record(Protocol):
    """A prediction of a video, a window or a segment, or an input without one."""

    def as_json(self) -> dict[str, Any]:
        """Return plain data: `path`, and `top` or `label` or `reason`."""
        ...


class Output:
    """Writes records one by one. What is written can be read at once.

    Args:
        output_format: One of `FORMATS`.
        kind: video | window | stream | segment: what a record is about.
        top: Number of classes of a record.
        write: Function that takes text.
    """

    def __init__(
        self, output_format: str, *, kind: str, top: int, write: Callable[[str], object]
    ) -> None:
        self._format = output_format
        self._columns = list(_COLUMNS[kind])
        if kind != "segment":
            for rank in range(1, top + 1):
                self._columns += [f"label_{rank}", f"probability_{rank}"]
        self._columns.append("reason")

        self._write = write
        if output_format == "csv":
            write(_csv_line(self._columns))

    def write(self, record: Record) -> None:
        """Write a record. Text leaves out what is unreadable."""
        fields = record.as_json()
        if self._format == "json":
            self._write(simplejson.dumps(fields) + "\n")
        elif self._format == "csv":
            cells = _by_rank(fields)
            self._write(_csv_line([cells.get(name, "") for name in self._columns]))
        elif "reason" not in fields:
            self._write(_text_line(fields))


@contextmanager
def open_output(path: Path | None) -> Iterator[Callable[[str], object]]:
    """Open a file, or standard output, and yield the function that writes text to it.

    The file takes its path at the end, or when Ctrl-C ends the block.

    Args:
        path: The file. None for standard output.

    Raises:
        OSError: If the file cannot be written. An older file at this path stays as it was.
    """
    if path is None:
        yield lambda text: print(text, end="", flush=True)
        return

    with _explained(path):
        if path.is_dir():
            raise IsADirectoryError("it is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = open_unfinished(path)
        file = unfinished.__enter__()

    def write(text: str) -> None:
        with _explained(path):
            file.write(text.encode("utf-8", errors="surrogateescape"))

    try:
        try:
            yield write
        except KeyboardInterrupt:
            with _explained(path):
                file.commit()
            raise
        with _explained(path):
            file.commit()
    finally:
        unfinished.__exit__(None, None, None)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Name the file and the reason in errors about writing it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {explain(error, path.parent)}") from error


def _by_rank(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the top classes as columns: label_1, probability_1, label_2 ..."""
    cells = dict(fields)
    for rank, score in enumerate(fields.get("top", ()), start=1):
        cells[f"label_{rank}"] = score["label"]
        cells[f"probability_{rank}"] = score["probability"]
    return cells


def _csv_line(cells: Sequence[Any]) -> str:
    """Return a line after RFC 4180."""
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


def _text_line(fields: dict[str, Any]) -> str:
    words = [fields["path"]]
    if "start" in fields:
        words.append(f" {fields['start']:.2f}-{fields['end']:.2f} s")

    scores = fields.get("top") or [fields]
    shown = [f"{score['label']} {score['probability']:.1%}" for score in scores]
    words.append(f": {', '.join(shown)}")
    if "latency" in fields:
        words.append(f"  (latency {fields['latency']:.2f} s")
        words.append(f", {fields['num_dropped']} frames dropped)")
    return printable("".join(words)) + "\n"
