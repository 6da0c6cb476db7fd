"""Lists of your own videos for a cross-validation."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from slowfast.datasets.class_name_files import format_class_names
from slowfast.preparation.class_folders import ClassFolders, read_class_folders
from slowfast.preparation.existing_lists import FORCE_HINT, read_existing_lists
from slowfast.preparation.lists import Split, check_shares, format_lists, write_texts
from slowfast.preparation.splits import SPLITS, assign_folds, assign_splits
from slowfast.utils.text import count


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
    """Write train.csv, val.csv and classes.txt for each fold of a cross-validation.

    The lists of the folds are in the folders fold1, fold2 and so on. Each video is in val.csv of
    one fold and in train.csv of the others. With a test share, all folds have the same test.csv.
    Videos that are listed already stay in their lists.

    Args:
        videos: The folder with one folder per class, as in `write_folder_lists`.
        lists: The folder of the folders.
        num_folds: The number of folds, at least 2.
        test_share: The share of each class for test.csv, or 0 for no test.csv.
        seed: The seed of the folds.
        pattern: A regular expression that finds the group of a video, as in `write_folder_lists`.
        force: Whether to replace existing lists.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: As in `write_folder_lists`, or if there are
            more folds than requested or a fold has no videos.
    """
    shares = {"val": 0.0, "test": test_share}
    check_shares(shares)
    if num_folds < 2:
        raise ValueError(f"--folds is {num_folds}. Use 2 or more")
    if (lists / f"fold{num_folds + 1}").exists():
        raise FileExistsError(
            f"{lists} has more than {num_folds} folds. Remove them or choose another folder"
        )

    folders = read_class_folders(videos, pattern=pattern)
    fold_lists = {fold: lists / f"fold{fold}" for fold in range(1, num_folds + 1)}
    existing = _ExistingFolds(sorted(folders.classes), {}, {})
    if not force and any(path.exists() for path in fold_lists.values()):
        existing = _read_existing_folds(lists, fold_lists, folders)

    split_of_fold = _assign_folds(folders, num_folds, shares=shares, seed=seed, existing=existing)
    sizes: dict[str, dict[str, int]] = {}
    texts: dict[str, str] = {}
    for fold, split_of in split_of_fold.items():
        splits = [split for split in SPLITS if split != "test" or split in split_of.values()]
        formatted = format_lists(folders, split_of, class_names=existing.class_names, splits=splits)
        if not formatted.texts["val"] or not formatted.texts["train"]:
            raise ValueError(
                f"{videos}: there are too few videos or groups for {num_folds} folds. Use fewer"
            )
        sizes |= {f"fold{fold}/{split}": formatted.sizes[split] for split in splits}
        texts |= {f"fold{fold}/{split}.csv": formatted.texts[split] for split in splits}
        texts[f"fold{fold}/classes.txt"] = format_class_names(existing.class_names)

    write_texts(lists, texts)
    num_kept = len(existing.test) + len(existing.fold_of)
    return Split(sizes, num_kept, folders.num_videos - num_kept)


class _ExistingFolds(NamedTuple):
    class_names: list[str]  # all classes, in the order of the labels
    test: dict[str, str]  # "test" by path
    fold_of: dict[str, int]  # the fold with the video in its val.csv, by path


def _read_existing_folds(
    lists: Path, fold_lists: Mapping[int, Path], folders: ClassFolders
) -> _ExistingFolds:
    class_names = sorted(folders.classes)
    test: dict[str, str] = {}
    fold_of: dict[str, int] = {}
    num_existing, listed = 0, set[str]()
    for fold, path in fold_lists.items():
        existing = read_existing_lists(path)
        if not existing.class_names:
            continue
        num_existing += 1
        class_names = existing.merge_class_names(folders.classes)
        kept = existing.keep_splits(folders.classes)
        listed |= kept.keys()
        test |= {video: split for video, split in kept.items() if split == "test"}
        fold_of |= {video: fold for video, split in kept.items() if split == "val"}

    # After a call that was interrupted, some listed videos are in no val.csv.
    if num_existing < len(fold_lists) and listed == test.keys() | fold_of.keys():
        raise FileExistsError(f"{lists} has only {count(num_existing, 'fold')}. {FORCE_HINT}")
    return _ExistingFolds(class_names, test, fold_of)


def _assign_folds(
    folders: ClassFolders,
    num_folds: int,
    *,
    shares: Mapping[str, float],
    seed: int,
    existing: _ExistingFolds,
) -> dict[int, dict[str, str]]:
    """Return the split of each video in each fold."""
    split_of = assign_splits(
        folders.classes,
        shares=shares,
        seed=seed,
        group_of=folders.group_of,
        kept=existing.test | dict.fromkeys(existing.fold_of, "train"),
    )
    to_divide = {}
    for name, paths in folders.classes.items():
        to_divide[name] = [path for path in paths if split_of[path] != "test"]
    fold_of = assign_folds(
        to_divide,
        num_folds=num_folds,
        seed=seed,
        group_of=folders.group_of,
        kept=existing.fold_of,
    )

    split_of_fold = {}
    for fold in range(1, num_folds + 1):
        val = [path for path, assigned in fold_of.items() if assigned == fold]
        split_of_fold[fold] = split_of | dict.fromkeys(val, "val")
    return split_of_fold
