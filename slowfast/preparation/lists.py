"""Lists of your own videos, from a folder with one folder per class."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from slowfast.datasets.annotation_lists import format_row
from slowfast.datasets.class_name_files import format_class_names
from slowfast.preparation.class_folders import ClassFolders, read_class_folders
from slowfast.preparation.existing_lists import ExistingLists, read_existing_lists
from slowfast.preparation.splits import MIN_HELD_OUT, SPLITS, assign_splits
from slowfast.utils.files import write_file
from slowfast.utils.text import count, some


class Split(NamedTuple):
    """The lists that were written."""

    sizes: dict[str, dict[str, int]]  # number of videos by list and class name
    num_kept: int  # videos that were listed before and stay in their lists
    num_added: int


def write_folder_lists(
    videos: Path,
    lists: Path,
    *,
    shares: Mapping[str, float],
    seed: int = 0,
    pattern: str = "",
    force: bool = False,
) -> Split:
    """Write train.csv, val.csv, test.csv and classes.txt for a folder of class folders.

    Each class is split by itself, see `assign_splits`, so every list has videos of every class that
    is large enough. A split with a share of 0 has no list. Videos that are listed already stay in
    their lists, and classes keep their labels. Paths in the lists are relative to `videos`
    (DATA.PATH_PREFIX).

    Args:
        videos: The folder with one folder per class, with video files at any depth.
        lists: The folder of the lists, created if it is missing.
        shares: The shares of each class for val and test. The rest is for training.
        seed: The seed of the split.
        pattern: A regular expression that finds the group of a video in its path, see `group_by`,
            or "" for no groups.
        force: Whether to replace existing lists.

    Raises:
        FileNotFoundError: If there is no such folder, or it has no class folders with videos.
        FileExistsError: If `lists` holds lists of something else.
        ValueError: If the shares leave nothing to train on, no class has a video for some split,
            or the pattern is invalid.
    """
    check_shares(shares)
    folders = read_class_folders(videos, pattern=pattern)
    existing = ExistingLists(lists, [], {}) if force else read_existing_lists(lists)
    class_names = existing.merge_class_names(folders.classes)
    kept = existing.keep_splits(folders.classes)
    split_of = assign_splits(
        folders.classes, shares=shares, seed=seed, group_of=folders.group_of, kept=kept
    )

    splits = [
        split for split in SPLITS if split == "train" or shares[split] or split in kept.values()
    ]
    formatted = format_lists(folders, split_of, class_names=class_names, splits=splits)
    for split in splits:
        if not formatted.texts[split]:
            raise ValueError(_describe_empty_split(folders, split, pattern=pattern))

    texts = {f"{split}.csv": formatted.texts[split] for split in splits}
    write_texts(lists, {**texts, "classes.txt": format_class_names(class_names)})
    for split in set(SPLITS) - set(splits):  # left by the lists that this call replaces
        (lists / f"{split}.csv").unlink(missing_ok=True)
    return Split(formatted.sizes, len(kept), folders.num_videos - len(kept))


def describe_small_classes(sizes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a sentence about classes that a list lacks, and one about classes of few videos.

    Args:
        sizes: The number of videos by split and class name, as in `Split`.
    """
    lists = [sizes[split] for split in SPLITS if any(sizes[split].values())]
    held_out = [sizes[split] for split in ("val", "test") if any(sizes[split].values())]
    names = sizes["train"]
    absent = [name for name in names if not all(numbers[name] for numbers in lists)]
    few = []
    for name in names:
        smallest = min((numbers[name] for numbers in held_out), default=0)
        if 0 < smallest < MIN_HELD_OUT:
            few.append(name)

    sentences = []
    if absent:
        sentences.append(_describe_classes(absent, "too few videos to be in all lists"))
    if few:
        problem = (
            f"fewer than {MIN_HELD_OUT} videos for validation or testing, too few for a reliable "
            "accuracy"
        )
        sentences.append(_describe_classes(few, problem))
    return sentences


def check_shares(shares: Mapping[str, float]) -> None:
    """Check the shares of validation and test.

    Raises:
        ValueError: If a share is negative or nothing is left to train on.
    """
    val, test = shares["val"], shares["test"]
    if min(val, test) < 0 or val + test >= 1:
        raise ValueError(
            f"the shares for validation and test are {val:g} and {test:g}. Use 0 or more for each, "
            "and less than 1 together, so that some videos are left to train on"
        )


class FormattedLists(NamedTuple):
    """The lists of all splits, before they are written."""

    texts: dict[str, str]  # by split
    sizes: dict[str, dict[str, int]]  # number of videos by split and class name


def format_lists(
    folders: ClassFolders,
    split_of: Mapping[str, str],
    *,
    class_names: Sequence[str],
    splits: Collection[str],
) -> FormattedLists:
    """Return the lists of some splits as texts.

    Args:
        folders: The videos of each class.
        split_of: The split of each video.
        class_names: The names of the classes, in the order of the labels.
        splits: The splits, including those of all videos.
    """
    rows: dict[str, list[str]] = {split: [] for split in splits}
    sizes = {split: dict.fromkeys(class_names, 0) for split in SPLITS}
    for label, name in enumerate(class_names):
        for path in folders.classes.get(name, ()):
            split = split_of[path]
            rows[split].append(format_row(path, label, separator=","))
            sizes[split][name] += 1

    texts = {split: "".join(lines) for split, lines in rows.items()}
    return FormattedLists(texts, sizes)


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write text files into a folder, by file name."""
    for name, text in texts.items():
        write_file(folder / name, text)


def _describe_empty_split(folders: ClassFolders, split: str, *, pattern: str) -> str:
    if pattern:
        return (
            f"{folders.path}: the groups of --group-by {pattern!r} leave no videos for {split}. "
            "Add videos"
        )
    most = max(map(len, folders.classes.values()))
    return (
        f"{folders.path}: no class has more than {count(most, 'video')}, which leaves none for "
        f"{split}. Add videos"
    )


def _describe_classes(names: Sequence[str], problem: str) -> str:
    verb = "has" if len(names) == 1 else "have"
    return f"{count(len(names), 'class')} {verb} {problem}: {some(names)}"
