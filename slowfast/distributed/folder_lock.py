"""Folder lock: one process writes to a folder at a time, on any file system and across restarts.

The lock is a file with an identity of its own, a nonce, and a heartbeat in its modification time. A
process that finds a dead holder first claims the lock. A claim is a second file with the nonce of
the lock in its name, so it never applies to another lock. The process with the claim then renames
its own file over the lock. A claim of a dead process is claimed in turn. Nothing here depends on
flock or on clocks that agree.
"""

import contextlib
import logging
import os
import re
import secrets
import shlex
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from slowfast.distributed.job import Job
from slowfast.distributed.lock_file import (
    CandidateFile,
    Holder,
    LockFile,
    explain_error,
    forget_nonce,
    read_lock_file,
)
from slowfast.distributed.lock_liveness import Verdict, Watch, may_be_alive, start_heartbeat
from slowfast.distributed.process_identity import own_process

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0  # A holder on another host without a heartbeat for so long counts as dead.

logger = logging.getLogger(__name__)


class FolderLockedError(OSError):
    """Another process holds the lock or took it over from this one."""


class FolderLock:
    """A lock that one process of a job holds while it writes to a folder.

    A process that is forked from the holder does not hold the lock and cannot release it.

    Args:
        path: The lock file, such as OUTPUT_DIR/train.lock. A missing folder is created.
        purpose: Noun for what the holder does: "training", "test", "conversion".
        job: Job of this process. It takes over at once from an earlier start of the same job.
        command: Command of this process for messages. The default is the one that Python knows.
        remedy: What else a refused process can do, as the end of a sentence.
        heartbeat_seconds: Seconds between two heartbeats.
        silent_seconds: Seconds without a heartbeat after which a holder on another host counts as
            dead.
    """

    def __init__(
        self,
        path: Path,
        *,
        purpose: str,
        job: Job,
        command: str = "",
        remedy: str = "use another OUTPUT_DIR",
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self.path = path
        self.purpose = purpose
        self._job = job
        self._command = command
        self._remedy = remedy
        self._heartbeat_seconds = heartbeat_seconds
        self._silent_seconds = silent_seconds
        self._nonces: list[str] = []  # Nonce of the held lock. The caller that pops it releases.
        self._pid = 0
        self._released = threading.Event()

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock.

        If its holder is on another host and may be dead, this waits for a heartbeat, up to
        `silent_seconds`.

        Raises:
            FolderLockedError: If another process holds it.
            OSError: If the file cannot be written or read, or is not a lock file.
        """
        assert not self._nonces, "this lock is held already"
        self._released = threading.Event()  # Before a signal handler may release the lock.
        self._make_folder()
        candidate = self._new_candidate()
        try:
            self._contend(candidate)
            self._pid = os.getpid()
            self._nonces.append(candidate.nonce)
            start_heartbeat(
                self.path,
                nonce=candidate.nonce,
                seconds=self._heartbeat_seconds,
                stopped=self._released,
            )
        except BaseException:  # A signal may arrive after the file became the lock.
            self._nonces.clear()
            self._release(candidate.nonce)
            raise
        finally:
            candidate.discard()

        self._remove_leftovers(candidate.nonce)

    def release(self) -> None:
        """Release the lock if this process holds it. Any thread or signal handler may call this.

        A lock that another process took over stays as it is.
        """
        if self._pid != os.getpid():  # This is a forked child.
            return
        try:
            nonce = self._nonces.pop()  # Only one caller gets it.
        except IndexError:
            return

        self._release(nonce)

    def check(self) -> None:
        """Verify that this process still holds the lock. This reads one small file.

        Raises:
            FolderLockedError: If the lock was released, taken over, replaced or deleted.
            OSError: If the file system does not answer.
        """
        found = read_lock_file(self.path)
        if found is not None and found.key in self._nonces:
            return

        if not self._nonces:
            raise FolderLockedError(f"{self.path}: this {self.purpose} has released its lock")
        if found is not None:
            raise FolderLockedError(
                f"{self.path.parent}: {found.describe()}, has taken over from this "
                f"{self.purpose}, which stops. Two of them would overwrite each other's files"
            )
        if not self.path.parent.is_dir():
            raise FolderLockedError(
                f"{self.path.parent}: this folder was deleted or moved while the {self.purpose} "
                "was writing to it. Start it again"
            )
        raise FolderLockedError(
            f"{self.path}: this file was deleted while the {self.purpose} was running, so "
            "another process may be writing here. Make sure that none is, and start it again"
        )

    # ---- Taking the lock ---------------------------------------------------------------------

    def _contend(self, candidate: CandidateFile) -> None:
        """Return once the candidate is the lock."""
        watch: Watch | None = None
        pause = min(1.0, self._silent_seconds / 20)
        while True:
            try:
                if candidate.link_to(self.path):
                    return

                waited = watch.seconds() if watch else 0.0  # Measured before the lock is read.
                age_limit = candidate.touch() - self._silent_seconds
                found = read_lock_file(self.path)
                if found is not None:
                    if watch is None or watch.first.key != found.key:
                        watch = Watch(found, job=self._job, silent_seconds=self._silent_seconds)
                        waited = 0.0
                    verdict = watch.judge(found, waited=waited, age_limit=age_limit)
                    if verdict.is_alive is False and self._replace(found, candidate):
                        name = found.describe()
                        logger.warning(f"{self.path}: took over from {name}, {verdict.reason}")
                        return
                    self._refuse_or_wait(verdict, watch, waited=waited)
            except FileNotFoundError:  # This process was stopped, and another one cleaned up.
                self._make_folder()
                candidate.write()
            time.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))

    def _refuse_or_wait(self, verdict: Verdict, watch: Watch, *, waited: float) -> None:
        """Raise FolderLockedError if waiting is of no use. Log the beginning of a wait."""
        name = watch.first.describe()
        if verdict.is_alive:
            remedies = f"Wait for it, stop it, or {self._remedy}"
            raise FolderLockedError(f"{self.path.parent}: {name}, is writing here. {remedies}")

        if verdict.is_alive is None and not watch.is_logged:
            watch.is_logged = True
            limit = f"{self._silent_seconds:g} s"
            logger.warning(f"{self.path}: {name}, {verdict.reason}. Waiting up to {limit}")

        if verdict.is_alive is False and waited > 2 * self._silent_seconds:
            raise FolderLockedError(
                f"{self.path}: another process has been taking over this lock for {waited:.0f} s, "
                f"so it may be stopped. End it, or delete {self._beside('*', 'claim')}"
            )

    def _replace(self, found: LockFile, candidate: CandidateFile) -> bool:
        """Replace a dead lock by the candidate. Return False if another process was faster."""
        claims = self._claim(found.key, candidate)
        if not claims:
            return False

        removable = claims[-1:]  # The claim of this process.
        try:
            if read_lock_file(self.path) != found:
                return False
            if not candidate.rename_to(self.path):
                return False
            removable = claims
            return True
        finally:
            for claim in removable:
                claim.unlink(missing_ok=True)

    def _claim(self, key: str, candidate: CandidateFile) -> list[Path]:
        """Return the claims to a lock. The last one belongs to this process.

        The others belong to dead processes. They can no longer act on their claims, not even if
        they were only stopped. The list is empty if a live process has the claim.
        """
        claims: list[Path] = []
        while True:
            claim = self._beside(key, "claim")
            if candidate.link_to(claim):
                return [*claims, claim]

            age_limit = candidate.touch() - self._silent_seconds
            found = read_lock_file(claim)
            if found is None or found.key == key:
                return []
            if may_be_alive(found, age_limit=age_limit):
                return []

            self._beside(found.key, "new").unlink(missing_ok=True)  # It could be renamed.
            claims.append(claim)
            key = found.key

    # ---- Releasing the lock ------------------------------------------------------------------

    def _release(self, nonce: str) -> None:
        """Remove the lock of this process, unless another one took it over or is about to.

        If the file system refuses, the lock stays until this process ends.
        """
        forget_nonce(nonce)
        self._released.set()
        with contextlib.suppress(OSError):
            found = read_lock_file(self.path)
            if found is not None and found.key == nonce:
                self._remove_claimed(nonce)

    def _remove_claimed(self, nonce: str) -> None:
        try:
            candidate = self._new_candidate()
        except OSError:  # The disk is full.
            self.path.unlink()
            return

        claims: list[Path] = []
        try:
            claims = self._claim(nonce, candidate)
            found = read_lock_file(self.path)
            if claims and found is not None and found.key == nonce:
                self.path.unlink()
        finally:
            for claim in claims:
                claim.unlink(missing_ok=True)
            candidate.discard()
            forget_nonce(candidate.nonce)

    # ---- Files -------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_error("be created", error, folder) from error

    def _beside(self, key: str, suffix: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{key}.{suffix}")

    def _new_candidate(self) -> CandidateFile:
        holder = Holder(
            process=own_process(),
            started=time.strftime("%Y-%m-%d %H:%M:%S"),
            purpose=self.purpose,
            command=self._command or shlex.join(["python", *sys.argv]),
            job=self._job,
            nonce="",
        )
        candidate = CandidateFile(
            self.path, holder, make_path=lambda nonce: self._beside(nonce, "new")
        )
        candidate.write()
        return candidate

    def _remove_leftovers(self, nonce: str) -> None:
        """Remove files of processes that were killed while they took the lock."""
        pattern = re.compile(re.escape(f".{self.path.name}.") + r"\w+\.(new|claim)")
        with contextlib.suppress(OSError):
            age_limit = self.path.stat().st_mtime - self._silent_seconds
            with os.scandir(self.path.parent) as entries:
                names = {entry.name for entry in entries if pattern.fullmatch(entry.name)}
            for name in names - self._find_claims(nonce):
                path = self.path.with_name(name)
                found = read_lock_file(path)
                if found is not None and not may_be_alive(found, age_limit=age_limit):
                    path.unlink(missing_ok=True)

    def _find_claims(self, key: str) -> set[str]:
        """Return the names of the claims to a lock, and of the claims to those claims."""
        names: set[str] = set()
        while (claim := self._beside(key, "claim")).name not in names:
            names.add(claim.name)
            found = read_lock_file(claim)
            if found is None:
                break
            key = found.key
        return names
