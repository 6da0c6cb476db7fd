"""From videos on disk, and from lists as the authors of data sets distribute them, to the lists that training reads."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os.path import basename, splitext
from pathlib import Path
from typing import NamedTuple

from slowfast.datasets.annotations import Annotations, format_row, read_path_list
from slowfast.datasets.class_name_files import format_class_names, read_class_names
from slowfast.datasets.decode import FrameFolder
from slowfast.datasets.folders import (
    VIDEO_SUFFIXES,
    find_frame_folders,
    find_videos,
    is_video_name,
    list_folders,
    warn_about_left_out,
    warn_about_no_videos,
)
from slowfast.preparation.splits import assign_folds, assign_splits, group_by
from slowfast.utils.files import write_file
from slowfast.utils.text import count, some

logger = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test")


class Split(NamedTuple):
    """What became of the videos of a folder of class folders."""

    sizes: dict[str, dict[str, int]]  # number of videos by list and by name of the class
    num_kept: int  # videos that were listed before, and stay where they were
    num_added: int


def write_folder_lists(
    videos: Path,
    lists: Path,
    *,
    shares: Mapping[str, float],
    seed: int = 0,
    separator: str = ",",
    pattern: str = "",
    force: bool = False,
) -> Split:
    """Write train.csv, val.csv, test.csv and classes.txt for a folder of class folders.

    Each class is split by itself, see `assign_splits`, so that all splits hold all classes that
    have enough videos. There is no list of a split whose share is 0. Videos that are in the lists
    already stay where they are, and labels stay what they are. Paths in the lists are relative to
    `videos` (DATA.PATH_PREFIX).

    Args:
        videos: The folder with one folder per class, with video files anywhere below it.
        lists: The folder of the lists; made where it is missing.
        shares: The shares of each class for val and test; the rest is for train.
        seed: The seed of the split.
        separator: What stands between path and label.
        pattern: What all videos of a group have in their paths, see `group_by`; "": no groups.
        force: Whether lists that are there are replaced.

    Returns:
        The number of videos of each class, by split and by name of the class.

    Raises:
        FileNotFoundError: There is no such folder, or it has no class folders with videos.
        FileExistsError: There are lists that are not of this folder.
        ValueError: The shares leave nothing to train on, no class has a video for some split, or
            the pattern is wrong.
    """
    _check_shares(shares)
    found = _videos_of_classes(videos)
    old = _OldLists([], {}) if force else _read_old_lists(lists, separator=separator)
    names, kept = _keep(old, found, lists=lists)
    every_path = [path for paths in found.values() for path in paths]
    split_of = assign_splits(
        found,
        shares=shares,
        seed=seed,
        group_of=group_by(pattern, every_path),
        kept=kept,
    )

    sides = [
        split for split in _SPLITS if split == "train" or shares[split] or split in kept.values()
    ]
    rows, sizes = _rows_of(found, names, split_of, sides=sides, separator=separator)
    for split, lines in rows.items():
        if not lines:
            most = max(len(paths) for paths in found.values())
            raise ValueError(
                f"{videos}: no class has more than {count(most, 'video')}, which leaves none for {split}; add some"
                if not pattern
                else f"{videos}: --group-by {pattern!r} makes groups that leave no videos for {split}; add some"
            )
    texts = {f"{split}.csv": "".join(lines) for split, lines in rows.items()}
    _write_all(lists, {**texts, "classes.txt": format_class_names(names)})
    for split in set(_SPLITS) - set(sides):  # of lists that are replaced
        (lists / f"{split}.csv").unlink(missing_ok=True)
    return Split(sizes, len(kept), len(every_path) - len(kept))


def write_fold_lists(
    videos: Path,
    lists: Path,
    *,
    num_folds: int,
    test_share: float = 0.0,
    seed: int = 0,
    pattern: str = "",
    force: bool = False,
) -> Split:
    """Write train.csv, val.csv and classes.txt for each fold of a cross-validation: fold1, fold2 ...

    Each video is in the val.csv of one fold, and in the train.csv of the others. With a share for
    the test, the same test.csv is held out of all folds. Videos that are in the lists already stay
    where they are.

    Args:
        videos: As for `write_folder_lists`, as all that is not said here.
        lists: The folder of the folders.
        num_folds: Number of folds, at least 2.
        test_share: The share of each class for test.csv; 0: there is none.
        seed: The seed of the folds.
        pattern: As there.
        force: As there.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: As there, or a fold has no videos.
    """
    shares = {"val": 0.0, "test": test_share}
    _check_shares(shares)
    if num_folds < 2:
        raise ValueError(f"--folds is {num_folds}; use 2 or more")
    if (lists / f"fold{num_folds + 1}").exists():
        raise FileExistsError(
            f"{lists} has more than {num_folds} folds; remove them or choose another folder"
        )
    found = _videos_of_classes(videos)
    every_path = [path for paths in found.values() for path in paths]
    group_of = group_by(pattern, every_path)
    folders = {fold: lists / f"fold{fold}" for fold in range(1, num_folds + 1)}

    names, in_test, in_fold = sorted(found), dict[str, str](), dict[str, int]()
    if not force and any(folder.exists() for folder in folders.values()):
        num_there, listed = 0, set[str]()
        for fold, folder in folders.items():
            old = _read_old_lists(folder, separator=",")
            if not old.names:
                continue
            num_there += 1
            names, kept = _keep(old, found, lists=folder)
            listed |= kept.keys()
            in_test |= {path: split for path, split in kept.items() if split == "test"}
            in_fold |= {path: fold for path, split in kept.items() if split == "val"}
        # The folds of a call that was stopped lack videos, which were to be in the others.
        if num_there < num_folds and listed == in_test.keys() | in_fold.keys():
            raise FileExistsError(f"{lists} has only {count(num_there, 'fold')}; {_FORCE}")

    kept_splits = in_test | dict.fromkeys(in_fold, "train")
    splits = assign_splits(found, shares=shares, seed=seed, group_of=group_of, kept=kept_splits)
    to_fold = {
        name: [path for path in paths if splits[path] != "test"] for name, paths in found.items()
    }
    fold_of = assign_folds(to_fold, num_folds=num_folds, seed=seed, group_of=group_of, kept=in_fold)

    sizes: dict[str, dict[str, int]] = {}
    texts: dict[str, str] = {}
    for fold in folders:
        split_of = {path: "val" if fold_of[path] == fold else "train" for path in fold_of}
        split_of |= {path: "test" for path, split in splits.items() if split == "test"}
        sides = _SPLITS if "test" in split_of.values() else _SPLITS[:2]
        rows, fold_sizes = _rows_of(found, names, split_of, sides=sides, separator=",")
        if not rows["val"] or not rows["train"]:
            raise ValueError(
                f"{videos}: there are too few videos or groups for {num_folds} folds; use fewer"
            )
        sizes |= {f"fold{fold}/{split}": fold_sizes[split] for split in sides}
        texts |= {f"fold{fold}/{split}.csv": "".join(lines) for split, lines in rows.items()}
        texts[f"fold{fold}/classes.txt"] = format_class_names(names)
    _write_all(lists, texts)
    num_kept = len(in_test) + len(in_fold)
    return Split(sizes, num_kept, len(every_path) - num_kept)


class _OldLists(NamedTuple):
    """Lists that an earlier call has written."""

    names: list[str]  # of the classes, in the order of the labels
    splits: dict[str, tuple[str, str]]  # split and class of each video


def _read_old_lists(lists: Path, *, separator: str) -> _OldLists:
    """The lists in a folder; empty if there are none."""
    paths = {
        split: lists / f"{split}.csv" for split in _SPLITS if (lists / f"{split}.csv").exists()
    }
    if not paths and not (lists / "classes.txt").exists():
        return _OldLists([], {})
    splits: dict[str, tuple[str, str]] = {}
    try:
        names = read_class_names(str(lists / "classes.txt"))
        for split, path in paths.items():
            rows = read_path_list(str(path), separator=separator, num_classes=len(names))
            if rows.spans is not None:
                raise ValueError(f"{path} has spans of videos")
            videos = (rows[row] for row in range(len(rows)))
            splits |= {video.path: (split, names[video.label]) for video in videos}
    except (OSError, ValueError) as error:
        raise FileExistsError(
            f"{lists} holds lists that cannot be added to: {error}; {_FORCE}"
        ) from error
    return _OldLists(names, splits)


_FORCE = "--force replaces them, another folder keeps them"


def _keep(
    old: _OldLists, found: Mapping[str, Sequence[str]], *, lists: Path
) -> tuple[list[str], dict[str, str]]:
    """The names of the classes, old ones first, and the splits of the videos that were listed before."""
    for path, (split, name) in old.splits.items():
        if not path.startswith(f"{name}/"):
            raise FileExistsError(
                f"{lists}/{split}.csv lists {path} in the class {name}, as split would not; {_FORCE}"
            )
    there = {path for paths in found.values() for path in paths}
    gone = [path for path in old.splits if path not in there]
    if gone:
        verb = "is" if len(gone) == 1 else "are"
        number = count(len(gone), "listed video")
        logger.warning("%s: %s %s gone: %s", lists, number, verb, some(gone))
    kept = {path: split for path, (split, _) in old.splits.items() if path in there}
    return old.names + sorted(found.keys() - {*old.names}), kept


def _rows_of(
    found: Mapping[str, Sequence[str]],
    names: Sequence[str],
    split_of: Mapping[str, str],
    *,
    sides: Sequence[str],
    separator: str,
) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    """The lines of the list of each split, and the number of videos in it by class."""
    rows: dict[str, list[str]] = {split: [] for split in sides}
    sizes = {split: dict.fromkeys(names, 0) for split in _SPLITS}
    for label, name in enumerate(names):
        for path in found.get(name, ()):
            rows[split_of[path]].append(format_row(path, label, separator=separator))
            sizes[split_of[path]][name] += 1
    return rows, sizes


def _videos_of_classes(videos: Path) -> dict[str, list[str]]:
    """The videos of each class folder that has any, relative to the folder of the class folders."""
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos}: no such folder")
    left_out: Counter[str] = Counter()
    found = {}
    for name in list_folders(str(videos)):
        below = find_videos(str(videos / name))
        found[name] = [f"{name}/{path}" for path in below.paths]
        left_out.update(below.left_out)
    warn_about_left_out(str(videos), left_out)
    empty = [name for name, paths in found.items() if not paths]
    warn_about_no_videos(str(videos), empty)
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        raise FileNotFoundError(
            f"{videos}: no class folders with videos ({', '.join(VIDEO_SUFFIXES)})"
        )
    return found


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
    places = _Places(
        videos_below(videos) if frame_template is None else _folders_below(videos), videos
    )
    texts, found = {"classes.txt": [format_class_names(class_names)]}, {}
    for split, rows in annotations.items():
        lines, missing = [], []
        for row in range(len(rows)):
            video = rows[row]
            place = places.find(video.path)
            if place is None:
                missing.append(f"{video.path}\n")
            elif frame_template is None:
                lines.append(format_row(place, video.label, *(video.span or ()), separator=","))
            else:
                num_frames = FrameFolder(str(videos / place), template=frame_template).num_frames
                lines.append(format_row(place, num_frames, video.label, separator=" "))
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
            raise ValueError(
                f"{self._folder}: {path} may be {' or '.join(candidates)}; take away all but one"
            )
        return candidates[0] if candidates else None


def _without_suffix(path: str) -> str:
    return splitext(path)[0] if is_video_name(path) else path


def _write_new(lists: Path, texts: Mapping[str, Iterable[str]]) -> None:
    """Write text files, unless one of them is there with another content."""
    contents = {name: "".join(lines) for name, lines in texts.items()}
    for name, content in contents.items():
        path = lists / name
        if path.exists() and path.read_text(encoding="utf-8") != content:
            raise FileExistsError(
                f"{path} is there already, with other rows; remove it or choose another folder"
            )
    _write_all(lists, contents)


def _write_all(lists: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        write_file(lists / name, text)


def videos_below(folder: Path) -> list[Path]:
    """Return the videos at any depth below a folder, sorted, and warn about files that are left out.

    There are none if there is no folder.
    """
    if not folder.is_dir():
        return []
    found = find_videos(str(folder))
    warn_about_left_out(str(folder), found.left_out)
    return [folder / path for path in found.paths]


def _folders_below(folder: Path) -> list[Path]:
    """The folders at any depth that hold files; none if there is no folder."""
    return [folder / path for path in find_frame_folders(str(folder))] if folder.is_dir() else []
