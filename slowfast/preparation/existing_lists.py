"""Lists that an earlier command wrote for the same folder, which new videos are added to."""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from slowfast.datasets.annotation_lists import Source, read_path_list
from slowfast.datasets.class_name_files import read_class_names
from slowfast.preparation.splits import SPLITS
from slowfast.utils.text import count, some

FORCE_HINT = "Use --force to replace them, or choose another folder"

logger = logging.getLogger(__name__)


class ListedVideo(NamedTuple):
    """Where a video is listed, and the name of its class."""

    split: str
    class_name: str


class ExistingLists(NamedTuple):
    """The lists in a folder, empty if there are none."""

    folder: Path
    class_names: list[str]  # in the order of the labels
    videos: dict[str, ListedVideo]  # by path

    def merge_class_names(self, classes: Mapping[str, Sequence[str]]) -> list[str]:
        """Return the names of all classes. Listed classes keep their labels.

        Args:
            classes: The videos of each class that exist now.
        """
        return self.class_names + sorted(classes.keys() - {*self.class_names})

    def keep_splits(self, classes: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Return the splits of the listed videos that still exist, and warn about the others.

        Args:
            classes: The videos of each class that exist now.

        Raises:
            FileExistsError: If a video is not listed in the class of its folder.
        """
        for path, (split, name) in self.videos.items():
            if not path.startswith(f"{name}/"):
                raise FileExistsError(
                    f"{self.folder}/{split}.csv lists {path} in the class {name}, so `split` did "
                    f"not write these lists. {FORCE_HINT}"
                )

        existing = set(chain.from_iterable(classes.values()))
        missing = [path for path in self.videos if path not in existing]
        if missing:
            number = count(len(missing), "listed video")
            verb = "does" if len(missing) == 1 else "do"
            logger.warning("%s: %s %s not exist: %s", self.folder, number, verb, some(missing))
        return {path: split for path, (split, _) in self.videos.items() if path in existing}


def read_existing_lists(folder: Path) -> ExistingLists:
    """Return the lists in a folder.

    Raises:
        FileExistsError: If the lists cannot be read, so nothing can be added to them.
    """
    paths = {split: folder / f"{split}.csv" for split in SPLITS}
    paths = {split: path for split, path in paths.items() if path.exists()}
    if not paths and not (folder / "classes.txt").exists():
        return ExistingLists(folder, [], {})

    videos: dict[str, ListedVideo] = {}
    try:
        class_names = read_class_names(str(folder / "classes.txt"))
        for split, path in paths.items():
            source = Source(str(path), num_classes=len(class_names), separator=",")
            rows = read_path_list(source)
            if rows.spans is not None:
                raise ValueError(f"{path} has spans of videos")
            if not rows.is_labeled:
                raise ValueError(f"{path} has no labels")
            for row in range(len(rows)):
                video = rows[row]
                videos[video.path] = ListedVideo(split, class_names[video.label])
    except (OSError, ValueError) as error:
        raise FileExistsError(
            f"cannot add to the lists in {folder}: {error}. {FORCE_HINT}"
        ) from error
    return ExistingLists(folder, class_names, videos)
