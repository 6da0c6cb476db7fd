"""Videos in folders: which files are taken for videos, at any depth, and which are left out.

All tools and data sets find files with these functions. Hidden files and folders are passed over,
and linked folders are followed.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from os.path import dirname, join, realpath, splitext
from typing import NamedTuple

from slowfast.utils.paths import pathmgr
from slowfast.utils.text import count, some

# Suffixes of files with pictures that FFmpeg reads, but for those of raw streams and of stills.
VIDEO_SUFFIXES = (
    *(
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".dv",
        ".f4v",
        ".flv",
        ".gif",
        ".ivf",
        ".m1v",
        ".m2t",
    ),
    *(".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg"),
    *(".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob"),
    *(".webm", ".wmv", ".wtv", ".y4m"),
)

logger = logging.getLogger(__name__)


class FolderVideos(NamedTuple):
    """The files of a folder and of the folders below it."""

    paths: list[str]  # of the videos, relative to the folder, sorted by name at each level
    left_out: Counter[str]  # number of other files by suffix


def is_video_name(name: str) -> bool:
    """Whether a file of this name is taken for a video."""
    return splitext(name)[1].lower() in VIDEO_SUFFIXES


def find_videos(folder: str) -> FolderVideos:
    """Return the videos at any depth below a folder, and how many other files there are.

    Raises:
        OSError: The folder, or one below it, does not exist or cannot be listed.
    """
    found = FolderVideos([], Counter())
    for path in _files_below(folder):
        if is_video_name(path):
            found.paths.append(path)
        else:
            found.left_out[splitext(path)[1].lower()] += 1
    return found


def find_frame_folders(folder: str) -> list[str]:
    """Return the folders at any depth below a folder that hold files, relative to it, sorted."""
    holders = {dirname(path) for path in _files_below(folder)}
    return sorted(holders - {""}, key=lambda path: path.split("/"))


def list_folders(folder: str) -> list[str]:
    """Return the names of the folders directly in a folder, sorted."""
    return [name for name, is_folder in _entries(folder) if is_folder]


def warn_about_left_out(folder: str, left_out: Counter[str]) -> None:
    """Name, once, how many files of which suffix were not taken for videos, if there are any."""
    if left_out:
        kinds = [
            f"{number} {suffix or 'without suffix'}" for suffix, number in left_out.most_common()
        ]
        verb = "is" if left_out.total() == 1 else "are"
        number = count(left_out.total(), "file")
        _warn_once(f"{folder}: {number} {verb} left out, as no video by the suffix: {some(kinds)}")


def warn_about_no_videos(folder: str, class_folders: list[str]) -> None:
    """Name, once, the class folders that hold no videos, if there are any."""
    if class_folders:
        verb = "has" if len(class_folders) == 1 else "have"
        number = count(len(class_folders), "class folder")
        _warn_once(f"{folder}: {number} {verb} no videos: {some(class_folders)}")


@cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def _files_below(
    folder: str, *, path: str = "", above: frozenset[str] = frozenset()
) -> Iterator[str]:
    """The files at any depth, relative to the folder; a linked folder that holds itself, once."""
    place = join(folder, path) if path else folder
    real = place if "://" in place else realpath(place)
    if real in above:
        return
    for name, is_folder in _entries(place):
        below = join(path, name)
        if is_folder:
            yield from _files_below(folder, path=below, above=above | {real})
        else:
            yield below


def _entries(folder: str) -> list[tuple[str, bool]]:
    """The names in a folder that are not hidden, sorted, and whether each is a folder."""
    if "://" in folder:
        entries = [(name, pathmgr.isdir(join(folder, name))) for name in pathmgr.ls(folder)]
    else:
        with os.scandir(folder) as scan:
            entries = [(entry.name, entry.is_dir()) for entry in scan]
    return sorted(entry for entry in entries if not entry[0].startswith("."))
