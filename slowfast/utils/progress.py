"""What a run tells while it runs: lines on the console, the same lines and `json_stats:` records in a log file."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, Generic, TypeVar

import simplejson

from slowfast.utils.text import printable

logger = logging.getLogger(__name__)

_MOST_KEPT = 10_000  # log records that wait for their file
_NEVER = logging.CRITICAL + 1  # level of a record that would not wait

Item = TypeVar("Item")


class _PrintableFormatter(logging.Formatter):
    """Escapes what names of files and classes may hold to command a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def start_logging(*, is_main: bool) -> None:
    """Send log records to the console, and keep them for `log_to_file`; only warnings in all processes but one.

    Where records wait for their file already, nothing is changed.
    """
    root = logging.getLogger()
    if any(isinstance(handler, MemoryHandler) for handler in root.handlers):
        return
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(_PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    console.addFilter(lambda record: not getattr(record, "file_only", False))
    root.addHandler(console)
    root.setLevel(logging.INFO if is_main else logging.WARNING)
    if is_main:
        # Until it is known that the folder is that of this run, nothing is written to its log.
        root.addHandler(MemoryHandler(_MOST_KEPT, flushLevel=_NEVER, flushOnClose=False))


def log_to_file(output_dir: str) -> None:
    """Send log records to OUTPUT_DIR/stdout.log, the ones since `start_logging` first; once in a process."""
    for waiting in [
        handler for handler in logging.getLogger().handlers if isinstance(handler, MemoryHandler)
    ]:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        log_file = logging.FileHandler(Path(output_dir, "stdout.log"))
        log_file.setFormatter(_PrintableFormatter("%(asctime)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(log_file)
        waiting.setTarget(log_file)
        waiting.flush()
        logging.getLogger().removeHandler(waiting)
        waiting.close()


def log_json_stats(stats: dict[str, Any]) -> None:
    """Add one `json_stats: {...}` line to the log file, numbers to six digits, keys sorted."""
    rounded = {
        key: float(f"{value:.6g}") if isinstance(value, float) else value
        for key, value in stats.items()
    }
    text = simplejson.dumps(rounded, sort_keys=True, ignore_nan=True)
    logger.info("json_stats: %s", text, extra={"file_only": True})


class Progress(Generic[Item]):
    """Iterates over a loader and measures, per step, the time of the step and the wait for its data.

    Args:
        items: one per step.
        title: first words of each line.
        num_steps: of the whole loop.
        period: steps between two lines.
        first: steps of the loop that were done before.
        steps_after: steps that follow this loop (later epochs), for the remaining time.
        wait_of_all: from the seconds that this process waited for data to those of all processes.
    """

    def __init__(
        self,
        items: Iterable[Item],
        title: str,
        *,
        num_steps: int,
        period: int,
        first: int = 0,
        steps_after: int = 0,
        wait_of_all: Callable[[float], float] = float,
    ) -> None:
        self.items = items
        self.title = title
        self.period = period
        self.num_steps = num_steps
        self.steps_after = steps_after
        self.steps_done = first
        self._wait_of_all = wait_of_all
        self._since_line = _Interval()

    def __iter__(self) -> Iterator[Item]:
        asked = time.perf_counter()
        for item in self.items:
            self._since_line.data_wait += time.perf_counter() - asked
            yield item
            self.steps_done += 1
            self._since_line.steps += 1
            asked = time.perf_counter()

    def line_is_due(self) -> bool:
        """Whether the step under way ends with a line: every `period` steps, and the last."""
        number = self.steps_done + 1
        return number % self.period == 0 or number == self.num_steps

    def write_line(self, **values: float) -> dict[str, Any]:
        """Log one line with the given values, the mean step time and data wait since the last line, and the ETA.

        Returns:
            the same as a record: values, step, num_steps, step_seconds, data_wait_seconds, eta_seconds.
        """
        steps = self._since_line.steps + 1
        step_seconds = (time.perf_counter() - self._since_line.start) / steps
        wait_seconds = self._wait_of_all(self._since_line.data_wait / steps)
        number = self.steps_done + 1
        eta_seconds = step_seconds * (self.num_steps - number + self.steps_after)
        self._since_line = _Interval(
            steps=-1
        )  # the step under way is counted in this line, not in the next
        shown = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        logger.info(
            "%s  %d/%d  %s  step %.3fs  data wait %.3fs  ETA %s",
            *(self.title, number, self.num_steps, shown, step_seconds, wait_seconds),
            timedelta(seconds=round(eta_seconds)),
        )
        return {
            **values,
            "step": number,
            "num_steps": self.num_steps,
            "step_seconds": step_seconds,
            "data_wait_seconds": wait_seconds,
            "eta_seconds": eta_seconds,
        }


class _Interval:
    """Sums since the last line."""

    def __init__(self, *, steps: int = 0) -> None:
        self.start = time.perf_counter()
        self.steps = steps
        self.data_wait = 0.0


def _short(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if 0.001 <= abs(value) < 10000 else f"{value:.3e}"
