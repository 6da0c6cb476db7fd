"""Files that are whole or absent: written beside their path, synced to disk, then renamed."""

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import simplejson

from slowfast.utils.cleanup import cleaned_up

UNFINISHED = ".unfinished"  # suffix of a file that is being written, after its full name

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def write_file(path: Path, content: str | bytes | Callable[[IO[bytes]], None]) -> None:
    """Write a file so that its path never holds a part of it, not even after a crash of the machine.

    Args:
        path: The file. Its folder is created if it is missing.
        content: The text (UTF-8), the bytes, or a function that writes to an open binary file.

    Raises:
        OSError: The file cannot be written. An older file at this path stays as it was.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    file: _RememberingFile | None = None
    with cleaned_up(lambda: _remove(unfinished)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(unfinished, "wb", buffering=0) as raw:
                file = _RememberingFile(raw)
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(raw.fileno())
            os.replace(unfinished, path)
            _sync_folder(path.parent)
        except (OSError, RuntimeError, SystemError) as error:
            # Libraries hide the error of the write behind one of their own: torch as a RuntimeError about positions.
            cause = file.error if file is not None and file.error is not None else error
            if not isinstance(cause, OSError):
                raise
            explained = OSError(f"{path}: cannot be written: {explain(cause, path.parent)}")
            explained.errno = cause.errno
            raise explained from error


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, see `write_file`; numbers that are not finite become null."""
    write_file(path, simplejson.dumps(content, indent=1, ignore_nan=True) + "\n")


def read_json(path: Path, *, remedy: str) -> Any:
    """Return the content of a JSON file.

    Args:
        path: The file.
        remedy: What to do if it is damaged, as the end of a sentence: "delete it to start without it".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty or not JSON. The message names it and ends in `remedy`.
    """
    try:
        return simplejson.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problem = "is empty" if path.stat().st_size == 0 else f"is not valid JSON ({error})"
        raise ValueError(f"{path}: {problem}; {remedy}") from error


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes have left of files in a folder that no other process writes to now."""
    for path in folder.glob(f"*{UNFINISHED}"):
        if path.is_file():
            path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int | None:
    """Return the bytes that are free in a folder, which may not exist yet; None if the disk does not say."""
    nearest = next(
        parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists()
    )
    usage = shutil.disk_usage(nearest)
    return usage.free if usage.total else None


def format_bytes(number: float) -> str:
    """Return a size for a reader: 512 B, 3.1 MB, 66 GB."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number /= 1000
        del units[0]
    digits = 0 if number >= 10 or units[0] == "B" else 1
    return f"{number:.{digits}f} {units[0]}"


def explain(error: Exception, folder: Path) -> str:
    """Return why a file could not be written, with the free space if the disk is full.

    Args:
        error: The error of writing it.
        folder: Where it was written.
    """
    if not isinstance(error, OSError) or error.errno not in _NO_SPACE:
        return getattr(error, "strerror", None) or str(error)
    free = free_bytes(folder)
    return (
        f"the disk is full ({format_bytes(free)} free)" if free is not None else "the disk is full"
    )


class _RememberingFile(io.BufferedWriter):
    """A binary file that keeps the first error of writing to it."""

    error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.error = self.error or error
            raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # it was renamed, or never made
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Bring a new name in a folder to the disk, where the file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
