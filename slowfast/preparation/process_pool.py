"""Work on many files in processes that may die or hang: a lost file never loses the run."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

from tqdm import tqdm  # type: ignore[import-untyped]

from slowfast.utils.plugins import import_again, imported_plugins

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failure(NamedTuple):
    """Why an item has no result."""

    status: str  # crashed | timeout
    reason: str


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int, timeout: float
) -> Generator[tuple[Item, Result | Failure], None, None]:
    """Yield each item with its result, or with its Failure, in the order in which they are done.

    A process holds one item at a time, so that the item that killed it is known, and a new process takes its place.
    The pools of `concurrent.futures` break as a whole when a process dies, and cannot stop one that hangs.

    Args:
        function: picklable; if it raises, the item's Failure is `crashed`.
        items: taken one by one, as processes become free.
        num_workers: processes.
        timeout: seconds that one item may take.

    Raises:
        ValueError: there are to be no processes.
    """
    if num_workers < 1:
        raise ValueError(f"{num_workers} processes are to do the work; use 1 or more")
    waiting = iter(items)
    workers = [_Worker(function, timeout=timeout) for _ in range(num_workers)]
    try:
        busy = [worker for worker in workers if worker.take_from(waiting)]
        while busy:
            first_deadline = min(worker.deadline for worker in busy)
            wait([worker.connection for worker in busy], max(first_deadline - time.monotonic(), 0))
            for worker in [worker for worker in busy if worker.is_done()]:
                item, outcome = worker.item, worker.outcome()
                if not worker.take_from(waiting):
                    busy.remove(worker)
                yield item, outcome
    finally:
        for worker in workers:
            worker.kill()


def progress_bar(title: str, *, total: int, unit: str) -> tqdm:
    """Return a bar on the standard error, redrawn at once on a terminal and every half minute in a log file."""
    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm(desc=title, total=total, unit=unit, mininterval=interval, smoothing=0.05)


class _Worker(Generic[Item, Result]):
    """A process and the item that it works on; a new process after each that died or hung."""

    item: Item
    deadline: float

    def __init__(self, function: Callable[[Item], Result], *, timeout: float) -> None:
        self._function = function
        self._timeout = timeout
        self._start()

    def _start(self) -> None:
        # A server that has done the imports forks the process: it starts at once, and has no other's pipe open, so that
        # a dead end is seen on both sides.
        context = get_context("forkserver")
        context.set_forkserver_preload([getattr(self._function, "func", self._function).__module__])
        _start_server()
        self.connection, far_end = context.Pipe()
        arguments = (self._function, far_end, os.getcwd(), imported_plugins())
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        far_end.close()
        self._is_ready = False

    def take_from(self, items: Iterator[Item]) -> bool:
        """Start on the next item; return whether there is one."""
        for self.item in items:
            if not self._is_ready:  # the start is not counted in the time of an item
                self.connection.recv()
                self._is_ready = True
            self.connection.send(self.item)
            self.deadline = time.monotonic() + self._timeout
            return True
        return False

    def is_done(self) -> bool:
        return self.connection.poll() or time.monotonic() > self.deadline

    def outcome(self) -> Result | Failure:
        """Return what came out of the item, which must be done."""
        failure = Failure("timeout", f"not done after {self._timeout:g} s")
        if self.connection.poll():
            try:
                return self.connection.recv()
            except (EOFError, ConnectionResetError):
                self._process.join()
                failure = Failure("crashed", _cause_of_death(self._process.exitcode))
        self.kill()
        self._start()
        return failure

    def kill(self) -> None:
        self._process.kill()
        self._process.join(5)  # one that waits for a dead file server cannot be ended
        self.connection.close()


def _start_server() -> None:
    """Start the server of processes, unless it runs; Ctrl-C reaches neither it nor them, not even while they import."""
    resource_tracker.ensure_running()  # else the server starts it, which would let Ctrl-C through again
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT}
    )  # as the new process will have it
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    function: Callable[[Any], Any], connection: Connection, folder: str, plugins: tuple[str, ...]
) -> None:
    """Answer items with results, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(folder)  # multiprocessing goes where the parent started, not where it is
    import_again(plugins)
    try:
        connection.send(None)
        while True:
            item = connection.recv()
            try:
                result = function(item)
            except Exception as error:  # as a future would hold it
                result = Failure("crashed", f"{type(error).__name__}: {error}")
            connection.send(result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _end_with_parent() -> None:
    """Stop at once when the parent is gone: it may have been started anew, and be at work on the same file."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"its process was ended by {signal.Signals(-exit_code).name}"
    return f"its process ended with status {exit_code}"
