"""Paths of videos from what a user names: files, folders, patterns, addresses and lists."""

import glob
import os
import threading
from collections.abc import Iterable, Iterator
from os.path import exists, isdir, join
from queue import Empty, Queue
from typing import TypeVar

from slowfast.datasets.folders import find_frame_folders, find_videos, list_names
from slowfast.inference.inputs import IMAGE_SUFFIXES
from slowfast.inference.predictions import Unreadable

Item = TypeVar("Item")


def find_inputs(name: str) -> list[str | Unreadable]:
    """Return the videos that a name stands for, at least one or a `Unreadable`.

    Args:
        name: File, address, folder or pattern (`*`, `?`, `[...]`, `**` for folders at any depth).
            A folder stands for the videos at any depth below it. Without videos, it stands for the
            folders of images at any depth, or for itself if it holds the images.
    """
    if "://" in name:
        return [name]
    path = os.path.expanduser(name)
    if glob.has_magic(path) and not exists(path):
        matches = sorted(glob.glob(path, recursive=True))
        found = [video for match in matches for video in _find_below(match)]
        return found or [Unreadable(name, f"{name}: matches no file")]
    return _find_below(path)


def _find_below(path: str) -> list[str | Unreadable]:
    if not isdir(path):
        return [path]  # opening it tells what is wrong with it
    try:
        if videos := find_videos(path).paths:
            return [join(path, video) for video in videos]
        if _has_images(path):
            return [path]
        folders = [join(path, folder) for folder in find_frame_folders(path)]
        frame_folders = [folder for folder in folders if _has_images(folder)]
    except OSError as error:
        return [Unreadable(path, f"{path}: cannot be listed: {error.strerror or error}")]
    return [*frame_folders] or [Unreadable(path, f"{path}: has no videos and no images")]


def _has_images(folder: str) -> bool:
    return any(name.lower().endswith(IMAGE_SUFFIXES) for name in list_names(folder))


def read_names(lines: Iterable[str]) -> Iterator[str]:
    """Iterate over the names in a list with one name per line. Blank lines are skipped."""
    for line in lines:
        if line.strip():
            yield line.rstrip("\r\n")


def batches_as_they_come(items: Iterable[Item], *, most: int) -> Iterator[list[Item]]:
    """Iterate over batches of the items that are there already, at least one.

    A thread waits for the items, so that no item waits for a later one.

    Args:
        items: The items.
        most: Maximum number of items in a batch.
    """
    if most == 1:
        yield from ([item] for item in items)
        return

    waiting: Queue[Item | None] = Queue(4 * most)
    errors: list[Exception] = []

    def fill() -> None:
        try:
            for item in items:
                waiting.put(item)
        except Exception as error:  # raised again below
            errors.append(error)
        waiting.put(None)

    threading.Thread(target=fill, daemon=True, name="inputs").start()
    is_last = False
    while not is_last:
        batch = [waiting.get()]
        while len(batch) < most and batch[-1] is not None:
            try:
                batch.append(waiting.get_nowait())
            except Empty:
                break
        is_last = batch[-1] is None
        if found := [item for item in batch if item is not None]:
            yield found
    if errors:
        raise errors[0]
