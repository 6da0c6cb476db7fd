"""Liveness of a lock's holder: whether it runs, ended or stopped sending heartbeats."""

import contextlib
import threading
import time
from pathlib import Path
from typing import NamedTuple

from slowfast.distributed.job import Job, is_restart_of
from slowfast.distributed.lock_file import Holder, LockFile, is_own_nonce, touch_lock_file
from slowfast.distributed.process_identity import is_alive, own_process


class Verdict(NamedTuple):
    """Whether the holder of a lock is alive, and why this process thinks so."""

    is_alive: bool | None  # None if it is not known yet.
    reason: str


class Watch:
    """A lock that this process waits for.

    Args:
        first: The lock when this process first read it.
        job: Job of this process.
        silent_seconds: Seconds without a heartbeat after which the holder counts as dead.
    """

    def __init__(self, first: LockFile, *, job: Job, silent_seconds: float) -> None:
        self.first = first
        self.is_logged = False
        self._job = job
        self._silent_seconds = silent_seconds
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Return how long this process has been waiting for the lock."""
        return time.monotonic() - self._began

    def judge(self, found: LockFile, *, waited: float, age_limit: float) -> Verdict:
        """Decide whether the holder is alive.

        Args:
            found: The lock now.
            waited: Seconds that this process had waited just before it read the lock.
            age_limit: A lock with an older modification time has been silent for too long.
        """
        if found.holder is not None:
            verdict = self._judge_holder(found.holder, waited=waited)
            if verdict is not None:
                return verdict

        silent = f"which sent no heartbeat for {self._silent_seconds:g} s"
        if found.mtime < age_limit:
            return Verdict(False, silent)
        if found.mtime != self.first.mtime:
            return Verdict(True, "")
        if waited >= self._silent_seconds:  # The clock that set the time is ahead.
            return Verdict(False, silent)
        return Verdict(None, "may be dead")

    def _judge_holder(self, holder: Holder, *, waited: float) -> Verdict | None:
        is_earlier_start = is_restart_of(self._job, holder.job)
        alive = is_holder_alive(holder)

        if alive and is_earlier_start and waited < self._silent_seconds:
            return Verdict(None, "is an earlier start of this job and has not ended yet")
        if alive is not None:
            return Verdict(alive, "which has ended")
        if is_earlier_start:
            return Verdict(False, "an earlier start of this job")
        return None


def start_heartbeat(path: Path, *, nonce: str, seconds: float, stopped: threading.Event) -> None:
    """Keep the modification time of a lock recent, in a thread, until an event is set.

    Args:
        path: The lock file.
        nonce: Nonce of the lock. A lock with another nonce is left alone.
        seconds: Seconds between two heartbeats.
        stopped: Event that ends the heartbeat.
    """

    def send_heartbeats() -> None:
        while not stopped.wait(seconds):
            # `FolderLock.check` reports every problem with the file.
            with contextlib.suppress(OSError):
                touch_lock_file(path, nonce=nonce)

    name = "heartbeat of a folder lock"
    threading.Thread(target=send_heartbeats, name=name, daemon=True).start()


def is_holder_alive(holder: Holder) -> bool | None:
    """Whether a holder runs. None if this process cannot see it."""
    if holder.process == own_process():
        # Otherwise the program that this process ran before an exec wrote the lock.
        return is_own_nonce(holder.nonce)
    return is_alive(holder.process)


def may_be_alive(found: LockFile, *, age_limit: float) -> bool:
    """Whether the process behind a lock or claim may still act on it.

    Args:
        found: The lock or claim.
        age_limit: Modification time from which the process counts as alive if nothing else is
            known about it.
    """
    alive = is_holder_alive(found.holder) if found.holder else None
    return found.mtime >= age_limit if alive is None else alive
