"""Progress of a run: lines or a live bar on the console, and a log file with more detail."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import simplejson

from slowfast.utils.cleanup import cleaned_up
from slowfast.utils.terminal import ConsoleHandler, console_for_bar
from slowfast.utils.text import printable

if TYPE_CHECKING:  # A process without a bar does not need tqdm.
    from slowfast.utils.progress_bar import StepBar

logger = logging.getLogger(__name__)

_MAX_WAITING = 10_000  # log records that wait for their file
_NEVER = logging.CRITICAL + 1  # level of a record that would not wait

Item = TypeVar("Item")


class _PrintableFormatter(logging.Formatter):
    """Escapes control sequences, since names of files and classes may hold some."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def start_logging(*, is_main: bool) -> None:
    """Send log records to the console, and keep them for `log_to_file`.

    Does nothing if records wait for their file already.

    Args:
        is_main: Whether this is the main process. Other processes only show warnings.
    """
    root = logging.getLogger()
    if any(isinstance(handler, MemoryHandler) for handler in root.handlers):
        return

    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()

    console = ConsoleHandler(sys.stdout, is_main=is_main)
    console.setFormatter(_PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    console.addFilter(lambda record: not getattr(record, "file_only", False))
    root.addHandler(console)

    root.setLevel(logging.INFO if is_main else logging.WARNING)
    if is_main:
        # The records wait until it is certain that the log file belongs to this run.
        root.addHandler(MemoryHandler(_MAX_WAITING, flushLevel=_NEVER, flushOnClose=False))


def log_to_file(path: Path) -> None:
    """Append log records to a file, starting with those since `start_logging`.

    Does nothing in a process that keeps no records, or after the first call.

    Args:
        path: The log file. Its folder is created if it is missing.
    """
    root = logging.getLogger()
    for waiting in [handler for handler in root.handlers if isinstance(handler, MemoryHandler)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        log_file = logging.FileHandler(path)
        log_file.setFormatter(_PrintableFormatter("%(asctime)s %(name)s: %(message)s"))
        root.addHandler(log_file)

        waiting.setTarget(log_file)
        waiting.flush()
        root.removeHandler(waiting)
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
    """Iterates over a loader and measures the time of each step and the wait for its data.

    If the main process logs to a terminal (see `start_logging`), one live bar in its last line
    follows the steps, and the lines of `write_line` only go to the log file. The bar ends with the
    loop: after the last step, a `break`, an error, or a signal that stops the process. Elsewhere
    (a pipe, a file, TERM=dumb, TQDM_DISABLE=1), the console gets the lines.

        steps = Progress(loader, "features", num_steps=len(loader), period=10)
        for batch in steps:
            ...
            if steps.line_is_due():
                steps.write_line(loss=loss.item())

    Args:
        items: One item per step.
        title: First words of each line, and of the bar.
        num_steps: Number of steps of the whole loop.
        period: Number of steps between two lines.
        first: Number of steps of the loop that were done before.
        steps_after: Number of steps that follow this loop (later epochs), for the remaining time.
        wait_of_all: Function from the seconds that this process waited for data to the seconds to
            report for all processes.
        live_values: Function that returns more values for the bar, such as an accuracy so far. It
            is called at each line, and only if there is a bar.
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
        live_values: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.items = items
        self.title = title
        self.period = period
        self.num_steps = num_steps
        self.steps_after = steps_after
        self.steps_done = first
        self._wait_of_all = wait_of_all
        self._live_values = live_values
        self._since_line = _Interval()
        self._bar: StepBar | None = None

    def __iter__(self) -> Iterator[Item]:
        with self._shown_live():
            asked_at = time.perf_counter()
            for item in self.items:
                self._since_line.data_wait += time.perf_counter() - asked_at
                yield item

                self.steps_done += 1
                self._since_line.num_steps += 1
                if self._bar is not None:
                    self._bar.advance(self.steps_done)
                asked_at = time.perf_counter()

    def line_is_due(self) -> bool:
        """Whether the current step ends with a line: every `period` steps, and the last one."""
        step = self.steps_done + 1
        return step % self.period == 0 or step == self.num_steps

    def write_line(self, **values: float) -> dict[str, Any]:
        """Log one line: the values, the mean step time and data wait since the last line, the ETA.

        A live bar shows the values instead of the line.

        Returns:
            The same as a record: the values, step, num_steps, step_seconds, data_wait_seconds and
            eta_seconds.
        """
        num_steps = self._since_line.num_steps + 1
        step_seconds = (time.perf_counter() - self._since_line.start) / num_steps
        wait_seconds = self._wait_of_all(self._since_line.data_wait / num_steps)
        # This line counts the current step, so the next line must not.
        self._since_line = _Interval(num_steps=-1)

        step = self.steps_done + 1
        eta_seconds = step_seconds * (self.num_steps - step + self.steps_after)
        shown = "  ".join(f"{name} {_format(value)}" for name, value in values.items())
        timing = f"step {step_seconds:.3f}s  data wait {wait_seconds:.3f}s"
        eta = timedelta(seconds=round(eta_seconds))
        logger.info(
            "%s  %d/%d  %s  %s  ETA %s",
            self.title,
            step,
            self.num_steps,
            shown,
            timing,
            eta,
            extra={"file_only": self._bar is not None},
        )
        if self._bar is not None:
            shown_live = {**values, **self._live_values()}
            self._bar.show(step, values=shown_live, data_wait=wait_seconds / step_seconds)

        return {
            **values,
            "step": step,
            "num_steps": self.num_steps,
            "step_seconds": step_seconds,
            "data_wait_seconds": wait_seconds,
            "eta_seconds": eta_seconds,
        }

    @contextmanager
    def _shown_live(self) -> Iterator[None]:
        """Show a bar while the block runs, if the console can."""
        console = console_for_bar()
        if console is None:
            yield
            return

        from slowfast.utils.progress_bar import StepBar

        bar = StepBar(
            self.title,
            num_steps=self.num_steps,
            first=self.steps_done,
            steps_after=self.steps_after,
            stream=console,
        )
        with cleaned_up(bar.close):
            self._bar = None if bar.disable else bar
            try:
                yield
            finally:
                self._bar = None


class _Interval:
    """Sums since the last line."""

    def __init__(self, *, num_steps: int = 0) -> None:
        self.start = time.perf_counter()
        self.num_steps = num_steps
        self.data_wait = 0.0  # seconds


def _format(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if 0.001 <= abs(value) < 10000 else f"{value:.3e}"
