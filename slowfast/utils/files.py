"""Files that are whole or absent: written beside their path, synced to disk, then renamed."""

import contextlib
import errno
import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import simplejson

from slowfast.utils.cleanup import cleaned_up
from slowfast.utils.file_type import HEAD_BYTES, is_web_page, page_type

UNFINISHED = ".unfinished"  # suffix of a file that is being written

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class UnfinishedFile(io.BufferedWriter):
    """A binary file that is being written beside its path.

    Args:
        raw: The open, unbuffered file.
        path: The path that the file takes once it is whole.
    """

    def __init__(self, raw: io.FileIO, *, path: Path) -> None:
        super().__init__(raw)
        self._unfinished = Path(raw.name)
        self._path = path
        self.first_error: OSError | None = None  # first error of writing to the file

    def write(self, content: Any) -> int:
        """Write bytes, and remember the first error."""
        try:
            return super().write(content)
        except OSError as error:
            self.first_error = self.first_error or error
            raise

    def flush(self) -> None:
        """Write what is buffered, and remember the first error."""
        try:
            super().flush()
        except OSError as error:
            self.first_error = self.first_error or error
            raise

    def commit(self) -> None:
        """Sync the file to disk and give it its path, in exchange for an older file there."""
        self.flush()
        os.fsync(self.fileno())
        os.replace(self._unfinished, self._path)
        _sync_folder(self._path.parent)


@contextmanager
def open_unfinished(path: Path, *, unfinished: Path | None = None) -> Iterator[UnfinishedFile]:
    """Open a file for writing. Unless the block commits it, the file is deleted.

    Args:
        path: The path that the file takes once it is whole. Its folder exists.
        unfinished: Path of the file until then, in the same folder. By default it is one name per
            path, for files that only one process writes.

    Raises:
        OSError: If the file cannot be opened.
    """
    unfinished = unfinished or path.with_name(path.name + UNFINISHED)
    with cleaned_up(lambda: _remove(unfinished)), open(unfinished, "wb", buffering=0) as raw:
        yield UnfinishedFile(raw, path=path)


def write_file(path: Path, content: str | bytes | Callable[[IO[bytes]], None]) -> None:
    """Write a file whole or not at all, even if the machine crashes.

    Args:
        path: The file. Its folder is created if it is missing.
        content: The text (UTF-8), the bytes, or a function that writes to an open binary file.

    Raises:
        OSError: If the file cannot be written. An older file at this path stays as it was.
    """
    file: UnfinishedFile | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_unfinished(path) as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.commit()

    except (OSError, RuntimeError, SystemError) as error:
        # Libraries replace the error of a write by their own: torch by one about file positions.
        first_error = file.first_error if file else None
        cause = first_error or error
        if not isinstance(cause, OSError):
            raise
        named = OSError(f"{path}: cannot be written: {explain(cause, path.parent)}")
        named.errno = cause.errno
        raise named from error


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, see `write_file`. Non-finite numbers become null."""
    write_file(path, simplejson.dumps(content, indent=1, ignore_nan=True) + "\n")


def read_json(path: Path, *, remedy: str) -> Any:
    """Return the content of a JSON file.

    Args:
        path: The file.
        remedy: Advice for a damaged file, as a sentence: "Delete it to start without it".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty or not JSON. The message names it and ends with `remedy`.
    """
    try:
        return simplejson.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        problem = f"is not valid JSON ({error})"
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        if not head:
            problem = "is empty"
        elif is_web_page(head):
            page = page_type(head)
            problem, remedy = f"is not JSON but {page.name}", page.remedy
        raise ValueError(f"{path}: {problem}. {remedy}") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that takes its path when the block ends, whole or not at all.

    Args:
        path: Path of the new folder. Missing parents are created.

    Yields:
        The folder under another name. If the block raises an error, it is deleted.

    Raises:
        FileExistsError: If there is anything at the path.
        OSError: If the folder cannot be created.
    """
    check_is_new(path)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    with cleaned_up(lambda: shutil.rmtree(unfinished, ignore_errors=True)):
        try:
            unfinished.mkdir(parents=True)
        except OSError as error:
            raise OSError(f"{path}: cannot be created: {explain(error, path.parent)}") from error
        yield unfinished
        check_is_new(path)
        os.rename(unfinished, path)
        _sync_folder(path.parent)


def check_is_new(path: Path) -> None:
    """Raise FileExistsError if there is anything at the path of a new file or folder."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path}: exists already. Delete it, or choose another name")


def remove_unfinished(folder: Path) -> None:
    """Delete the unfinished files that killed processes left in a folder.

    No other process may be writing to the folder.
    """
    for path in folder.glob(f"*{UNFINISHED}"):
        if path.is_file():
            path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes of the disk of a folder, or None if the disk does not tell.

    Args:
        folder: The folder. It may not exist yet.
    """
    absolute = folder.absolute()
    nearest = next(parent for parent in (absolute, *absolute.parents) if parent.exists())
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
        error: The error that writing the file raised.
        folder: Folder of the file.
    """
    if not isinstance(error, OSError) or error.errno not in _NO_SPACE:
        return getattr(error, "strerror", None) or str(error)

    free = free_bytes(folder)
    return "the disk is full" if free is None else f"the disk is full ({format_bytes(free)} free)"


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # it was renamed, or never made
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Sync a new name in a folder to disk, if the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
