"""Check that results are of the same list and the same classes, before they are combined."""

from collections.abc import Sequence
from itertools import zip_longest

import pyarrow as pa
import pyarrow.compute as pc

from slowfast.datasets.records import NO_LABEL
from slowfast.evaluation.result import Result
from slowfast.utils.text import count


def check_same_list(results: Sequence[Result]) -> None:
    """Check that results are of the same classes, videos and labels, in the same order.

    Args:
        results: At least one result. The others are compared with the first one.

    Raises:
        ValueError: If a result differs. The message names the first difference.
    """
    check_same_classes(results)
    first = results[0]
    videos = _read_videos(first)
    for other in results[1:]:
        if difference := _first_difference(videos, _read_videos(other)):
            raise ValueError(
                f"{first.folder} and {other.folder} are results of different lists: {difference}. "
                "Name results of the same list"
            )


def check_same_classes(results: Sequence[Result]) -> None:
    """Check that results have the same class names in the same order.

    Args:
        results: At least one result. The others are compared with the first one.

    Raises:
        ValueError: If a result differs. The message names the first difference.
    """
    first = results[0]
    names = first.record.class_names
    for other in results[1:]:
        pairs = enumerate(zip_longest(names, other.record.class_names))
        number, pair = next((entry for entry in pairs if len(set(entry[1])) > 1), (0, ()))
        if not pair:
            continue

        here, there = (repr(name) if name is not None else "missing" for name in pair)
        raise ValueError(
            f"{first.folder} and {other.folder} are results of different classes: class {number} "
            f"(from 0) is {here} in the first and {there} in the second, of "
            f"{count(len(names), 'class')} and {count(len(other.record.class_names), 'class')}. "
            "Name results of the same classes"
        )


def _read_videos(result: Result) -> pa.Table:
    """Return the paths and labels of the videos. The label is -1 in a list without labels."""
    videos = result.predictions("path", "label")
    return videos.set_column(1, "label", pc.fill_null(videos["label"], NO_LABEL))


def _first_difference(videos: pa.Table, others: pa.Table) -> str:
    """Return the first difference of two tables with the paths and labels of videos, or ""."""
    num_common = min(len(videos), len(others))
    is_different = [
        pc.not_equal(videos[name].slice(0, num_common), others[name].slice(0, num_common))
        for name in ("path", "label")
    ]
    row = pc.index(pc.or_(*is_different), True).as_py()
    if row < 0:
        row = num_common
    if row >= max(len(videos), len(others)):
        return ""

    difference = (
        f"row {row} (from 0) is {_describe(videos, row)} in the first and "
        f"{_describe(others, row)} in the second"
    )
    if len(videos) != len(others):
        difference += f", which have {len(videos)} and {count(len(others), 'video')}"
    return difference


def _describe(videos: pa.Table, row: int) -> str:
    if row >= len(videos):
        return "missing"
    path, label = (videos[name][row].as_py() for name in ("path", "label"))
    return f"{path!r} with {'no label' if label == NO_LABEL else f'label {label}'}"
