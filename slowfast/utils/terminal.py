"""The terminal: which streams can redraw a line, and lines that appear above a progress bar.

A process shows at most one bar. This module does not import tqdm, which only a process with a bar
needs.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TextIO

ERASE_TO_END = "\x1b[K"
_ERASE_LINE = f"\r{ERASE_TO_END}"
_FALLBACK_COLUMNS = 80


class Bar(Protocol):
    """A progress bar in the last line of a terminal."""

    def hidden(self) -> AbstractContextManager[None]:
        """Erase the bar while the block runs, then draw it again below what was written."""

    def close(self) -> None:
        """Draw the bar for the last time and end its line. Further calls do nothing."""


class _OpenBar:
    """The open bar of a process, and the streams that it took the place of."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.pid = 0  # A forked process inherits the bar, but must not draw it.
        self.streams: dict[str, TextIO] = {}


_open = _OpenBar()


# ---- Streams ---------------------------------------------------------------------------------


def can_redraw(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that can redraw its last line. TERM=dumb denies it.

    Args:
        stream: A standard stream, None if the process was started without it.
    """
    is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return stream is not None and not is_dumb and not stream.closed and stream.isatty()


def num_columns(stream: TextIO) -> int:
    """Return the current width of a terminal."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or _FALLBACK_COLUMNS
    except (OSError, ValueError):
        return _FALLBACK_COLUMNS


def new_line(stream: TextIO) -> str:
    """Return what to write before a line, in case another process shows a bar on the terminal."""
    return _ERASE_LINE if can_redraw(stream) else ""


# ---- The bar of this process -----------------------------------------------------------------


def open_bar(bar: Bar) -> None:
    """Make a bar the one of this process, and close the one before.

    Until it is closed, whole lines that this process prints or logs appear above the bar.
    """
    close_bar()
    _open.bar, _open.pid = bar, os.getpid()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if can_redraw(stream):
            _open.streams[name] = stream
            setattr(sys, name, _LinesAboveBar(stream))


def close_bar() -> None:
    """Close the bar of this process, if it shows one."""
    if _open.bar is not None and _open.pid == os.getpid():
        _open.bar.close()


def release(bar: Bar) -> None:
    """Restore the streams of a bar that is closed now."""
    if _open.bar is not bar:
        return

    _open.bar = None
    for name, stream in _open.streams.items():
        above = getattr(sys, name)
        if isinstance(above, _LinesAboveBar) and above.stream is stream:
            setattr(sys, name, stream)
            above.write_rest()
    _open.streams.clear()


@contextmanager
def above_bar(stream: TextIO) -> Iterator[None]:
    """Write whole lines to a terminal within the block, without tearing the bar."""
    bar: AbstractContextManager[None] = nullcontext()
    if _open.bar is not None and _open.pid == os.getpid():
        bar = _open.bar.hidden()
    elif _open.bar is not None:
        stream.write(new_line(stream))

    with bar:
        yield


class _LinesAboveBar:
    """A stream of this process while it shows a bar. Whole lines appear above the bar.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._rest = ""  # of a line that has not ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        lines, line_end, self._rest = (self._rest + text).rpartition("\n")
        if line_end:
            with above_bar(self.stream):
                self.stream.write(lines + line_end)
                self.stream.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def write_rest(self) -> None:
        self.stream.write(self._rest)
        self._rest = ""


# ---- Logging ---------------------------------------------------------------------------------


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes log records to the console, above the bar if it shows one.

    Args:
        stream: The console.
        is_main: Whether this is the main process. Another one can share its terminal with the bar
            of the main process.
    """

    def __init__(self, stream: TextIO, *, is_main: bool) -> None:
        super().__init__(stream)
        self.is_main = is_main

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            with above_bar(self.stream):
                if not self.is_main and can_redraw(self.stream):
                    self.stream.write(new_line(self.stream))
                super().emit(record)
        except OSError:  # The terminal is closed.
            self.handleError(record)


def console_for_bar() -> TextIO | None:
    """Return the console of the main process if it can show a bar, else None."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ConsoleHandler) and handler.is_main and can_redraw(handler.stream):
            return handler.stream
    return None
