"""Process-wide cache of parsed lists and class names, which many builders need."""

import os
import time
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from os.path import dirname, isdir, isfile
from typing import Any, TypeVar

from slowfast.datasets.folders import is_video_name

Result = TypeVar("Result")

MAX_ENTRIES = 8  # lists of three splits and their class names, with room to spare
RECENT_SECONDS = 2.0  # a file this new may change again within the resolution of its time stamp


def read_once(
    read: Callable[..., Result], *arguments: Hashable, list_path: str, with_siblings: bool = False
) -> Result:
    """Return `read(*arguments)`, from the cache unless the files have changed since.

    Args:
        read: Reader of a list or of class names.
        arguments: Arguments of the reader.
        list_path: Path of the list that it reads: a file, a folder, or a pattern.
        with_siblings: Whether the reader also depends on the files next to the list.
    """
    version = _find_version(list_path, with_siblings=with_siblings)
    if version is None:
        return read(*arguments)
    return _read_cached(read, arguments, version)


@lru_cache(maxsize=MAX_ENTRIES)
def _read_cached(read: Callable[..., Any], arguments: tuple[Hashable, ...], version: int) -> Any:
    return read(*arguments)


def _find_version(list_path: str, *, with_siblings: bool) -> int | None:
    """Return a number that changes with the files of a list, None if they should not be cached."""
    if "://" in list_path:
        return 0  # the download cache does not notice changes either

    try:
        if isfile(list_path) and not with_siblings:
            entries = [_describe(list_path, os.stat(list_path))]
        else:
            entries = sorted(_describe_entries(list_path))
    except OSError:
        return None  # let the reader explain it

    newest = max((mtime for _, _, mtime in entries), default=0.0)
    if newest > time.time() - RECENT_SECONDS:
        return None
    return hash(tuple(entries))


def _describe_entries(list_path: str) -> Iterator[tuple[str, int, float]]:
    """Yield what identifies the version of each file and folder next to a list, videos aside."""
    folder = list_path if isdir(list_path) else dirname(list_path)
    with os.scandir(folder or ".") as scan:
        for entry in scan:
            if not is_video_name(entry.name):
                yield _describe(entry.name, entry.stat())


def _describe(name: str, status: os.stat_result) -> tuple[str, int, float]:
    return name, status.st_size, status.st_mtime
