"""Video files and frame folders below a folder.

All tools and datasets find files with these functions. Hidden files and folders are ignored, and
symbolic links are followed.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from os.path import dirname, join, realpath, splitext
from typing import NamedTuple

from slowfast.utils.paths import pathmgr
from slowfast.utils.text import count, some

# Suffixes of the files with moving pictures that FFmpeg reads, except for raw streams.
_SUFFIXES = (
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .ivf .m1v .m2t .m2ts .m2v .m4v .mj2 .mjpeg .mjpg "
    ".mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv "
    ".wtv .y4m"
)
VIDEO_SUFFIXES = tuple(_SUFFIXES.split())

logger = logging.getLogger(__name__)


class FolderVideos(NamedTuple):
    """Files at any depth below a folder."""

    paths: list[str]  # videos, relative to the folder, sorted by name at each level
    other_files: Counter[str]  # number of files that are not videos by suffix


def is_video_name(name: str) -> bool:
    """Return whether a file name has the suffix of a video."""
    return splitext(name)[1].lower() in VIDEO_SUFFIXES


def find_videos(folder: str) -> FolderVideos:
    """Return the videos at any depth below a folder, and count the other files.

    Raises:
        OSError: If the folder, or one below it, does not exist or cannot be listed.
    """
    found = FolderVideos([], Counter())
    for path in _walk_files(folder):
        if is_video_name(path):
            found.paths.append(path)
        else:
            found.other_files[splitext(path)[1].lower()] += 1
    return found


def find_frame_folders(folder: str) -> list[str]:
    """Return the sorted relative paths of all folders below a folder that contain files."""
    parents = {dirname(path) for path in _walk_files(folder)}
    return sorted(parents - {""}, key=lambda path: path.split("/"))


def list_folders(folder: str) -> list[str]:
    """Return the sorted names of the folders directly in a folder."""
    return [name for name, is_folder in _list_entries(folder) if is_folder]


def list_names(folder: str) -> list[str]:
    """Return the sorted names of all files and folders directly in a folder."""
    return sorted(name for name in pathmgr.ls(folder) if not name.startswith("."))


@contextmanager
def explain_folder_errors(folder: str) -> Iterator[None]:
    """Name the folder of a dataset, and a remedy, in errors about listing it."""
    try:
        yield
    except NotImplementedError as error:  # a web server does not list its folders
        raise OSError(f"{folder}: its files cannot be listed. Use a local folder") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{folder}: no such folder. Check DATA.PATH_TO_DATA_DIR") from error


def warn_about_other_files(folder: str, other_files: Counter[str]) -> None:
    """Log once how many files of a folder are not videos by their suffix, if there are any.

    Args:
        folder: Path of the folder.
        other_files: Number of such files by suffix.
    """
    if not other_files:
        return

    kinds = []
    for suffix, number in other_files.most_common():
        kinds.append(f"{number} {suffix or 'without suffix'}")
    total = count(other_files.total(), "file")
    _warn_once(f"{folder}: skipped {total} without the suffix of a video: {some(kinds)}")


def warn_about_empty_classes(folder: str, class_folders: list[str]) -> None:
    """Log once which class folders of a folder have no videos, if there are any."""
    if class_folders:
        verb = "has" if len(class_folders) == 1 else "have"
        number = count(len(class_folders), "class folder")
        _warn_once(f"{folder}: {number} {verb} no videos: {some(class_folders)}")


@cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def _walk_files(
    folder: str, *, path: str = "", parents: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield all files relative to the folder. A link to a parent folder is not followed again."""
    current = join(folder, path) if path else folder
    resolved = current if "://" in current else realpath(current)
    if resolved in parents:
        return

    for name, is_folder in _list_entries(current):
        child = join(path, name)
        if is_folder:
            yield from _walk_files(folder, path=child, parents=parents | {resolved})
        else:
            yield child


def _list_entries(folder: str) -> list[tuple[str, bool]]:
    """Return the sorted names in a folder that are not hidden, and whether each is a folder."""
    if "://" in folder:
        entries = [(name, pathmgr.isdir(join(folder, name))) for name in pathmgr.ls(folder)]
    else:
        with os.scandir(folder) as scan:
            entries = [(entry.name, entry.is_dir()) for entry in scan]
    return sorted(entry for entry in entries if not entry[0].startswith("."))
