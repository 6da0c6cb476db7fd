"""Signals that ask a run to end: the first is noted, for the run to save its work; the second ends it at once."""

import os
import signal
import time
from types import FrameType, TracebackType

FAILED_STATUS = 1
INTERRUPTED_STATUS = 75  # exit status of a run that saved its work and can go on; EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
ONE_REQUEST = 1.0  # seconds within which several signals are one: a terminal and a launcher both send to all processes


class Interruption:
    """While it is entered, the first signal to this process sets `signal_name`, and the next one kills the process."""

    def __init__(self) -> None:
        self.signal_name = ""  # of the signal that came
        self._came_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def is_requested(self) -> bool:
        """Whether a signal came."""
        return bool(self.signal_name)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal_name and now - self._came_at > ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self.signal_name:
            self.signal_name, self._came_at = signal.Signals(number).name, now
