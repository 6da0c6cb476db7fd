"""Signals that ask a run to stop: a training saves its work first, everything else stops at once, in one line.

Only the standard library is imported here, directly or not, so that a tool can listen before its slow imports.
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
INTERRUPTED_STATUS = (
    75  # exit status of a run that the same command continues; EX_TEMPFAIL of sysexits.h
)
CTRL_C_STATUS = (
    130  # exit status after Ctrl-C where there is nothing to continue from, as a shell reports it
)
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
ONE_REQUEST = 1.0  # seconds within which several signals are one: a terminal and a launcher both send to all processes
_MAIN_THREAD_SECONDS = 8.0  # for the main thread to stop the process, before another thread does


class _Process:
    """What a signal needs to know of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.phase = "the start"
        self.outcome = "nothing to save; run the same command again"
        self.can_continue = False  # whether what the run has done so far is saved
        self.prints = True  # one process of a job does
        self.leave_job: Callable[[str], bool] | None = None  # tells the other processes of the job
        self.stopping_since = 0.0
        self.forced_signal: int | None = None


_process = _Process()


def listen() -> dict[int, object]:
    """Have signals stop this process at once from now on; returns the handlers that were there before."""
    if _process.pid != os.getpid():
        _process.__init__()  # type: ignore[misc]  # this is a forked process
    before = install(_stop_on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return before


def install(handler: Callable[[int, FrameType | None], None]) -> dict[int, object]:
    """Have a function handle the signals; returns the handlers that were there before.

    A SIGHUP that is ignored, as under nohup, stays ignored.
    """
    before: dict[int, object] = {}
    for number in SIGNALS:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        before[number] = signal.signal(number, handler)
    return before


def restore(handlers: dict[int, object]) -> None:
    """Bring back the handlers that `install` or `listen` has returned."""
    for number, handler in handlers.items():
        signal.signal(number, handler)  # type: ignore[arg-type]


@contextmanager
def postponed() -> Iterator[None]:
    """Keep signals waiting while the block runs; processes started in it keep theirs waiting until they listen."""
    resource_tracker.ensure_running()  # its start would let signals through again
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Listen, see `listen`, while the block runs; then handle signals as before it."""
    before = listen()
    try:
        yield
    finally:
        restore(before)


def join_job(*, prints: bool, leave_job: Callable[[str], bool] | None = None) -> None:
    """Make this process one of several that stop together.

    Args:
        prints: Whether this process prints the line that tells why they stop.
        leave_job: Called with the name of the signal before this process stops; returns whether it may stop now.
    """
    _process.prints, _process.leave_job = prints, leave_job


@contextmanager
def phase(name: str, *, outcome: str = "", can_continue: bool = False) -> Iterator[None]:
    """Name what the process is doing, for the line that it prints when a signal stops it there.

    Args:
        name: What is stopped, as in "stopped by SIGTERM during <name>".
        outcome: What is saved and how to continue; "": nothing is.
        can_continue: Whether Ctrl-C, too, ends with the exit status of a run that can continue.
    """
    before = _process.phase, _process.outcome, _process.can_continue
    _process.phase, _process.can_continue = name, can_continue
    _process.outcome = outcome or "nothing to save; run the same command again"
    try:
        yield
    finally:
        _process.phase, _process.outcome, _process.can_continue = before


def stop_from_thread(number: int) -> None:
    """Stop this process, because another one of its job was stopped, from a thread that is not the main one."""
    _process.forced_signal = number
    os.kill(os.getpid(), number)
    time.sleep(_MAIN_THREAD_SECONDS)
    stop(number)  # the main thread is stuck in native code, such as a collective


class Interruption:
    """While it is entered, the first signal to this process sets `signal_name`, and the next one kills the process."""

    def __init__(self) -> None:
        self.signal_name = ""  # of the signal that came
        self._came_at = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
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
        """Whether a signal came."""
        return bool(self.signal_name)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if _process.forced_signal is not None:
            _stop_on_signal(number, frame)
        now = time.monotonic()
        if self.signal_name and now - self._came_at > ONE_REQUEST:
            _die_of(number)
        elif not self.signal_name:
            self.signal_name, self._came_at = signal.Signals(number).name, now


def stop(number: int) -> None:
    """Stop this process as that signal does, unless it is about to fail.

    Threads and native code may be stuck, so an exception would not always end it.
    """
    name = signal.Signals(number).name
    if _process.leave_job is not None and not _process.leave_job(name):
        return
    with contextlib.suppress(ValueError):  # in another thread, where the main one is stuck
        signal.signal(
            signal.SIGCHLD, signal.SIG_DFL
        )  # torch's handler raises an error when a loader worker ends
    for worker in multiprocessing.active_children():
        worker.kill()
    run_cleanups()

    with contextlib.suppress(OSError):  # a terminal that was closed, or a pipe without a reader
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        if _process.prints:
            os.write(2, f"stopped by {name} during {_process.phase}: {_process.outcome}\n".encode())
    is_final = number == signal.SIGINT and not _process.can_continue
    os._exit(CTRL_C_STATUS if is_final else INTERRUPTED_STATUS)


def _stop_on_signal(number: int, frame: FrameType | None) -> None:
    if (
        _process.pid != os.getpid()
    ):  # a worker that was forked a moment ago; the main process ends it
        if number == signal.SIGTERM:
            os._exit(INTERRUPTED_STATUS)
        return
    if not _process.stopping_since:
        _process.stopping_since = time.monotonic()
        stop(number)
    elif (
        time.monotonic() - _process.stopping_since > ONE_REQUEST and _process.forced_signal is None
    ):
        _die_of(number)


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
