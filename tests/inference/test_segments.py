"""Segments: windows of the same class are merged, smoothed and kept in the order of time."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from slowfast.inference.predictions import Unreadable, make_prediction
from slowfast.inference.segments import Segment, merge_windows
from slowfast.inference.windows import Window

NAMES = ["a", "b", "c"]


def make_windows(classes: str, *, length: float = 2.0, stride: float = 1.0) -> list[Window]:
    """One window per letter, "?" for an unreadable one. A capital letter is certain."""
    found = []
    for number, letter in enumerate(classes):
        start = number * stride
        if letter == "?":
            found.append(Window("v", start, start + length, Unreadable("v", "v: damaged")))
            continue
        weight = 0.9 if letter.isupper() else 0.5
        probabilities = np.full(3, (1 - weight) / 2)
        probabilities["abc".index(letter.lower())] = weight
        logits = np.log(probabilities).astype(np.float32)[None]
        prediction = make_prediction(
            "v", logits, intervals=[None], class_names=NAMES, top=1, fusion="sum"
        )
        found.append(Window("v", start, start + length, prediction))
    return found


def texts(segments: list[Segment]) -> list[str]:
    return [f"{s.label or '?'} {s.start:g}-{s.end:g} {s.num_windows}" for s in segments]


@pytest.mark.parametrize(
    ("classes", "options", "expected"),
    [
        # Windows 0-2, 1-3, 2-4 ...: two neighbors share a second and meet in the middle of it.
        ("aab", {}, ["a 0-2.5 2", "b 2.5-4 1"]),
        ("aabba", {}, ["a 0-2.5 2", "b 2.5-4.5 2", "a 4.5-6 1"]),
        ("a", {}, ["a 0-2 1"]),
        ("", {}, []),
        # The middle b is weaker than both neighbors together.
        ("AbA", {"smooth": 3}, ["a 0-4 3"]),
        ("aBa", {"smooth": 3}, ["b 0-4 3"]),
        ("ab", {"smooth": 5}, ["a 0-3 2"]),
        # b lasts a second and is absorbed.
        ("aaabaa", {"min_seconds": 1.5}, ["a 0-7 5"]),
        ("abcc", {"min_seconds": 1.8}, ["a 0-2.5 1", "c 2.5-5 2"]),
        ("abbb", {"min_seconds": 1.8}, ["b 0-5 3"]),
        ("aaabaa", {"min_seconds": 1.0}, ["a 0-3.5 3", "b 3.5-4.5 1", "a 4.5-7 2"]),
        # Unreadable windows are never absorbed, and part their neighbors.
        ("aa?aa", {"min_seconds": 1.5}, ["a 0-2.5 2", "? 2.5-3.5 1", "a 3.5-6 2"]),
        ("a?b", {"smooth": 3}, ["a 0-1.5 1", "? 1.5-2.5 1", "b 2.5-4 1"]),
        ("??", {}, ["? 0-3 2"]),
    ],
)
def test_segments_by_hand(classes: str, options: dict[str, float], expected: list[str]) -> None:
    found = list(merge_windows(make_windows(classes), NAMES, **options))  # type: ignore[arg-type]
    assert texts(found) == expected


def test_a_segment_has_the_mean_probability() -> None:
    (segment,) = merge_windows(make_windows("aAa"), NAMES)
    assert segment.probability == pytest.approx((0.5 + 0.9 + 0.5) / 3)
    assert segment.class_id == 0
    assert segment.as_json() == {
        "path": "v",
        "start": 0.0,
        "end": 4.0,
        "label": "a",
        "class_id": 0,
        "probability": segment.probability,
        "num_windows": 3,
    }


def test_an_unreadable_segment_has_a_reason() -> None:
    (segment,) = merge_windows(make_windows("?"), NAMES)
    fields = segment.as_json()
    assert fields["reason"] == "v: damaged"
    assert "label" not in fields


@pytest.mark.parametrize("stride", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("smooth", [1, 3])
def test_segments_tile_the_video(stride: float, smooth: int) -> None:
    rng = np.random.default_rng(4)
    classes = "".join(rng.choice(list("aAbBcC?"), 60))
    windows = make_windows(classes, stride=stride)
    found = list(merge_windows(windows, NAMES, smooth=smooth, min_seconds=1.2))
    assert (found[0].start, found[-1].end) == (0.0, windows[-1].end)
    assert all(before.end == after.start for before, after in pairwise(found))
    assert all(before.label != after.label for before, after in pairwise(found))


def test_a_segment_comes_when_it_ends() -> None:
    num_asked = 0

    def live() -> Iterator[Window]:
        nonlocal num_asked
        for window in make_windows("aabbb"):
            num_asked += 1
            yield window

    assert next(merge_windows(live(), NAMES)).label == "a"
    assert num_asked == 4


@pytest.mark.parametrize(("smooth", "seconds"), [(2, 0.0), (0, 0.0), (1, -1.0), (1, float("nan"))])
def test_options_out_of_range_are_errors(smooth: int, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"smooth is|min_seconds is"):
        merge_windows([], NAMES, smooth=smooth, min_seconds=seconds)
