"""Order of the videos in an epoch: uniform or balanced over classes, with repetitions counted."""

from collections import Counter

import numpy as np
import pytest

from slowfast.datasets.epoch_order import BalancedOrder, EpochOrder, UniformOrder, draw_padding


def make_rng(epoch: int = 0) -> np.random.Generator:
    return np.random.default_rng((4, epoch))


def draw_balanced(labels: list[int], epoch: int = 0) -> tuple[list[int], list[int]]:
    videos, repetitions = BalancedOrder(labels)(make_rng(epoch))
    return videos.tolist(), repetitions.tolist()


def test_balanced_order_by_hand() -> None:
    # 10 draws for 3 classes: 3 or 4 each. Class 7 has one video, which is drawn 3 or 4 times.
    labels = [2] * 6 + [5] * 3 + [7]
    videos, repetitions = draw_balanced(labels)
    per_class = Counter(labels[video] for video in videos)
    assert sorted(per_class.values()) == [3, 3, 4]
    assert {*per_class} == {2, 5, 7}

    per_video = Counter(videos)
    assert {per_video[video] for video in range(6)} == {0, 1}
    assert {per_video[video] for video in range(6, 9)} <= {1, 2}
    assert per_video[9] == per_class[7]

    drawn_9 = sorted(k for video, k in zip(videos, repetitions, strict=True) if video == 9)
    assert drawn_9 == list(range(per_class[7]))


def test_balanced_order_differs_from_epoch_to_epoch() -> None:
    labels = [0] * 50 + [1] * 2
    assert draw_balanced(labels) == draw_balanced(labels)
    assert draw_balanced(labels) != draw_balanced(labels, epoch=1)
    # An epoch draws 26 of the 50 videos, so a few epochs show all of them.
    shown = set()
    for epoch in range(12):
        videos, _ = draw_balanced(labels, epoch)
        shown |= set(videos)
    assert shown == set(range(52))


def test_the_class_of_the_additional_draw_is_random() -> None:
    labels = [0, 0, 0, 1, 1]
    num_draws = set()
    for epoch in range(20):
        videos, _ = draw_balanced(labels, epoch)
        num_draws.add(Counter(labels[video] for video in videos)[0])
    assert num_draws == {2, 3}


@pytest.mark.parametrize("seed", range(5))
def test_counts_of_classes_and_of_their_videos_are_even(seed: int) -> None:
    labels = np.random.default_rng(seed).geometric(0.05, 997) * 3  # many gaps, few videos in some
    videos, repetitions = BalancedOrder(labels)(make_rng(seed))
    assert len(videos) == 997

    per_class = np.bincount(labels[videos])[np.unique(labels)]
    assert per_class.max() - per_class.min() <= 1

    per_video = np.bincount(videos, minlength=997)
    for label in np.unique(labels):
        of_class = per_video[labels == label]
        assert of_class.max() - of_class.min() <= 1

    assert len({*zip(videos.tolist(), repetitions.tolist(), strict=True)}) == 997
    assert (repetitions < per_video[videos]).all()


def test_one_class_is_drawn_as_without_balance() -> None:
    videos, repetitions = draw_balanced([3] * 8)
    assert sorted(videos) == list(range(8))
    assert repetitions == [0] * 8


def test_padding_counts_on_where_the_epoch_ends() -> None:
    order = EpochOrder(np.array([5, 2, 5, 8]), np.array([1, 0, 0, 0], np.int32))
    assert draw_padding(order, 6).videos.tolist() == [5, 2, 5, 8, 5, 2]
    assert draw_padding(order, 6).repetitions.tolist() == [2, 1, 3, 1, 4, 2]


def test_uniform_order_repeats_nothing() -> None:
    videos, repetitions = UniformOrder(30)(make_rng())
    assert sorted(videos.tolist()) == list(range(30))
    assert not repetitions.any()
