"""Sizes of the splits of a class, against numbers by hand."""

import pytest

from slowfast.datasets import build
from slowfast.preparation.splits import SPLITS, split_sizes


@pytest.mark.parametrize(
    ("num_videos", "sizes"),  # of train, val and test, with shares of 0.15
    [
        (1, (1, 0, 0)),
        (2, (1, 1, 0)),
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (9, (7, 1, 1)),
        (10, (6, 2, 2)),
        (14, (10, 2, 2)),
        (15, (9, 3, 3)),
        (23, (17, 3, 3)),
        (30, (22, 4, 4)),  # round(4.5) is 4
        (1000, (700, 150, 150)),
    ],
)
def test_sizes_of_the_splits_of_a_class_by_hand(
    num_videos: int, sizes: tuple[int, int, int]
) -> None:
    expected = dict(zip(("train", "val", "test"), sizes, strict=True))
    assert split_sizes(num_videos, shares={"val": 0.15, "test": 0.15}) == expected


@pytest.mark.parametrize("num_videos", range(3, 40))
@pytest.mark.parametrize(("val", "test"), [(0.01, 0.01), (0.49, 0.49), (0.9, 0.05), (0.05, 0.9)])
def test_no_share_takes_a_whole_class(num_videos: int, val: float, test: float) -> None:
    sizes = split_sizes(num_videos, shares={"val": val, "test": test})
    assert min(sizes.values()) >= 1
    assert sum(sizes.values()) == num_videos


def test_the_names_of_the_splits_are_those_of_the_loaders() -> None:
    assert SPLITS == build.SPLITS
