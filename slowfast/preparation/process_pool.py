"""A process pool that survives workers that crash or hang."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

from slowfast.utils.plugins import import_again, imported_plugins
from slowfast.utils.progress_bar import progress_bar

__all__ = ["Failure", "map_in_processes", "progress_bar"]

EXIT_SECONDS = 5  # a process that waits for an unresponsive file server cannot be killed

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failure(NamedTuple):
    """Why an item has no result."""

    status: str  # crashed | timeout
    reason: str


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int, timeout: float
) -> Generator[tuple[Item, Result | Failure], None, None]:
    """Yield each item with its result or its `Failure`, in the order in which they finish.

    Each process works on one item at a time, so the item that crashed it is known. A process that
    crashes or hangs is replaced. The pools of `concurrent.futures` break as a whole if a process
    dies, and they cannot stop one that hangs.

    Args:
        function: A picklable function. If it raises, the item is reported as `crashed`.
        items: The items, taken one by one as processes become free.
        num_workers: The number of processes.
        timeout: The time limit for one item, in seconds.

    Raises:
        ValueError: If `num_workers` is less than 1.
    """
    if num_workers < 1:
        raise ValueError(f"the number of processes is {num_workers}. Use 1 or more")

    waiting = iter(items)
    workers = [_Worker(function, timeout=timeout) for _ in range(num_workers)]
    try:
        busy = [worker for worker in workers if worker.start_next(waiting)]

        while busy:
            first_deadline = min(worker.deadline for worker in busy)
            wait([worker.connection for worker in busy], max(first_deadline - time.monotonic(), 0))

            for worker in [worker for worker in busy if worker.is_done()]:
                item, outcome = worker.item, worker.take_outcome()
                if not worker.start_next(waiting):
                    busy.remove(worker)
                yield item, outcome
    finally:
        for worker in workers:
            worker.kill()


class _Worker(Generic[Item, Result]):
    """A process and the item it works on. A process that crashes or hangs is replaced."""

    item: Item
    deadline: float

    def __init__(self, function: Callable[[Item], Result], *, timeout: float) -> None:
        self._function = function
        self._timeout = timeout
        self._start()

    def _start(self) -> None:
        # Processes are forked from a server that has done the imports. They start at once and
        # inherit no pipe of another worker, so both ends notice when the other one dies.
        context = get_context("forkserver")
        context.set_forkserver_preload([getattr(self._function, "func", self._function).__module__])
        _start_server()

        self.connection, far_end = context.Pipe()
        arguments = (self._function, far_end, os.getcwd(), imported_plugins())
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        far_end.close()
        self._is_ready = False

    def start_next(self, items: Iterator[Item]) -> bool:
        """Send the next item to the process and return whether there was one."""
        for self.item in items:
            if not self._is_ready:  # the time limit does not include starting the process
                self.connection.recv()
                self._is_ready = True

            self.connection.send(self.item)
            self.deadline = time.monotonic() + self._timeout
            return True
        return False

    def is_done(self) -> bool:
        return self.connection.poll() or time.monotonic() > self.deadline

    def take_outcome(self) -> Result | Failure:
        """Return the outcome of the item, for which `is_done` must be true."""
        failure = Failure("timeout", f"not done after {self._timeout:g} s")
        if self.connection.poll():
            try:
                return self.connection.recv()
            except (EOFError, ConnectionResetError):
                self._process.join()
                failure = Failure("crashed", _describe_exit(self._process.exitcode))

        self.kill()
        self._start()
        return failure

    def kill(self) -> None:
        self._process.kill()
        self._process.join(EXIT_SECONDS)
        self.connection.close()


def _start_server() -> None:
    """Start the server that forks the workers, unless it is running.

    Ctrl-C must reach neither the server nor the workers, not even while they import. They inherit
    the signal mask of this thread.
    """
    resource_tracker.ensure_running()  # the server would start it with SIGINT unblocked
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _exported_sys_path():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


@contextmanager
def _exported_sys_path() -> Iterator[None]:
    """Let the processes started in this block import from where this process does.

    The server does not receive `sys.path` before it imports, and would search its folder first.
    """
    exported = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    previous = {name: os.environ.get(name) for name in exported}
    os.environ.update(exported)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(
    function: Callable[[Any], Any], connection: Connection, folder: str, plugins: tuple[str, ...]
) -> None:
    """Answer items with results until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.chdir(folder)  # multiprocessing uses the folder in which the parent was started
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


def _exit_with_parent() -> None:
    """Exit as soon as the parent is gone.

    The same command may have been started again and may be working on the same file.
    """
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"its process was ended by {signal.Signals(-exit_code).name}"
    return f"its process ended with status {exit_code}"
