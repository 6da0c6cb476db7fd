"""A cache of files behind http(s) addresses: whole files only, and no more than its limit.

Any number of processes may use one cache at the same time. A file appears in it by a rename, when
all of it is there. A file beside them, `size`, holds the sum of their sizes, so that a download
need not add them up. Its lock is held while room is made.
"""

import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from os.path import dirname, join
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from iopath.common.file_io import get_cache_dir

from slowfast.utils.cleanup import cleaned_up
from slowfast.utils.download import Download, checked_address, open_address
from slowfast.utils.files import explain, format_bytes

LIMIT_NAME = "SLOWFAST_CACHE_GB"  # environment variable: most GB (10^9 bytes) that the cache holds
DEFAULT_LIMIT = "50"
RECENT_SECONDS = 60.0  # after its use, in which a file is not deleted: it may be about to be opened
ABANDONED_SECONDS = 3600.0  # without a new byte, after which an unfinished file is deleted

_FILL = 0.9  # share of the limit that is left when room is made
_UNFINISHED = ".unfinished"


def fetch(address: str, *, force: bool = False) -> str:
    """Return the path of the copy of a file in the cache, which is downloaded if it is not there.

    Args:
        address: An http(s) address.
        force: Download it although there is a copy.

    Raises:
        FileNotFoundError: The server has no such file.
        OSError: The address is refused, the download fails, or the copy cannot be written.
        ValueError: SLOWFAST_CACHE_GB is not a number above 0.
    """
    path = path_of_copy(address)
    if force or not _mark_used(path):
        limit = _limit()
        with open_address(address) as download:
            _keep(download, path, limit=limit)
    return path


def open_copy(
    address: str, mode: str, buffering: int = -1, **kwargs: object
) -> IO[str] | IO[bytes]:
    """Open the copy of a file in the cache, as `open` does, after a download if it is not there."""
    path = fetch(address)
    try:
        return open(path, mode, buffering, **kwargs)  # type: ignore[call-overload]
    except FileNotFoundError:  # deleted in between by another process
        return open(fetch(address), mode, buffering, **kwargs)  # type: ignore[call-overload]


def forget(address: str) -> str:
    """Delete the copy of a file that cannot be read; return its path, "" if there was none."""
    try:
        path = path_of_copy(address)
        os.remove(path)
    except OSError:
        return ""
    return path


def path_of_copy(address: str) -> str:
    """Return where in the cache the copy of a file is, or will be.

    The name is a hash of the address, with the last part of its path for the reader. No address
    can therefore lead out of the cache, or to the copy of another one.
    """
    escaped = checked_address(address)
    digest = hashlib.sha256(escaped.encode()).hexdigest()[:32]
    last_part = unquote(urlsplit(escaped).path).rpartition("/")[2]
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", last_part)[-64:]
    return join(_folder(), digest[:2], f"{digest}-{readable}")


def _folder() -> str:
    return join(get_cache_dir(), "http")


def _limit() -> float:
    """Return how many bytes the cache may hold."""
    text = os.environ.get(LIMIT_NAME, DEFAULT_LIMIT)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise ValueError(
            f"{LIMIT_NAME} is {text!r}; use a number of GB above 0, or inf for no limit"
        )
    return gigabytes * 1e9


def _mark_used(path: str) -> bool:
    """Whether there is a copy, which counts as used now.

    The time of access says when a copy was last used. That of the file system itself would not do:
    most are mounted to store it once a day or never.
    """
    try:
        found = os.stat(path)
        with suppress(PermissionError):  # of another user
            os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


# ---- Writing ---------------------------------------------------------------------------------


def _keep(download: Download, path: str, *, limit: float) -> None:
    """Write the copy of a file, whole or not at all."""
    _check_size(download.num_bytes or 0, limit=limit)
    with _explained(path):
        os.makedirs(dirname(path), exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(dir=dirname(path), suffix=_UNFINISHED)

    with cleaned_up(lambda: _remove(unfinished)):
        num_bytes = 0
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for block in download.blocks():
                num_bytes += len(block)
                _check_size(num_bytes, limit=limit)
                with _explained(path):
                    _write(file, block)

        with _explained(path):
            _make_room(num_bytes, limit=limit)
            os.replace(unfinished, path)
            _set_times(path, download.last_modified)


def _write(file: IO[bytes], block: bytes) -> None:
    while block:
        block = block[file.write(block) :]


def _check_size(num_bytes: int, *, limit: float) -> None:
    if num_bytes > limit:
        raise OSError(
            f"{format_bytes(num_bytes)} or more, but the cache holds {format_bytes(limit)} at most; "
            f"set {LIMIT_NAME} to more"
        )


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"its copy {path} cannot be written: {explain(error, Path(path).parent)}"
        ) from error


def _set_times(path: str, last_modified: str) -> None:
    """Let a copy be as old as the file on the server, so that it is the same when it comes again."""
    now = time.time()
    try:
        modified = parsedate_to_datetime(last_modified).timestamp()
    except (ValueError, TypeError, OverflowError):  # there is none, or it is no date
        modified = now
    with suppress(FileNotFoundError):  # deleted in between by another process
        os.utime(path, (now, modified))


def _remove(path: str) -> None:
    with suppress(OSError):  # it was renamed
        os.remove(path)


# ---- The limit -------------------------------------------------------------------------------


def _make_room(num_bytes: int, *, limit: float) -> None:
    """Count a new file in, and delete the least recently used ones if it is one too many."""
    folder = _folder()
    with _locked(join(folder, "size")) as file:
        text = file.read()
        total = int(text) if re.fullmatch(rb"[0-9]{1,18}", text) else None
        if total is None or total + num_bytes > limit:
            total = _evict(folder, most=_FILL * limit - num_bytes)

        file.seek(0)
        file.write(b"%d" % (total + num_bytes))
        file.truncate()


@contextmanager
def _locked(path: str) -> Iterator[IO[bytes]]:
    """Open a file, which need not exist, with a lock that ends with the process at the latest."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        with suppress(
            OSError
        ):  # a file system without locks: the sum may then be wrong for a while
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _evict(folder: str, *, most: float) -> int:
    """Delete files, the least recently used first, until they hold at most so many bytes.

    Returns:
        The bytes of all files that are left.
    """
    now = time.time()
    found = sorted((used, size, path) for path, size, used in _files_in(folder))
    total = sum(size for _, size, _ in found)
    for used, size, path in found:
        if total <= most or now - used < RECENT_SECONDS:
            break
        with suppress(OSError):
            if now - os.stat(path).st_atime >= RECENT_SECONDS:  # not used since the list was made
                os.remove(path)
                total -= size
    return total


def _files_in(folder: str) -> Iterator[tuple[str, int, float]]:
    """Give path, size and time of last use of all copies; delete what killed downloads have left."""
    for parent in os.scandir(folder):
        for entry in os.scandir(parent) if parent.is_dir() else ():
            with suppress(FileNotFoundError):  # deleted by another process
                found = entry.stat()
                if not entry.name.endswith(_UNFINISHED):
                    yield entry.path, found.st_size, found.st_atime
                elif time.time() - found.st_mtime > ABANDONED_SECONDS:
                    _remove(entry.path)
