"""Assignment of videos to training, validation and test, and to the folds of a cross-validation.

An assignment is a function of the names of the videos and of earlier assignments, so adding videos
moves no others. Videos of a group stay together.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from os.path import splitext
from typing import TypeVar

from slowfast.utils.text import count, some

SPLITS = ("train", "val", "test")
# The least number of validation and test videos of a class, unless that is over a fifth of it.
MIN_HELD_OUT = 3

GroupOf = Callable[[str], str]
Subset = TypeVar("Subset", str, int)  # a split or a fold


def split_sizes(num_videos: int, *, shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many videos of a class each split gets.

    Validation and test get their shares, but at least 3 videos each, or a fifth of the class if
    that is less, and at least 1. Of 2 videos, one is held out. A single video is for training. A
    share of 0 means none.

    Args:
        num_videos: The number of videos of the class.
        shares: The shares for val and test.
    """
    least = max(min(MIN_HELD_OUT, num_videos // 5), 1)
    sizes = {"train": num_videos}
    for split in ("val", "test"):
        num_reserved = 1  # training gets one
        if split == "val" and shares["test"] > 0 and num_videos > 2:
            num_reserved += 1  # the test comes next

        num_wanted = 0
        if shares[split]:
            num_wanted = max(round(num_videos * shares[split]), least)
        sizes[split] = max(min(num_wanted, sizes["train"] - num_reserved), 0)
        sizes["train"] -= sizes[split]
    return sizes


def assign_splits(
    classes: Mapping[str, Sequence[str]],
    *,
    shares: Mapping[str, float],
    seed: int,
    group_of: GroupOf,
    kept: Mapping[str, str],
) -> dict[str, str]:
    """Return the split of each video: train, val or test.

    Without groups, each class is divided according to `split_sizes`. A group goes to val or test if
    that brings its classes closer to these sizes and leaves some of their videos for training.

    Args:
        classes: The videos of each class.
        shares: The shares of each class for val and test.
        seed: The seed of the order in which groups are assigned.
        group_of: A function from a video to its group, see `group_by`.
        kept: The splits of earlier assignments.

    Raises:
        ValueError: If a group is in two splits already.
    """
    class_of = _class_of_each(classes)
    assigned, groups = _assign_kept_groups(class_of, group_of=group_of, kept=kept)
    sizes = {name: split_sizes(len(videos), shares=shares) for name, videos in classes.items()}
    num_assigned = Counter((split, class_of[video]) for video, split in assigned.items())

    # The number of groups of each class that training may get.
    num_free = Counter(class_of[video] for video, split in assigned.items() if split == "train")
    for videos in groups.values():
        num_free.update({class_of[video] for video in videos})

    for split in ("val", "test"):
        missing = {name: sizes[name][split] - num_assigned[split, name] for name in classes}
        for group in _shuffle(groups, seed=seed):
            group_sizes = Counter(class_of[video] for video in groups[group])
            gain = sum(
                abs(missing[name]) - abs(missing[name] - size) for name, size in group_sizes.items()
            )
            if gain > 0 and all(num_free[name] > 1 for name in group_sizes):
                assigned |= dict.fromkeys(groups.pop(group), split)
                num_free.subtract(group_sizes.keys())
                for name, size in group_sizes.items():
                    missing[name] -= size

    for videos in groups.values():
        assigned |= dict.fromkeys(videos, "train")
    return assigned


def assign_folds(
    classes: Mapping[str, Sequence[str]],
    *,
    num_folds: int,
    seed: int,
    group_of: GroupOf,
    kept: Mapping[str, int],
) -> dict[str, int]:
    """Return the fold of each video, from 1. Every class is spread evenly over the folds.

    Args:
        classes: The videos of each class.
        num_folds: The number of folds.
        seed: The seed of the order in which groups of the same size are assigned.
        group_of: A function from a video to its group, see `group_by`.
        kept: The folds of earlier assignments.

    Raises:
        ValueError: If a group is in two folds already.
    """
    class_of = _class_of_each(classes)
    assigned, groups = _assign_kept_groups(class_of, group_of=group_of, kept=kept)
    num_assigned = Counter((fold, class_of[video]) for video, fold in assigned.items())
    totals = Counter(assigned.values())

    # Large groups come first, as small ones can even out the difference they leave.
    for group in sorted(_shuffle(groups, seed=seed), key=lambda group: -len(groups[group])):
        group_sizes = Counter(class_of[video] for video in groups[group])

        def load(fold: int, group_sizes: Counter[str] = group_sizes) -> tuple[int, int, int]:
            overlap = sum(size * num_assigned[fold, name] for name, size in group_sizes.items())
            return overlap, totals[fold], fold

        best = min(range(1, num_folds + 1), key=load)
        assigned |= dict.fromkeys(groups[group], best)
        totals[best] += group_sizes.total()
        num_assigned.update({(best, name): size for name, size in group_sizes.items()})
    return assigned


def group_by(pattern: str, videos: Iterable[str]) -> GroupOf:
    """Return a function from a video to its group, which a pattern finds in its path.

    Args:
        pattern: A regular expression that is searched for in the path without suffix. If it has
            parentheses, the text in them is the group. With "", each video is its own group.
        videos: The paths, in each of which the pattern must be found.

    Raises:
        ValueError: If the pattern is no regular expression, or is not found in some path.
    """
    if not pattern:
        return str

    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group-by is {pattern!r}, no regular expression: {error}") from error
    unmatched = [video for video in videos if not expression.search(splitext(video)[0])]
    if unmatched:
        number = count(len(unmatched), "video")
        raise ValueError(f"--group-by is {pattern!r}, not found in {number}: {some(unmatched)}")

    def group_of(video: str) -> str:
        match = expression.search(splitext(video)[0])
        assert match is not None
        if match.groups():
            return "\n".join(text or "" for text in match.groups())
        return match[0]

    return group_of


def _class_of_each(classes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    class_of: dict[str, str] = {}
    for name, videos in classes.items():
        class_of |= dict.fromkeys(videos, name)
    return class_of


def _assign_kept_groups(
    videos: Iterable[str], *, group_of: GroupOf, kept: Mapping[str, Subset]
) -> tuple[dict[str, Subset], dict[str, list[str]]]:
    """Assign the groups of earlier assignments, and return the other groups."""
    subset_of_group: dict[str, Subset] = {}
    for video, subset in kept.items():
        known = subset_of_group.setdefault(group_of(video), subset)
        if known != subset:
            raise ValueError(
                f"the group of {video} is in {known} and in {subset} of the existing lists. "
                "Use --force to assign all videos anew"
            )

    assigned: dict[str, Subset] = {}
    groups: dict[str, list[str]] = {}
    for video in videos:
        group = group_of(video)
        if group in subset_of_group:
            assigned[video] = subset_of_group[group]
        else:
            groups.setdefault(group, []).append(video)
    return assigned, groups


def _shuffle(groups: Iterable[str], *, seed: int) -> list[str]:
    """Return the groups in an order that depends only on the seed and their names."""

    def digest(group: str) -> bytes:
        return hashlib.sha256(f"{seed}/{group}".encode(errors="surrogateescape")).digest()

    return sorted(groups, key=digest)
