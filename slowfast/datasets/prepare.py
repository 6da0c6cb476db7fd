"""From videos on disk, and from lists as the authors of data sets distribute them, to the lists that training reads."""

import os
from collections.abc import Iterable, Mapping, Sequence
from os.path import basename, splitext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slowfast.datasets.annotations import VIDEO_SUFFIXES, Annotations
from slowfast.datasets.decode import FrameFolder
from slowfast.utils.files import write_file
from slowfast.utils.text import count

FEWEST_HELD_OUT = 3  # validation or test videos of a class, if that is at most a fifth of it


def write_folder_lists(
    videos: Path, lists: Path, *, shares: Mapping[str, float], seed: int = 0, separator: str = ","
) -> dict[str, dict[str, int]]:
    """Write train.csv, val.csv, test.csv and classes.txt for a folder of class folders.

    Each class is split by itself, see `split_sizes`, so that all splits hold all classes that have
    enough videos. Paths in the lists are relative to `videos` (DATA.PATH_PREFIX).

    Args:
        videos: The folder with one folder per class, with video files anywhere below it.
        lists: The folder of the lists; made where it is missing.
        shares: The shares of each class for val and test; the rest is for train.
        seed: The seed of the split.
        separator: What stands between path and label.

    Returns:
        The number of videos of each class, by split and by name of the class.

    Raises:
        FileNotFoundError: There is no such folder, or it has no class folders with videos.
        FileExistsError: A list is there already, with other content.
        ValueError: The shares leave nothing to train on, or no class has a video for some split.
    """
    _check_shares(shares)
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos}: no such folder")
    found = {folder.name: videos_below(folder) for folder in sorted(videos.iterdir()) if folder.is_dir()}
    names = [name for name, paths in found.items() if paths]
    if not names:
        raise FileNotFoundError(f"{videos}: no class folders with videos ({', '.join(VIDEO_SUFFIXES)})")

    rows: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    sizes: dict[str, dict[str, int]] = {"train": {}, "val": {}, "test": {}}
    for label, name in enumerate(names):
        rng = np.random.default_rng((seed, label))
        for split, paths in _split(found[name], shares=shares, rng=rng).items():
            sizes[split][name] = len(paths)
            rows[split] += [f"{path.relative_to(videos)}{separator}{label}\n" for path in paths]
    for split, lines in rows.items():
        if not lines:
            most = max(len(found[name]) for name in names)
            raise ValueError(
                f"{videos}: no class has more than {count(most, 'video')}, which leaves none for {split}; add some"
            )

    texts = {f"{split}.csv": lines for split, lines in rows.items()}
    _write_new(lists, {**texts, "classes.txt": [f"{name}\n" for name in names]})
    return sizes


def split_sizes(num_videos: int, *, shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many videos of a class each split gets.

    Validation and test get their shares, but at least 3 videos each, or a fifth of the class where
    that is less, and at least 1. Of 2 videos, one is for validation; a single one is for training.

    Args:
        num_videos: The number of videos of the class.
        shares: The shares for val and test.
    """
    if num_videos < 3:
        return {"train": 1, "val": num_videos - 1, "test": 0}

    floor = max(min(FEWEST_HELD_OUT, num_videos // 5), 1)
    num_val = min(max(round(num_videos * shares["val"]), floor), num_videos - 2)
    num_test = min(max(round(num_videos * shares["test"]), floor), num_videos - num_val - 1)
    return {"train": num_videos - num_val - num_test, "val": num_val, "test": num_test}


def _check_shares(shares: Mapping[str, float]) -> None:
    val, test = shares["val"], shares["test"]
    if min(val, test) < 0 or val + test >= 1:
        raise ValueError(
            f"the shares for validation and test are {val:g} and {test:g}; use 0 or more for each, "
            "and less than 1 together, so that some videos are left to train on"
        )


class Found(NamedTuple):
    """What became of the videos of an official list."""

    list_path: Path
    num_listed: int
    num_missing: int


def write_found_lists(
    annotations: Mapping[str, Annotations],
    lists: Path,
    *,
    videos: Path,
    class_names: Sequence[str],
    list_names: Mapping[str, str],
    frame_template: str | None = None,
) -> dict[str, Found]:
    """Write lists of those videos of other lists that are below a folder, wherever they are there.

    A video is found by its path, whatever its suffix, or else by its name alone. What is not found goes to
    missing_<split>.txt, as it was listed. Lists that are there already must be the same.

    Args:
        annotations: the other lists, by split.
        lists: folder that the lists go to, with classes.txt.
        videos: the folder; the written paths are relative to it.
        class_names: in the order of the labels.
        list_names: file name of each list.
        frame_template: None for lists of `path,label`; the name of frame files for lists of `folder num_frames label`.

    Raises:
        FileNotFoundError: there are no videos, or none of a list.
        FileExistsError: a list is there already, with other content.
        ValueError: two files may be meant by a name.
    """
    places = _Places(videos_below(videos) if frame_template is None else _folders_below(videos), videos)
    texts, found = {"classes.txt": [f"{name}\n" for name in class_names]}, {}
    for split, rows in annotations.items():
        lines, missing = [], []
        for row in range(len(rows)):
            video = rows[row]
            place = places.find(video.path)
            if place is None:
                missing.append(f"{video.path}\n")
            elif frame_template is None:
                lines.append(f"{place},{video.label}\n")
            else:
                num_frames = FrameFolder(str(videos / place), template=frame_template).num_frames
                lines.append(f"{place} {num_frames} {video.label}\n")
        if not lines:
            raise FileNotFoundError(
                f"{videos}: none of the {count(len(rows), 'video')} of {split} is there; the first is {rows[0].path}"
            )
        texts[list_names[split]] = lines
        if missing:
            texts[f"missing_{split}.txt"] = missing
        found[split] = Found(lists / list_names[split], len(rows), len(missing))
    _write_new(lists, texts)
    return found


class _Places:
    """The places of videos below a folder, by path and by name, both without suffix."""

    def __init__(self, paths: Iterable[Path], folder: Path) -> None:
        self._folder = folder
        self._by_name: dict[str, list[str]] = {}
        for path in paths:
            place = path.relative_to(folder).as_posix()
            self._by_name.setdefault(basename(_without_suffix(place)), []).append(place)
        if not self._by_name:
            raise FileNotFoundError(f"{folder}: no such folder, or no videos in it")

    def find(self, path: str) -> str | None:
        """Return where a listed video is, or None."""
        places = self._by_name.get(basename(_without_suffix(path)), [])
        exact = [place for place in places if place == path]
        same_path = [place for place in places if _without_suffix(place) == _without_suffix(path)]
        candidates = exact or same_path or places
        if len(candidates) > 1:
            raise ValueError(f"{self._folder}: {path} may be {' or '.join(candidates)}; take away all but one")
        return candidates[0] if candidates else None


def _without_suffix(path: str) -> str:
    stem, suffix = splitext(path)
    return stem if suffix.lower() in VIDEO_SUFFIXES else path


def _write_new(lists: Path, texts: Mapping[str, Iterable[str]]) -> None:
    """Write text files, unless one of them is there with another content."""
    contents = {lists / name: "".join(lines) for name, lines in texts.items()}
    for path, content in contents.items():
        if path.exists() and path.read_text(encoding="utf-8") != content:
            raise FileExistsError(f"{path} is there already, with other rows; remove it or choose another folder")
    for path, content in contents.items():
        write_file(path, content)


def videos_below(folder: Path) -> list[Path]:
    """Return the video files at any depth below a folder, but for hidden ones, sorted; none if there is no folder."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    return sorted(path for path in paths if not path.name.startswith("."))


def _folders_below(folder: Path) -> list[Path]:
    """The folders at any depth that hold files, but for hidden ones, which are unfinished."""
    places = (Path(place) for place, _, names in os.walk(folder) if names)
    return sorted(place for place in places if place != folder and not place.name.startswith("."))


def _split(paths: list[Path], *, shares: Mapping[str, float], rng: np.random.Generator) -> dict[str, list[Path]]:
    order = [paths[number] for number in rng.permutation(len(paths))]
    sizes = split_sizes(len(paths), shares=shares)
    end_of_val = sizes["val"]
    end_of_test = end_of_val + sizes["test"]
    return {
        "val": sorted(order[:end_of_val]),
        "test": sorted(order[end_of_val:end_of_test]),
        "train": sorted(order[end_of_test:]),
    }
