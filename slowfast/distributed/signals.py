"""Signals that ask a run to stop: training saves a checkpoint first, everything else stops at once.

The handlers of a run are installed here, see the table in docs/training.md. This module imports
only the standard library, so that a tool can listen to signals before its slow imports.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType, TracebackType

from slowfast.utils.cleanup import run_cleanups

FAILED_STATUS = 1
INTERRUPTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command resumes the run.
CTRL_C_STATUS = 130  # After Ctrl-C with nothing to resume, as a shell reports it.
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)

# Signals within this time are one request: a terminal and a launcher both signal all processes.
ONE_REQUEST_SECONDS = 1.0

_MAIN_THREAD_SECONDS = 8.0  # Time for the main thread to stop before another thread does it.
_NOTHING_SAVED = "nothing to save. Run the same command again"


class _StopState:
    """What a signal handler needs to know about this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.phase = "the start"
        self.outcome = _NOTHING_SAVED
        self.can_resume = False
        self.prints = True  # One process of a job prints why they stop.
        self.leave_job: Callable[[str], bool] | None = None  # Tells the other processes.
        self.stopping_since = 0.0
        self.forced_signal: int | None = None


_state = _StopState()


# ---- Installing handlers ---------------------------------------------------------------------


def install(handler: Callable[[int, FrameType | None], None]) -> dict[int, object]:
    """Install a handler for all signals that ask a run to stop, and return the previous ones.

    An ignored SIGHUP stays ignored, as under nohup.
    """
    before: dict[int, object] = {}
    for number in SIGNALS:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, handler)
    return before


def restore(handlers: dict[int, object]) -> None:
    """Reinstall the handlers that `install` or `listen` returned."""
    for number, handler in handlers.items():
        signal.signal(number, handler)  # type: ignore[arg-type]


def ignore(number: int) -> None:
    """Ignore a signal from now on."""
    signal.signal(number, signal.SIG_IGN)


def listen() -> dict[int, object]:
    """Stop this process at once on a signal from now on, and return the previous handlers."""
    global _state
    if _state.pid != os.getpid():  # This is a forked process.
        _state = _StopState()

    before = install(_stop_on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return before


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Listen to signals while the block runs, see `listen`, then restore the handlers."""
    before = listen()
    try:
        yield
    finally:
        restore(before)


@contextmanager
def postponed() -> Iterator[None]:
    """Block signals while the block runs. Processes started in it block them until they listen."""
    resource_tracker.ensure_running()  # Its start would unblock the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class SignalForwarding:
    """Forwards every signal that asks this process to stop to its children.

    As a context manager, it restores the previous handlers in the end.
    """

    def __init__(self) -> None:
        self.received: set[int] = set()
        self._senders: tuple[Callable[[int], None], ...] = ()
        self._before: dict[int, object] = {}

    def __enter__(self) -> "SignalForwarding":
        self.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        restore(self._before)

    def install(self) -> None:
        """Start to forward signals, without an end."""
        self._before = install(self._forward)

    def forward_to(self, *senders: Callable[[int], None]) -> None:
        """Forward signals to these children, including signals that came before their start.

        Args:
            senders: One function for each child that sends it a signal.
        """
        self._senders = senders
        for number in tuple(self.received):
            self._forward(number, None)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.received.add(number)
        for send in self._senders:
            send(number)


class StopRequest:
    """Notes the first signal while it is entered, so that the caller can finish its step and save.

    A second signal, at least a second later, kills the process.
    """

    def __init__(self) -> None:
        self.signal_name = ""  # Empty until a signal arrives.
        self._requested_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self._before = install(self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        restore(self._before)

    @property
    def is_requested(self) -> bool:
        """Whether a signal arrived."""
        return bool(self.signal_name)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if _state.forced_signal is not None:
            _stop_on_signal(number, frame)

        now = time.monotonic()
        if not self.signal_name:
            self.signal_name = signal.Signals(number).name
            self._requested_at = now
        elif now - self._requested_at > ONE_REQUEST_SECONDS:
            _die_of(number)


# ---- Stopping this process -------------------------------------------------------------------


def join_job(*, prints: bool, leave_job: Callable[[str], bool] | None = None) -> None:
    """Make this process one of several that stop together.

    Args:
        prints: Whether this process prints the line that says why they stop.
        leave_job: Function that this process calls with the name of the signal before it stops. It
            returns whether the process may stop now.
    """
    _state.prints = prints
    _state.leave_job = leave_job


@contextmanager
def phase(name: str, *, outcome: str = "", can_continue: bool = False) -> Iterator[None]:
    """Name what this process is doing, for the line that it prints when a signal stops it.

    Args:
        name: Name of the phase, as in "stopped by SIGTERM during <name>".
        outcome: What is saved and how to resume. "" if nothing is saved.
        can_continue: Whether Ctrl-C, too, ends with the exit status of a run that can be resumed.
    """
    before = _state.phase, _state.outcome, _state.can_resume
    _state.phase = name
    _state.outcome = outcome or _NOTHING_SAVED
    _state.can_resume = can_continue
    try:
        yield
    finally:
        _state.phase, _state.outcome, _state.can_resume = before


def stop_from_thread(number: int) -> None:
    """Stop this process from a thread, because a signal stopped another process of its job."""
    _state.forced_signal = number
    os.kill(os.getpid(), number)
    time.sleep(_MAIN_THREAD_SECONDS)
    stop(number)  # The main thread is stuck in native code, such as a collective.


def stop(number: int) -> None:
    """Stop this process as a signal does, unless it is about to fail.

    Threads and native code may be stuck, so an exception would not always end the process.
    """
    name = signal.Signals(number).name
    if _state.leave_job is not None and not _state.leave_job(name):
        return

    # torch's handler raises an error when a loader worker ends. A thread other than the main one
    # cannot install handlers, but then the main one is stuck.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in multiprocessing.active_children():
        worker.kill()
    run_cleanups()

    # The terminal may be closed, or the reader of the pipe gone. RuntimeError: the signal came
    # within a write to a terminal that Ctrl-S had stopped.
    with contextlib.suppress(OSError, RuntimeError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        if _state.prints:
            os.write(2, f"stopped by {name} during {_state.phase}: {_state.outcome}\n".encode())

    is_final = number == signal.SIGINT and not _state.can_resume
    os._exit(CTRL_C_STATUS if is_final else INTERRUPTED_STATUS)


def _stop_on_signal(number: int, frame: FrameType | None) -> None:
    if _state.pid != os.getpid():  # A worker that was just forked. The main process ends it.
        if number == signal.SIGTERM:
            os._exit(INTERRUPTED_STATUS)
        return

    if not _state.stopping_since:
        _state.stopping_since = time.monotonic()
        stop(number)
        return

    is_second_request = time.monotonic() - _state.stopping_since > ONE_REQUEST_SECONDS
    if is_second_request and _state.forced_signal is None:
        _die_of(number)


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
