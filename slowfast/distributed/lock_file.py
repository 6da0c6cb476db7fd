"""Lock files: reading them, writing them whole, and the record of their holder."""

import contextlib
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from slowfast.distributed.job import Job
from slowfast.distributed.process_identity import Process
from slowfast.utils.files import explain

_ERRNOS_WITHOUT_LINKS = (
    errno.EPERM,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EXDEV,
    errno.EINVAL,
)
_MAX_BYTES = 2**16  # A larger file is no lock.
_MAX_COMMAND = 200  # Characters of a command in a message.

Record = TypeVar("Record", Process, Job)

_own_nonces: set[str] = set()  # Nonces of the lock files that this interpreter wrote.


class Holder(NamedTuple):
    """Content of a lock file: the process that holds the lock."""

    process: Process
    started: str  # Local time for readers.
    purpose: str
    command: str
    job: Job
    nonce: str

    def to_json(self) -> bytes:
        """Return the content of the lock file."""
        fields = self._asdict() | {"process": self.process._asdict(), "job": self.job._asdict()}
        return (json.dumps(fields, indent=1) + "\n").encode()


class LockFile(NamedTuple):
    """A lock file at one moment."""

    holder: Holder | None  # None if the file is empty, truncated or from another program.
    key: str  # Nonce of the holder, or else the inode of the file.
    mtime: float

    def describe(self) -> str:
        """Return a noun phrase for the holder, for messages."""
        if self.holder is None:
            return "a process, which this file does not name"

        process, started, purpose, command, job, _ = self.holder
        article = "an" if purpose[:1] in tuple("aeiou") else "a"
        if len(command) > _MAX_COMMAND:
            command = command[: _MAX_COMMAND - 4] + " ..."

        name = f"{article} {purpose} of process {process.pid} on host {process.host}"
        details = ", ".join(filter(None, (job.name, command)))
        return f"{name}, started {started}" + (f" ({details})" if details else "")


class CandidateFile:
    """A complete file that becomes a lock or a claim through a hard link or a rename.

    Args:
        lock_path: The lock that it is for, for messages.
        holder: Its content, except for the nonce.
        make_path: Function that returns the path of a candidate from its nonce.
    """

    def __init__(
        self, lock_path: Path, holder: Holder, *, make_path: Callable[[str], Path]
    ) -> None:
        self._lock_path = lock_path
        self._holder = holder
        self._make_path = make_path
        self.nonce = ""

    @property
    def path(self) -> Path:
        """Path of the file, unless it was renamed."""
        return self._make_path(self.nonce)

    def write(self) -> None:
        """Write the file with a new nonce."""
        forget_nonce(self.nonce)
        self.nonce = secrets.token_hex(16)
        _own_nonces.add(self.nonce)
        self._holder = self._holder._replace(nonce=self.nonce)
        try:
            _write_new(self.path, self._holder.to_json())
        except OSError as error:
            raise explain_error("be created", error, self._lock_path) from error

    def touch(self) -> float:
        """Return the current time of the clock that sets modification times in this folder."""
        os.utime(self.path)
        return self.path.stat().st_mtime

    def link_to(self, target: Path) -> bool:
        """Give the file a second name. Return False if the name is taken.

        On a file system without hard links, this creates a second file with the same content.
        """
        try:
            os.link(self.path, target)
            return True
        except FileNotFoundError:
            raise
        except FileExistsError:
            return _is_same_file(self.path, target)  # A server may answer a retry like this.
        except OSError as error:
            if error.errno not in _ERRNOS_WITHOUT_LINKS:
                raise explain_error("be created", error, target) from error

        try:
            _write_new(target, self._holder.to_json())
            return True
        except FileExistsError:
            return False
        except OSError as error:
            raise explain_error("be created", error, target) from error

    def rename_to(self, target: Path) -> bool:
        """Replace a file. Return False if another process removed this candidate."""
        try:
            os.replace(self.path, target)
        except FileNotFoundError:
            found = read_lock_file(target)
            return found is not None and found.key == self.nonce
        except OSError as error:
            raise explain_error("be replaced", error, target) from error
        return True

    def discard(self) -> None:
        """Remove the file, unless it was renamed."""
        with contextlib.suppress(OSError):
            self.path.unlink()


def is_own_nonce(nonce: str) -> bool:
    """Whether this interpreter wrote the lock file with a nonce and still uses it."""
    return nonce in _own_nonces


def forget_nonce(nonce: str) -> None:
    """Note that this interpreter no longer uses the lock file with a nonce."""
    _own_nonces.discard(nonce)


def read_lock_file(path: Path) -> LockFile | None:
    """Return a lock or claim as the file server has it now, or None if there is none.

    Raises:
        OSError: If it cannot be read or is not a regular file.
    """
    descriptor = _open(path)
    if descriptor is None:
        return None
    try:
        return _read(descriptor, path)
    finally:
        os.close(descriptor)


def touch_lock_file(path: Path, *, nonce: str) -> None:
    """Set the modification time of a lock to now, if it still has this nonce."""
    descriptor = _open(path)
    if descriptor is None:
        return
    try:
        found = _read(descriptor, path)
        if found is not None and found.key == nonce:
            # Through the descriptor: the path may belong to the lock of another process by now.
            os.utime(descriptor)
    finally:
        os.close(descriptor)


def explain_error(action: str, error: OSError, path: Path) -> OSError:
    """Return an error with the same errno that names the file, the action and the reason."""
    explained = OSError(f"{path}: cannot {action}: {explain(error, path.parent)}")
    explained.errno = error.errno
    return explained


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


def _open(path: Path) -> int | None:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        if error.errno == errno.ELOOP:
            raise _not_a_lock(path, "symbolic link") from error
        raise explain_error("be read", error, path) from error


def _read(descriptor: int, path: Path) -> LockFile | None:
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            is_folder = stat.S_ISDIR(status.st_mode)
            raise _not_a_lock(path, "folder" if is_folder else "special file")
        holder = _parse(os.read(descriptor, _MAX_BYTES))
    except OSError as error:
        if error.errno == errno.ESTALE:  # Another host removed it.
            return None
        raise

    key = holder.nonce if holder else f"inode{status.st_ino}"
    return LockFile(holder, key, status.st_mtime)


def _not_a_lock(path: Path, kind: str) -> OSError:
    return OSError(f"{path}: is a {kind}, not a lock file. Remove it or rename it")


def _parse(content: bytes) -> Holder | None:
    """Return the holder in the content of a lock file, or None if it is no lock file."""
    try:
        fields = json.loads(content)
        process = _pick(Process, fields["process"])
        job = _pick(Job, fields["job"])
        texts = [fields[name] for name in ("started", "purpose", "command", "nonce")]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None

    numbers = [process.pid, process.started, job.restart, *job.starts.values()]
    strings = [process.host, process.boot, process.namespace, job.name, *texts]
    if not all(isinstance(value, int) for value in numbers):
        return None
    if not all(isinstance(value, str) for value in strings):
        return None

    started, purpose, command, nonce = texts
    if not re.fullmatch("[0-9a-f]{32}", nonce) or not 0 < process.pid < 2**31:
        return None
    return Holder(process, started, purpose, command, job, nonce)


def _pick(kind: type[Record], fields: dict[str, Any]) -> Record:
    return kind(**{name: fields[name] for name in kind._fields})


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except FileNotFoundError:
        return False
