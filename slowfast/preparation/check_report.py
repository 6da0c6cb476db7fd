"""Report of a check of videos: how many are unreadable, and what a run does with them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.manifest import STATUSES, read_manifest
from slowfast.utils.text import count, printable

MAX_EXAMPLES = 10  # unreadable videos to name

_REPLACED = "training replaces it with another video, testing does not score it"
# What a run does with a video, by the status of the video.
OUTCOMES = {
    "missing": _REPLACED,
    "empty": _REPLACED,
    "unreadable": _REPLACED,
    "damaged": _REPLACED,
    "truncated": f"{_REPLACED}, unless DATA.ALLOW_TRUNCATED is True",
    "timeout": "the run waits for it and stops with an error after DATA_LOADER.TIMEOUT seconds",
    "crashed": "the run stops with an error, because the loader worker dies",
}


class UnreadableVideo(NamedTuple):
    """A video that is not ok according to the manifest."""

    name: str
    status: str  # one of STATUSES
    problem: str  # the status and the reason


def find_unreadable(
    lists: Mapping[str, Annotations], manifest_path: str, *, allow_truncated: bool = False
) -> dict[str, list[UnreadableVideo]]:
    """Return the unreadable videos of each list.

    Args:
        lists: The lists, by split.
        manifest_path: The path of the manifest.
        allow_truncated: Whether truncated videos count as readable.
    """
    problems = read_manifest(manifest_path, allow_truncated=allow_truncated).unreadable
    unreadable: dict[str, list[UnreadableVideo]] = {}
    for split, annotations in lists.items():
        names = [annotations[row].name for row in annotations.find_rows(list(problems))]
        unreadable[split] = [
            UnreadableVideo(name, problems[name].split(":")[0], problems[name]) for name in names
        ]
    return unreadable


def format_summary(
    lists: Mapping[str, Annotations],
    unreadable: Mapping[str, Sequence[UnreadableVideo]],
    *,
    unusual: Mapping[str, Mapping[str, int]],
) -> str:
    """Return a table of the number of videos by status, and the first unreadable ones.

    Args:
        lists: The lists, by split.
        unreadable: The unreadable videos of each list.
        unusual: The number of unusual videos of each list, by kind.
    """
    lines = ["".join(f"{title:>12}" for title in ("split", "listed", "ok", *STATUSES))]
    for split, annotations in lists.items():
        num_ok = len(annotations) - len(unreadable[split])
        by_status = Counter(video.status for video in unreadable[split])
        numbers = [len(annotations), num_ok, *(by_status[status] for status in STATUSES)]
        lines.append(f"{split:>12}" + "".join(f"{number:12}" for number in numbers))

    for split, numbers_by_kind in unusual.items():
        if numbers_by_kind:
            kinds = [f"{kind}: {number}" for kind, number in sorted(numbers_by_kind.items())]
            lines.append(f"{split:>12}  {', '.join(kinds)} (read as stored)")

    examples = []
    for split, videos in unreadable.items():
        examples += [f"  {split}  {video.name}: {video.problem}" for video in videos]
    lines += examples[:MAX_EXAMPLES]
    if len(examples) > MAX_EXAMPLES:
        lines.append(f"  ... and {len(examples) - MAX_EXAMPLES} more in the manifest")
    return printable("\n".join(lines))


def format_outcomes(
    unreadable: Mapping[str, Sequence[UnreadableVideo]],
    *,
    folder: str,
    num_training: int,
    max_fraction: float,
) -> str:
    """Return where missing videos were searched for, and what a run without manifest does.

    Args:
        unreadable: The unreadable videos of each list.
        folder: The folder of the videos, DATA.PATH_PREFIX.
        num_training: The number of listed training videos.
        max_fraction: The fraction of unreadable training videos at which training stops.
    """
    lines = []
    statuses = {video.status for video in chain.from_iterable(unreadable.values())}
    if "missing" in statuses:
        searched = folder or f"empty, so the current folder, {os.getcwd()}"
        lines.append(f"missing videos were searched for in DATA.PATH_PREFIX: {searched}")

    lines.append("without DATA.MANIFEST:")
    statuses_by_outcome: dict[str, list[str]] = {}
    for status in STATUSES:
        if status in statuses:
            statuses_by_outcome.setdefault(OUTCOMES[status], []).append(status)
    for outcome, group in statuses_by_outcome.items():
        lines.append(f"  {', '.join(group)}: {outcome}")

    num_unreadable = len(unreadable.get("train", ()))
    if num_unreadable > max_fraction * num_training:
        lines.append(
            f"  {num_unreadable} of {count(num_training, 'training video')} is more than "
            f"DATA.MAX_BAD_FRACTION, {max_fraction:g}: training stops with an error"
        )
    return "\n".join(lines)
