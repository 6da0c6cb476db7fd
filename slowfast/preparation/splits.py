"""Which videos are for training, validation or the test, and which are in which fold.

An assignment is a function of the names of the videos and of what was assigned before, so that
adding videos moves none. Videos of one group are never torn apart.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from os.path import splitext
from typing import TypeVar

from slowfast.utils.text import count, some

FEWEST_HELD_OUT = 3  # validation or test videos of a class, if that is at most a fifth of it

GroupOf = Callable[[str], str]
Side = TypeVar("Side", str, int)  # a split or a fold


def split_sizes(num_videos: int, *, shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many videos of a class each split gets.

    Validation and test get their shares, but at least 3 videos each, or a fifth of the class where
    that is less, and at least 1. Of 2 videos, one is held out; a single one is for training. A
    share of 0 means none.

    Args:
        num_videos: Number of videos of the class.
        shares: Shares for val and test.
    """
    floor = max(min(FEWEST_HELD_OUT, num_videos // 5), 1)
    sizes = {"train": num_videos}
    for split in ("val", "test"):
        # One video is left for training, and one for the test if that is still to come.
        num_reserved = 1 + (split == "val" and shares["test"] > 0 and num_videos > 2)
        wanted = max(round(num_videos * shares[split]), floor) if shares[split] else 0
        sizes[split] = max(min(wanted, sizes["train"] - num_reserved), 0)
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

    Without groups, each class is divided into `split_sizes`. A group goes to val or test if that
    brings the classes in it nearer to these sizes, and leaves videos of them for training.

    Args:
        classes: Videos of each class.
        shares: Shares of each class for val and test.
        seed: Seed of the order in which groups are taken.
        group_of: From a video to its group; the video itself if there are no groups.
        kept: Splits that were assigned before.

    Raises:
        ValueError: A group is in two splits already.
    """
    class_of = {video: name for name, videos in classes.items() for video in videos}
    assigned, groups = _follow_kept(class_of, group_of=group_of, kept=kept)
    sizes = {name: split_sizes(len(videos), shares=shares) for name, videos in classes.items()}
    num_assigned = Counter((split, class_of[video]) for video, split in assigned.items())
    num_free = Counter(name for videos in groups.values() for name in {class_of[v] for v in videos})
    num_free.update(class_of[video] for video, split in assigned.items() if split == "train")

    for split in ("val", "test"):
        missing = {name: sizes[name][split] - num_assigned[split, name] for name in classes}
        for group in _in_order(groups, seed=seed):
            held = Counter(class_of[video] for video in groups[group])
            gain = sum(abs(missing[n]) - abs(missing[n] - number) for n, number in held.items())
            if gain > 0 and all(num_free[name] > 1 for name in held):
                assigned |= dict.fromkeys(groups.pop(group), split)
                num_free.subtract(held.keys())
                for name, number in held.items():
                    missing[name] -= number
    rest = [video for videos in groups.values() for video in videos]
    return assigned | dict.fromkeys(rest, "train")


def assign_folds(
    classes: Mapping[str, Sequence[str]],
    *,
    num_folds: int,
    seed: int,
    group_of: GroupOf,
    kept: Mapping[str, int],
) -> dict[str, int]:
    """Return the fold of each video, from 1; every class is spread over the folds evenly.

    Args:
        classes: Videos of each class.
        num_folds: Number of folds.
        seed: Seed of the order in which groups of one size are taken.
        group_of: From a video to its group, as in `assign_splits`.
        kept: Folds that were assigned before.

    Raises:
        ValueError: A group is in two folds already.
    """
    class_of = {video: name for name, videos in classes.items() for video in videos}
    assigned, groups = _follow_kept(class_of, group_of=group_of, kept=kept)
    num_assigned = Counter((fold, class_of[video]) for video, fold in assigned.items())
    totals = Counter(assigned.values())

    # Large groups come first, as small ones can even out what they leave.
    for group in sorted(_in_order(groups, seed=seed), key=lambda group: -len(groups[group])):
        held = Counter(class_of[video] for video in groups[group])
        loads = {
            fold: sum(number * num_assigned[fold, name] for name, number in held.items())
            for fold in range(1, num_folds + 1)
        }
        best = min(loads, key=lambda fold: (loads[fold], totals[fold], fold))
        assigned |= dict.fromkeys(groups[group], best)
        totals[best] += held.total()
        num_assigned.update({(best, name): number for name, number in held.items()})
    return assigned


def group_by(pattern: str, videos: Iterable[str]) -> GroupOf:
    """Return a function from a video to its group: what a pattern finds in its path without suffix.

    Args:
        pattern: Regular expression. If it has parts in parentheses, these alone are the group. "":
            no groups, each video is one by itself.
        videos: Paths that the pattern must be found in.

    Raises:
        ValueError: It is no regular expression, or not found in some path.
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
        return "\n".join(part or "" for part in match.groups()) if match.groups() else match[0]

    return group_of


def _follow_kept(
    videos: Iterable[str], *, group_of: GroupOf, kept: Mapping[str, Side]
) -> tuple[dict[str, Side], dict[str, list[str]]]:
    """What is assigned, with the groups of what was assigned before; and the groups that are free."""
    side_of_group: dict[str, Side] = {}
    for video, side in kept.items():
        if side_of_group.setdefault(group_of(video), side) != side:
            raise ValueError(
                f"the group of {video} is in {side_of_group[group_of(video)]} and in {side} of the "
                "lists that are there; --force assigns all videos anew"
            )
    assigned: dict[str, Side] = {}
    groups: dict[str, list[str]] = {}
    for video in videos:
        group = group_of(video)
        if group in side_of_group:
            assigned[video] = side_of_group[group]
        else:
            groups.setdefault(group, []).append(video)
    return assigned, groups


def _in_order(groups: Iterable[str], *, seed: int) -> list[str]:
    """Groups in an order that depends on the seed and their names alone."""
    return sorted(
        groups,
        key=lambda group: hashlib.sha256(
            f"{seed}/{group}".encode(errors="surrogateescape")
        ).digest(),
    )
