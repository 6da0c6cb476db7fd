"""Progress bars: live ones in the last line of a terminal, and plain lines for log files."""

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, TextIO

from tqdm import tqdm  # type: ignore[import-untyped]

from slowfast.utils import terminal
from slowfast.utils.text import printable

TERMINAL_SECONDS = 0.1
LOG_FILE_SECONDS = 30

_BAR_COLUMNS = 7  # the narrowest bar: a space, two borders and four blocks
_LOCK_SECONDS = 1.0  # Another thread may hold the lock while the terminal is stopped by Ctrl-S.


def progress_bar(title: str, *, total: int | None, unit: str) -> tqdm:
    """Return a progress bar on standard error, for the work of a tool.

    A terminal shows every change at once, and what the tool prints or logs meanwhile appears above
    the bar. A log file, and a terminal that cannot redraw a line, get one line every half minute.

        with progress_bar("predict", total=len(paths), unit="video") as bar:
            for path in paths:
                ...
                bar.set_postfix(unreadable=num_unreadable, refresh=False)
                bar.update()

    Args:
        title: The text in front of the bar.
        total: The number of steps. None if it is unknown.
        unit: A noun for one step, in the singular.
    """
    if terminal.can_redraw(sys.stderr):
        return TerminalBar(title, total=total, unit=unit, stream=sys.stderr)
    return tqdm(desc=title, total=total, unit=unit, mininterval=LOG_FILE_SECONDS, smoothing=0.05)


class TerminalBar(tqdm):
    """The progress bar of this process on a terminal. It adapts to the width of the terminal.

    Args:
        title: The text in front of the bar.
        total: Number of steps. None if it is unknown.
        unit: A noun for one step, in the singular.
        stream: The terminal.
        first: Number of steps that were done before.
    """

    monitor_interval = 0  # No thread redraws the bar.
    _lock = RLock()  # The one of tqdm is shared with forked processes.

    def __init__(
        self, title: str, *, total: int | None, unit: str, stream: TextIO, first: int = 0
    ) -> None:
        self._stream = stream
        self._pid = os.getpid()
        terminal.close_bar()

        # Every step looks at the clock, so that a slow step after fast ones shows at once.
        super().__init__(
            desc=printable(title),
            total=total,
            initial=first,
            unit=unit,
            file=stream,
            mininterval=TERMINAL_SECONDS,
            miniters=1,
            smoothing=0.05,
            position=0,
        )
        if not self.disable:  # TQDM_DISABLE=1 does
            terminal.open_bar(self)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm formats. A full last column would wrap the line on some terminals."""
        width = max(terminal.num_columns(self._stream) - 1, 1)
        return {**super().format_dict, "ncols": width}

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or a message in its place. A terminal that is gone is no error."""
        text = str(self) if msg is None else msg
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(f"\r{text}{terminal.ERASE_TO_END}")
            self._stream.flush()

    def clear(self, nolock: bool = False) -> None:
        """Erase the bar."""
        if not self.disable:
            self.display("")

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Erase the bar while the block runs, then draw it again below what was written."""
        with self._lock:
            self.clear()
            try:
                yield
            finally:
                self.refresh()

    def close(self) -> None:
        """Draw the bar for the last time and end its line. Further calls do nothing.

        A signal handler and any thread may call it. A forked process leaves the bar alone.
        """
        if os.getpid() != self._pid or not self._lock.acquire(timeout=_LOCK_SECONDS):
            return
        try:
            # A signal can arrive within a write, and then nothing more can be written.
            with contextlib.suppress(OSError, RuntimeError):
                super().close()
        finally:
            self._lock.release()
            terminal.release(self)


class StepBar(TerminalBar):
    """The bar of a loop over steps, with values, the wait for data, and the ETA.

    A narrow terminal shows as much as fits: first the ETA, then the data wait, then the values in
    their order.

    Args:
        title: The text in front of the bar.
        num_steps: Number of steps of the loop.
        first: Number of steps that were done before.
        steps_after: Number of steps that follow the loop, for the ETA.
        stream: The terminal.
    """

    def __init__(
        self, title: str, *, num_steps: int, first: int, steps_after: int, stream: TextIO
    ) -> None:
        self._steps_after = steps_after
        self._texts: list[str] = []  # the most important one first
        super().__init__(title, total=num_steps, unit="step", stream=stream, first=first)

    def advance(self, step: int) -> None:
        """Move the bar to a number of steps that are done."""
        self.update(step - self.n)

    def show(self, step: int, *, values: dict[str, float], data_wait: float) -> None:
        """Move the bar to a number of steps that are done, and draw it with new values.

        Args:
            step: Number of steps that are done.
            values: The values, by name.
            data_wait: The part of the time of a step that was a wait for data, from 0 to 1.
        """
        shown = [f" {name} {self.format_num(value)}" for name, value in values.items()]
        self._texts = [f" data wait {data_wait:.0%}", *shown]
        self.advance(step)
        self.refresh()

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm formats. The bar takes the columns that the texts leave."""
        facts = super().format_dict
        steps = f"{self.n:>{len(str(self.total))}}/{self.total}"
        room = facts["ncols"] - len(f"{self.desc} {steps}") - _BAR_COLUMNS

        bar = "|{bar}| " if room >= 0 else ""
        texts = [f" ETA {self._format_eta(facts)}", *self._texts]
        while texts and sum(map(len, texts)) > room:
            texts.pop()
        eta, data_wait, values = texts[:1], texts[1:2], texts[2:]
        return {
            **facts,
            "bar_format": "{desc} " + bar + "{steps}{texts}",
            "steps": steps,
            "texts": "".join([*values, *data_wait, *eta]),
        }

    def _format_eta(self, facts: dict[str, Any]) -> str:
        rate = facts["rate"]
        if rate is None and facts["elapsed"]:
            rate = (self.n - self.initial) / facts["elapsed"]
        if not rate:
            return "?"

        steps_left = self.total - self.n + self._steps_after
        return str(self.format_interval(steps_left / rate))
