"""A cache of files behind http(s) addresses: whole files only, and never more than its limit.

Any number of processes can use one cache at the same time. A file appears under its name only once
it is complete. The file `size` holds the sum of all sizes, so that a download does not have to add
them up. Its lock is held while old files make room.
"""

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.utils import parsedate_to_datetime
from itertools import chain
from os.path import dirname, join
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from iopath.common.file_io import get_cache_dir

from slowfast.utils.download import Download, checked_address, open_address
from slowfast.utils.files import UNFINISHED, explain, format_bytes, open_unfinished

LIMIT_NAME = "SLOWFAST_CACHE_GB"  # environment variable: limit of the cache in GB (10^9 bytes)
DEFAULT_LIMIT = "50"
RECENT_SECONDS = 60.0  # a file used within this time stays, since it may be about to be opened
ABANDONED_SECONDS = 3600.0  # an unfinished file without a new byte for this long is deleted

_FILL = 0.9  # share of the limit that is still used after making room


def fetch(address: str, *, force: bool = False) -> str:
    """Return the path of a file in the cache, after a download if it is not there.

    Args:
        address: An http(s) address.
        force: Download the file even if there is a copy.

    Raises:
        FileNotFoundError: If the server has no such file.
        OSError: If the address is refused, the download fails, or the copy cannot be written.
        ValueError: If SLOWFAST_CACHE_GB is not a number above 0.
    """
    path = cache_path(address)
    if force or not _mark_used(path):
        limit = limit_bytes()
        with open_address(address) as download:
            _keep(download, path, limit=limit)
    return path


def open_copy(
    address: str, mode: str, buffering: int = -1, **kwargs: object
) -> IO[str] | IO[bytes]:
    """Open a file in the cache as `open` does, after a download if it is not there."""
    path = fetch(address)
    try:
        return open(path, mode, buffering, **kwargs)  # type: ignore[call-overload]
    except FileNotFoundError:  # another process has just deleted it
        return open(fetch(address), mode, buffering, **kwargs)  # type: ignore[call-overload]


def forget(address: str) -> str:
    """Delete the copy of an unreadable file. Return its path, or "" if there was none."""
    try:
        path = cache_path(address)
        os.remove(path)
    except OSError:
        return ""
    return path


def cache_path(address: str) -> str:
    """Return the path that a file has in the cache, whether it is there or not.

    The name is a hash of the address, followed by the file name for the reader. No address can
    therefore lead out of the cache or to the copy of another address.
    """
    escaped = checked_address(address)
    digest = hashlib.sha256(escaped.encode()).hexdigest()[:32]
    file_name = unquote(urlsplit(escaped).path).rpartition("/")[2]
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", file_name)[-64:]
    return join(_folder(), digest[:2], f"{digest}-{readable}")


def _folder() -> str:
    return join(get_cache_dir(), "http")


def limit_bytes() -> float:
    """Return the limit of the cache in bytes.

    Raises:
        ValueError: If SLOWFAST_CACHE_GB is not a number above 0.
    """
    text = os.environ.get(LIMIT_NAME, DEFAULT_LIMIT)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0

    if not gigabytes > 0:
        remedy = "Use a number of GB above 0, or inf for no limit"
        raise ValueError(f"{LIMIT_NAME} is {text!r}. {remedy}")
    return gigabytes * 1e9


def _mark_used(path: str) -> bool:
    """Mark a copy as used now, and return whether there is one.

    The access time says when a copy was last used. The file system does not keep it up to date,
    since most are mounted to store it once a day or never.
    """
    try:
        found = os.stat(path)
        with suppress(PermissionError):  # it belongs to another user
            os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


# ---- Writing ---------------------------------------------------------------------------------


def _keep(download: Download, path: str, *, limit: float) -> None:
    """Write the copy of a file, whole or not at all."""
    _check_size(download.num_bytes or 0, limit=limit)
    # Other processes may download the same file, so each writes to a file of its own.
    unfinished = Path(dirname(path), f"{secrets.token_hex(8)}{UNFINISHED}")

    with ExitStack() as stack:
        with _write_errors(path):
            os.makedirs(dirname(path), exist_ok=True)
            file = stack.enter_context(open_unfinished(Path(path), unfinished=unfinished))

        num_bytes = 0
        for block in download.blocks():
            num_bytes += len(block)
            _check_size(num_bytes, limit=limit)
            with _write_errors(path):
                file.write(block)

        with _write_errors(path):
            file.flush()
            _make_room(num_bytes, limit=limit)
            file.commit()
            _set_times(path, download.last_modified)


def _check_size(num_bytes: int, *, limit: float) -> None:
    if num_bytes > limit:
        raise OSError(
            f"{format_bytes(num_bytes)} or more, but the cache holds {format_bytes(limit)} at "
            f"most. Set {LIMIT_NAME} to more"
        )


@contextmanager
def _write_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = explain(error, Path(path).parent)
        raise OSError(f"its copy {path} cannot be written: {reason}") from error


def _set_times(path: str, last_modified: str) -> None:
    """Give a copy the age of the file on the server, so that a second download looks the same."""
    now = time.time()
    try:
        modified = parsedate_to_datetime(last_modified).timestamp()
    except (ValueError, TypeError, OverflowError):  # the date is missing or invalid
        modified = now
    with suppress(FileNotFoundError):  # another process has just deleted it
        os.utime(path, (now, modified))


# ---- The limit -------------------------------------------------------------------------------


def _make_room(num_bytes: int, *, limit: float) -> None:
    """Count a new file, and delete the least recently used ones if the limit is exceeded."""
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
    """Open a file with a lock, which ends with the process at the latest. It may not exist yet."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        # On a file system without locks, the sum may be wrong for a while.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _evict(folder: str, *, most: float) -> int:
    """Delete the least recently used files until the rest holds at most `most` bytes.

    Returns:
        The bytes of the files that are left.
    """
    now = time.time()
    found = sorted((used, size, path) for path, size, used in _files_in(folder))
    total = sum(size for _, size, _ in found)
    for used, size, path in found:
        if total <= most or now - used < RECENT_SECONDS:
            break
        with suppress(OSError):
            if now - os.stat(path).st_atime >= RECENT_SECONDS:  # still unused
                os.remove(path)
                total -= size
    return total


def _files_in(folder: str) -> Iterator[tuple[str, int, float]]:
    """Yield path, size and last use of all copies, and delete what killed downloads left."""
    folders = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
    for entry in chain.from_iterable(map(os.scandir, folders)):
        # Another process may have deleted it, or it may belong to another user.
        with suppress(FileNotFoundError, PermissionError):
            found = entry.stat()
            if not entry.name.endswith(UNFINISHED):
                yield entry.path, found.st_size, found.st_atime
            elif time.time() - found.st_mtime > ABANDONED_SECONDS:
                os.remove(entry.path)
