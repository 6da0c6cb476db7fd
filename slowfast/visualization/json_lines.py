"""The tracker JSON lines: a file with one JSON object per step, for plots of your own."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import simplejson

from slowfast.utils.files import write_file
from slowfast.visualization.trackers import TrackedRun, Tracker

FILE_NAME = "metrics.jsonl"


class JsonLinesTracker(Tracker):
    """Appends lines such as `{"step": 50, "train/loss": 1.25}` to a file. NaN is written as null.

    Args:
        run: The run. Lines of its record beyond its finished steps are removed.
    """

    def __init__(self, run: TrackedRun) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        path = run.folder / FILE_NAME
        if path.exists() and run.num_steps is not None:
            _remove_later_lines(path, num_steps=run.num_steps)
        self._file: IO[str] = open(path, "a", encoding="utf-8")  # noqa: SIM115  close() closes it

    def log_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Add one line."""
        text = simplejson.dumps({"step": step, **scalars}, ignore_nan=True)
        self._file.write(f"{text}\n")
        self._file.flush()

    def close(self, *, is_finished: bool) -> None:
        """Sync the file to disk and close it."""
        os.fsync(self._file.fileno())
        self._file.close()


def _remove_later_lines(path: Path, *, num_steps: int) -> None:
    """Remove the lines beyond a step, and a line that a kill tore."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _step_of(line) <= num_steps]
    if kept != lines:
        write_file(path, "".join(kept))


def _step_of(line: str) -> int:
    return int(simplejson.loads(line)["step"])
