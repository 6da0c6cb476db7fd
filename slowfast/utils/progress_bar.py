"""A progress bar that suits both terminals and log files."""

import sys

from tqdm import tqdm  # type: ignore[import-untyped]

TERMINAL_SECONDS = 0.1
LOG_FILE_SECONDS = 30


def progress_bar(title: str, *, total: int | None, unit: str) -> tqdm:
    """Return a progress bar on standard error.

    A terminal shows every change at once. A log file gets one line every half minute.

    Args:
        title: The text in front of the bar.
        total: The number of steps. None if it is unknown.
        unit: A noun for one step, in the singular.
    """
    interval = TERMINAL_SECONDS if sys.stderr.isatty() else LOG_FILE_SECONDS
    return tqdm(desc=title, total=total, unit=unit, mininterval=interval, smoothing=0.05)
