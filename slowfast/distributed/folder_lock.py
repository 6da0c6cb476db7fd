"""A lock on a folder that names its holder, works on any file system and lets restarts through.

The lock is a file with an id of its own, a nonce, and a heartbeat in its modification time. The
lock of a dead holder is replaced by a rename, by the one process that holds the claim to it: a
second file, whose name has the nonce of the lock, so that it never stands for another lock. A claim
of a dead process is claimed in turn. Nothing here depends on flock or on clocks that agree.
"""

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import shlex
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from slowfast.distributed.job import Job, Process, is_alive, is_restart_of, own_process
from slowfast.utils.files import explain

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0  # without a heartbeat, after which a holder on another host counts as dead

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL)
_MOST_BYTES = 2**16  # of a lock; a larger file is none
_MOST_COMMAND = 200  # characters of a command in a message

logger = logging.getLogger(__name__)

_held: set[str] = set()  # nonces of the locks of this interpreter

Record = TypeVar("Record", Process, Job)


class FolderLockedError(OSError):
    """Another process holds the lock, or has taken it over from this one."""


class FolderLock:
    """A lock that one process of a job holds while it writes to a folder.

    A process that is forked from the holder does not hold it, and cannot release it.

    Args:
        path: The lock file, such as OUTPUT_DIR/train.lock. Its folder is created if it is missing.
        purpose: What the holder does, as a noun for messages: "training", "test", "conversion".
        job: The job of this process. It takes over at once from an earlier start of the same job.
        command: The command of this process, for messages; by default as Python has it.
        remedy: What else a process that is refused can do, as the end of a sentence.
        heartbeat_seconds: The time between two heartbeats.
        silent_seconds: The time without a heartbeat after which a holder counts as dead, where
            its host is another one.
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
        self._nonces: list[str] = []  # of the lock that is held; popped by the one that releases
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
            FolderLockedError: Another process holds it.
            OSError: The file cannot be written or read, or is not a lock file.
        """
        assert not self._nonces, "this lock is held already"
        self._released = threading.Event()  # before a signal handler may release
        self._make_folder()
        candidate = self._new_candidate()
        try:
            self._contend(candidate)
            self._pid = os.getpid()
            self._nonces.append(candidate.nonce)
            self._start_heartbeat(candidate.nonce)
        except BaseException:  # a signal may come after the file became the lock
            self._nonces.clear()
            self._release(candidate.nonce)
            raise
        finally:
            candidate.discard()
        self._remove_leftovers(candidate.nonce)

    def release(self) -> None:
        """Give the lock back, if this process holds it. Any thread or signal handler may call it.

        A lock that another process has taken over stays as it is.
        """
        if self._pid != os.getpid():  # a forked child
            return
        try:
            nonce = self._nonces.pop()  # for one caller alone
        except IndexError:
            return

        self._release(nonce)

    def check(self) -> None:
        """Make sure that this process still holds the lock. It reads one small file.

        Raises:
            FolderLockedError: The lock was taken over, replaced or deleted.
            OSError: The file system does not answer.
        """
        found = _look_at(self.path)
        if found is not None and found.key in self._nonces:
            return
        if not self._nonces:
            raise FolderLockedError(f"{self.path}: this {self.purpose} has released its lock")
        if found is not None:
            raise FolderLockedError(
                f"{self.path.parent}: {found.describe()}, has taken over from this "
                f"{self.purpose}, which stops: two of them would overwrite each other's files"
            )
        if not self.path.parent.is_dir():
            raise FolderLockedError(
                f"{self.path.parent}: this folder was deleted or moved while the {self.purpose} "
                "was writing to it; start it again"
            )
        raise FolderLockedError(
            f"{self.path}: this file was deleted while the {self.purpose} was running, so that "
            "another process may be writing here; make sure that none is, and start it again"
        )

    # ---- Taking the lock ---------------------------------------------------------------------

    def _contend(self, candidate: "_Candidate") -> None:
        """Return once the candidate is the lock."""
        watch: _Watch | None = None
        pause = min(1.0, self._silent_seconds / 20)
        while True:
            try:
                if candidate.create(self.path):
                    return

                seconds = watch.seconds() if watch else 0.0  # before the look at the lock
                age_limit = candidate.touch() - self._silent_seconds
                found = _look_at(self.path)
                if found is not None:
                    if watch is None or watch.found.key != found.key:
                        watch, seconds = _Watch(found), 0.0
                    verdict = self._judge(found, watch, seconds=seconds, age_limit=age_limit)
                    if verdict.is_alive is False and self._replace(found, candidate):
                        name = found.describe()
                        logger.warning(f"{self.path}: took over from {name}, {verdict.reason}")
                        return
                    self._refuse_or_wait(verdict, watch, seconds=seconds)
            except FileNotFoundError:  # another process took this one for dead: it was stopped
                self._make_folder()
                candidate.write()
            time.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))

    def _refuse_or_wait(self, verdict: "_Verdict", watch: "_Watch", *, seconds: float) -> None:
        """Raise FolderLockedError if waiting is of no use; log it when a wait begins."""
        name = watch.found.describe()
        if verdict.is_alive:
            remedies = f"wait for it, stop it, or {self._remedy}"
            raise FolderLockedError(f"{self.path.parent}: {name}, is writing here; {remedies}")

        if verdict.is_alive is None and not watch.is_logged:
            watch.is_logged = True
            limit = f"{self._silent_seconds:g} s"
            logger.warning(f"{self.path}: {name}, {verdict.reason}; waiting up to {limit}")

        if verdict.is_alive is False and seconds > 2 * self._silent_seconds:
            raise FolderLockedError(
                f"{self.path}: another process has been taking over this lock for {seconds:.0f} s, "
                f"so it may be stopped; end it, or delete {self._beside('*', 'claim')}"
            )

    def _judge(
        self,
        found: "_Found",
        watch: "_Watch",
        *,
        seconds: float,
        age_limit: float,
    ) -> "_Verdict":
        """Decide whether the holder of a lock is alive.

        Args:
            found: The lock.
            watch: The first look at it.
            seconds: The time since then.
            age_limit: The modification time before which a lock has been silent too long.
        """
        holder = found.holder
        if holder is not None:
            is_earlier_start = is_restart_of(self._job, holder.job)
            alive = _is_alive(holder)
            if alive and is_earlier_start and seconds < self._silent_seconds:
                return _Verdict(None, "is an earlier start of this job, and has not ended yet")
            if alive is not None:
                return _Verdict(alive, "which has ended")
            if is_earlier_start:
                return _Verdict(False, "an earlier start of this job")

        silent = f"which gave no sign of life for {self._silent_seconds:g} s"
        if found.mtime < age_limit:
            return _Verdict(False, silent)
        if found.mtime != watch.found.mtime:
            return _Verdict(True, "")
        if seconds >= self._silent_seconds:  # the clock that set the time is ahead
            return _Verdict(False, silent)
        return _Verdict(None, "may be dead")

    def _replace(self, found: "_Found", candidate: "_Candidate") -> bool:
        """Put the candidate in the place of a dead lock; False if another process was faster."""
        claims = self._claim(found.key, candidate)
        if not claims:
            return False

        removable = claims[-1:]  # that of this process
        try:
            if _look_at(self.path) != found:
                return False
            if not candidate.rename_to(self.path):
                return False
            removable = claims
            return True
        finally:
            for claim in removable:
                claim.unlink(missing_ok=True)

    def _claim(self, key: str, candidate: "_Candidate") -> list[Path]:
        """Return the claims to a lock, of which the last is that of this process.

        The others are of dead processes, which cannot act on them any more, not even if they
        were only stopped. Empty if a live process has the claim.
        """
        claims: list[Path] = []
        while True:
            claim = self._beside(key, "claim")
            if candidate.create(claim):
                return [*claims, claim]

            age_limit = candidate.touch() - self._silent_seconds
            found = _look_at(claim)
            if found is None or found.key == key:
                return []
            if _may_be_alive(found, age_limit=age_limit):
                return []

            self._beside(found.key, "new").unlink(missing_ok=True)  # what it would have renamed
            claims.append(claim)
            key = found.key

    def _start_heartbeat(self, nonce: str) -> None:
        heartbeat = threading.Thread(
            target=_beat,
            args=(self.path, nonce, self._heartbeat_seconds, self._released),
            name="heartbeat of a folder lock",
            daemon=True,
        )
        heartbeat.start()

    def _release(self, nonce: str) -> None:
        """Remove a lock of this process, unless another one took it over or is about to.

        If the file system does not let it, the lock stays until this process ends.
        """
        _held.discard(nonce)
        self._released.set()
        with contextlib.suppress(OSError):
            found = _look_at(self.path)
            if found is not None and found.key == nonce:
                self._remove_claimed(nonce)

    def _remove_claimed(self, nonce: str) -> None:
        try:
            candidate = self._new_candidate()
        except OSError:  # the disk is full
            self.path.unlink()
            return

        claims: list[Path] = []
        try:
            claims = self._claim(nonce, candidate)
            found = _look_at(self.path)
            if claims and found is not None and found.key == nonce:
                self.path.unlink()
        finally:
            for claim in claims:
                claim.unlink(missing_ok=True)
            candidate.discard()
            _held.discard(candidate.nonce)

    # ---- Files -------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot("be created", error, folder) from error

    def _beside(self, key: str, suffix: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{key}.{suffix}")

    def _new_candidate(self) -> "_Candidate":
        holder = _Holder(
            process=own_process(),
            started=time.strftime("%Y-%m-%d %H:%M:%S"),
            purpose=self.purpose,
            command=self._command or shlex.join(["python", *sys.argv]),
            job=self._job,
            nonce="",
        )
        candidate = _Candidate(self.path, holder, path_of=lambda key: self._beside(key, "new"))
        candidate.write()
        return candidate

    def _remove_leftovers(self, nonce: str) -> None:
        """Remove what processes that were killed while they took the lock have left here."""
        pattern = re.compile(re.escape(f".{self.path.name}.") + r"\w+\.(new|claim)")
        with contextlib.suppress(OSError):
            age_limit = self.path.stat().st_mtime - self._silent_seconds
            with os.scandir(self.path.parent) as entries:
                names = {entry.name for entry in entries if pattern.fullmatch(entry.name)}
            for name in names - self._claims_to(nonce):
                path = self.path.with_name(name)
                found = _look_at(path)
                if found is not None and not _may_be_alive(found, age_limit=age_limit):
                    path.unlink(missing_ok=True)

    def _claims_to(self, key: str) -> set[str]:
        """Return the names of the claims to a lock, and of the claims to those."""
        names: set[str] = set()
        while (claim := self._beside(key, "claim")).name not in names:
            names.add(claim.name)
            found = _look_at(claim)
            if found is None:
                break
            key = found.key
        return names


class _Holder(NamedTuple):
    """What a lock file says."""

    process: Process
    started: str  # for readers
    purpose: str
    command: str
    job: Job
    nonce: str

    def to_json(self) -> bytes:
        fields = self._asdict() | {"process": self.process._asdict(), "job": self.job._asdict()}
        return (json.dumps(fields, indent=1) + "\n").encode()


class _Found(NamedTuple):
    """A file as it was at one moment."""

    holder: _Holder | None  # None: empty, cut off or of another program
    key: str  # its nonce, or else its inode
    mtime: float

    def describe(self) -> str:
        if self.holder is None:
            return "a process, which this file does not name"

        process, started, purpose, command, job, _ = self.holder
        article = "an" if purpose[:1] in tuple("aeiou") else "a"
        if len(command) > _MOST_COMMAND:
            command = command[: _MOST_COMMAND - 4] + " ..."
        details = ", ".join(filter(None, (job.name, command)))

        name = f"{article} {purpose} of process {process.pid} on host {process.host}"
        return f"{name}, started {started}" + (f" ({details})" if details else "")


class _Verdict(NamedTuple):
    is_alive: bool | None  # None: not known yet
    reason: str


class _Watch:
    """The first look at a lock."""

    def __init__(self, found: _Found) -> None:
        self.found = found
        self.is_logged = False
        self._began = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began


class _Candidate:
    """A file that is whole, and becomes a lock or a claim by one more name or a new one.

    Args:
        target: The lock that it is for, for messages.
        holder: Its content, but for the nonce.
        path_of: The path of a candidate with a nonce.
    """

    def __init__(self, target: Path, holder: _Holder, *, path_of: Callable[[str], Path]) -> None:
        self._target = target
        self._holder = holder
        self._path_of = path_of
        self.nonce = ""

    @property
    def path(self) -> Path:
        return self._path_of(self.nonce)

    def write(self) -> None:
        """Write the file, with a new nonce."""
        _held.discard(self.nonce)
        self.nonce = secrets.token_hex(16)
        _held.add(self.nonce)
        self._holder = self._holder._replace(nonce=self.nonce)
        try:
            _write_new(self.path, self._holder.to_json())
        except OSError as error:
            raise _cannot("be created", error, self._target) from error

    def touch(self) -> float:
        """Return the time now, by the clock that sets the modification times in this folder."""
        os.utime(self.path)
        return self.path.stat().st_mtime

    def create(self, target: Path) -> bool:
        """Give the file another name; False if there is such a file already."""
        try:
            os.link(self.path, target)
            return True
        except FileNotFoundError:
            raise
        except FileExistsError:
            return _is_same_file(self.path, target)  # a server may answer so to a repeated call
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise _cannot("be created", error, target) from error

        try:
            _write_new(target, self._holder.to_json())
            return True
        except FileExistsError:
            return False
        except OSError as error:
            raise _cannot("be created", error, target) from error

    def rename_to(self, target: Path) -> bool:
        """Replace a file; False if another process has removed this one."""
        try:
            os.replace(self.path, target)
        except FileNotFoundError:
            found = _look_at(target)
            return found is not None and found.key == self.nonce
        except OSError as error:
            raise _cannot("be replaced", error, target) from error
        return True

    def discard(self) -> None:
        """Remove the file, unless it was renamed."""
        with contextlib.suppress(OSError):
            self.path.unlink()


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        if os.write(descriptor, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _look_at(path: Path) -> _Found | None:
    """Return what a lock or claim says and its time, as the server has it now; None if it is gone.

    Raises:
        OSError: It cannot be read, or is not a file.
    """
    descriptor = _open(path)
    if descriptor is None:
        return None
    try:
        return _read(descriptor, path)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int | None:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        if error.errno == errno.ELOOP:
            raise _not_a_lock(path, "symbolic link") from error
        raise _cannot("be read", error, path) from error


def _read(descriptor: int, path: Path) -> _Found | None:
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            is_folder = stat.S_ISDIR(status.st_mode)
            raise _not_a_lock(path, "folder" if is_folder else "special file")
        holder = _parse(os.read(descriptor, _MOST_BYTES))
    except OSError as error:
        if error.errno == errno.ESTALE:  # another host has removed it
            return None
        raise
    return _Found(holder, holder.nonce if holder else f"inode{status.st_ino}", status.st_mtime)


def _not_a_lock(path: Path, kind: str) -> OSError:
    return OSError(f"{path}: is a {kind}, not a lock file; remove it or rename it")


def _parse(content: bytes) -> _Holder | None:
    """Return what a lock file says; None if it is not one."""
    try:
        fields = json.loads(content)
        process = _record(Process, fields["process"])
        job = _record(Job, fields["job"])
        texts = [fields[name] for name in ("started", "purpose", "command", "nonce")]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None

    started, purpose, command, nonce = texts
    numbers = [process.pid, process.started, job.restart, *job.starts.values()]
    names = [process.host, process.boot, process.namespace, job.name, *texts]
    is_typed = all(isinstance(value, int) for value in numbers)
    is_typed = is_typed and all(isinstance(value, str) for value in names)
    if not is_typed or not re.fullmatch("[0-9a-f]{32}", nonce) or not 0 < process.pid < 2**31:
        return None
    return _Holder(process, started, purpose, command, job, nonce)


def _record(kind: type[Record], fields: dict[str, Any]) -> Record:
    return kind(**{name: fields[name] for name in kind._fields})


def _is_alive(holder: _Holder) -> bool | None:
    """Whether a holder runs; None if this process cannot see it."""
    if holder.process == own_process():
        return holder.nonce in _held  # else of the program that this process ran before an exec
    return is_alive(holder.process)


def _may_be_alive(found: _Found, *, age_limit: float) -> bool:
    alive = _is_alive(found.holder) if found.holder else None
    return found.mtime >= age_limit if alive is None else alive


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except FileNotFoundError:
        return False


def _beat(path: Path, nonce: str, seconds: float, released: threading.Event) -> None:
    """Touch a lock while it is that of this process. What is wrong with it, `check` reports."""
    while not released.wait(seconds):
        with contextlib.suppress(OSError):
            _touch(path, nonce)


def _touch(path: Path, nonce: str) -> None:
    descriptor = _open(path)
    if descriptor is None:
        return
    try:
        found = _read(descriptor, path)
        if found is not None and found.key == nonce:
            os.utime(descriptor)  # never the lock of another process, which the path may be now
    finally:
        os.close(descriptor)


def _cannot(action: str, error: OSError, path: Path) -> OSError:
    explained = OSError(f"{path}: cannot {action}: {explain(error, path.parent)}")
    explained.errno = error.errno
    return explained
