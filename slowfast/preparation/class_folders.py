"""Videos in a folder with one folder per class."""

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from slowfast.datasets.folders import (
    VIDEO_SUFFIXES,
    find_videos,
    list_folders,
    warn_about_empty_classes,
    warn_about_other_files,
)
from slowfast.preparation.splits import GroupOf, group_by


class ClassFolders(NamedTuple):
    """The videos of a folder with one folder per class."""

    path: Path
    classes: dict[str, list[str]]  # paths by class name, relative to the folder
    group_of: GroupOf

    @property
    def num_videos(self) -> int:
        """The number of videos in all classes."""
        return sum(map(len, self.classes.values()))


def read_class_folders(videos: Path, *, pattern: str) -> ClassFolders:
    """Return the videos of each class folder that has any, and warn about the others.

    Args:
        videos: The folder of the class folders.
        pattern: A regular expression that finds the group of a video, see `group_by`.

    Raises:
        FileNotFoundError: If there is no such folder, or no class folder has videos.
        ValueError: If the pattern is invalid.
    """
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos}: no such folder")

    other_files: Counter[str] = Counter()
    classes = {}
    for name in list_folders(str(videos)):
        found = find_videos(str(videos / name))
        classes[name] = [f"{name}/{path}" for path in found.paths]
        other_files.update(found.other_files)
    warn_about_other_files(str(videos), other_files)
    warn_about_empty_classes(str(videos), [name for name, paths in classes.items() if not paths])

    classes = {name: paths for name, paths in classes.items() if paths}
    if not classes:
        raise FileNotFoundError(
            f"{videos}: no class folders with videos ({', '.join(VIDEO_SUFFIXES)})"
        )
    group_of = group_by(pattern, chain.from_iterable(classes.values()))
    return ClassFolders(videos, classes, group_of)
