"""Isolation of checks: one that raises, crashes or hangs becomes a failed finding."""

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

from slowfast.diagnosis.finding import FAILED, Check, Finding, failed, warning
from slowfast.diagnosis.software import REQUIRED
from slowfast.utils.text import printable

_NUM_CHARACTERS = 300  # Length of the words of an error that are quoted.
_LOG_BYTES = 1 << 16  # End of the output of a crashed process that is read.


def run_checks(groups: Sequence[Sequence[Check]]) -> Iterator[tuple[str, Finding]]:
    """Yield the name and the finding of each check, in order.

    Args:
        groups: The checks of a group run one after another in a process of their own, and the
            groups run at the same time.
    """
    workers = [_Worker(checks) for checks in groups]
    try:
        for worker in workers:
            yield from worker.findings()
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A forked process that makes checks. When one of them ends it, another one takes over.

    Args:
        checks: The checks in order.
    """

    def __init__(self, checks: Sequence[Check]) -> None:
        self._left = list(checks)
        self._failed: set[str] = set()
        self._pid = 0
        self._start()

    def findings(self) -> Iterator[tuple[str, Finding]]:
        """Yield the name and the finding of each check."""
        while self._left:
            check = self._left.pop(0)
            finding = self._receive(check)
            if finding.status == FAILED:
                self._failed.add(check.name)
            yield check.name, finding
        self.end()

    def end(self) -> None:
        """End the process and its children. Further calls do nothing."""
        if not self._pid:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        self._wait()
        self._pid = 0
        self._connection.close()
        os.close(self._log)

    def _start(self) -> None:
        self._log = os.memfd_create("output")
        self._connection, connection = Pipe(duplex=False)
        try:
            self._pid = os.fork()
        except OSError as error:  # The limit of processes is reached, or memory is full.
            connection.close()
            self._connection.close()
            os.close(self._log)
            raise OSError(f"no process can be started: {error.strerror}") from error
        if self._pid == 0:
            _work(self._left, connection, log=self._log, failed_before=self._failed)
        with suppress(OSError):  # Both processes do it, so that it is done before either goes on.
            os.setpgid(self._pid, self._pid)
        connection.close()

    def _receive(self, check: Check) -> Finding:
        try:
            started = self._connection.recv()
            if self._connection.poll(max(started + check.seconds - time.monotonic(), 0)):
                return self._connection.recv()
        except (EOFError, OSError):
            reason = f"the check crashed: {self._describe_crash()}"
        else:
            reason = f"no answer within {check.seconds:.0f} s"

        self.end()
        self._failed.add(check.name)
        if self._left:
            self._start()
        return failed(reason, "Report it as a bug, with the output of --json")

    def _describe_crash(self) -> str:
        status = self._wait()
        end = "its process ended"
        if status is not None and os.WIFSIGNALED(status):
            end = signal.Signals(os.WTERMSIG(status)).name

        size = os.fstat(self._log).st_size
        output = os.pread(self._log, _LOG_BYTES, max(size - _LOG_BYTES, 0)).decode(errors="replace")
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        return f"{end} ({_shorten(lines[-1])})" if lines else end

    def _wait(self) -> int | None:
        """Return the status of the ended process, None if it does not end.

        A process that waits for a disk cannot be killed.
        """
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            with suppress(ChildProcessError):  # Its status was read before.
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if not pid:
                    time.sleep(0.001)
                    continue
                return status
            return None
        return None


def _work(
    checks: Sequence[Check], connection: Connection, *, log: int, failed_before: set[str]
) -> NoReturn:
    """Make the checks in this forked process and send their findings."""
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
        faulthandler.disable()
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1, errors="replace")
        missing = set(failed_before)

        for check in checks:
            connection.send(time.monotonic())
            finding = _make(check, missing=missing)
            if finding.status == FAILED:
                missing.add(check.name)
            connection.send(finding)
    finally:
        os._exit(0)


def _make(check: Check, *, missing: set[str]) -> Finding:
    if check.needs in missing:
        return warning(f"not checked, because {check.needs} failed", f"Mend {check.needs} first")
    try:
        return check.function()
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name in REQUIRED.values():
            # Another check names it already.
            return warning(f"not checked, because {error.name} is missing", "Install it first")
        message = " ".join(str(error).split()) or "no message"
        return failed(
            _shorten(f"{type(error).__name__}: {message}"),
            "Report it as a bug, with the output of --json, if you cannot explain it",
        )


def _shorten(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _NUM_CHARACTERS else f"{text[:_NUM_CHARACTERS]}..."
