"""Samplers: which views of which videos make up the batches of each process."""

import re
from collections.abc import Iterable
from hashlib import sha256
from itertools import chain

import pytest

from slowfast.datasets.epoch_draws import BalancedDraws, UniformDraws
from slowfast.datasets.records import Request, View
from slowfast.datasets.samplers import AllViews, RandomViews


def random_views(
    num_videos: int = 20,
    *,
    labels: list[int] | None = None,
    batch_size: int = 3,
    parts_per_step: int = 1,
    views_per_video: int = 2,
    seed: int = 4,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = True,
) -> RandomViews:
    return RandomViews(
        UniformDraws(num_videos) if labels is None else BalancedDraws(labels),
        batch_size=batch_size,
        parts_per_step=parts_per_step,
        views_per_video=views_per_video,
        seed=seed,
        rank=rank,
        world_size=world_size,
        drop_last=drop_last,
    )


def videos_of(batches: Iterable[list[Request]]) -> list[list[int]]:
    return [[request.video for request in batch] for batch in batches]


def test_an_epoch_is_a_shuffled_pass_without_the_last_incomplete_batch() -> None:
    batches = list(random_views())
    videos = [request.video for batch in batches for request in batch]
    assert [len(batch) for batch in batches] == [3] * 6
    assert len(set(videos)) == 18
    assert videos != sorted(videos)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    views = random_views()
    first = list(views)
    assert list(random_views()) == first
    views.set_epoch(1)
    assert list(views) != first
    assert list(random_views(seed=5)) != first


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_a_step_takes_the_same_videos_on_any_number_of_processes(world_size: int) -> None:
    alone = list(random_views(batch_size=6))
    shared = [
        list(random_views(batch_size=6 // world_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert [
        [request for batch in step for request in batch] for step in zip(*shared, strict=True)
    ] == alone


def test_a_training_request_carries_seed_epoch_and_video() -> None:
    views = random_views()
    views.set_epoch(7)
    request = next(iter(views))[0]
    assert request.seed == (4, 7, request.video)
    assert [view.number for view in request.views] == [0, 1]


def test_dropping_the_last_step_draws_what_it_always_drew() -> None:
    # Golden: runs that began before TRAIN.DROP_LAST and TRAIN.SAMPLING go on with the same clips.
    views = random_views()
    views.set_epoch(7)
    batches = [[3, 5, 7], [13, 18, 4], [10, 6, 15], [8, 0, 1], [17, 16, 9], [19, 12, 2]]
    assert videos_of(views) == batches
    assert next(iter(views))[0].seed == (4, 7, 3)

    views = random_views(1000, batch_size=4, parts_per_step=2, rank=1, world_size=3)
    views.set_epoch(7, first_step=1)
    text = repr([[tuple(request) for request in batch] for batch in views])
    assert sha256(text.encode()).hexdigest()[:16] == "6283f829a256b9be"


def test_too_few_videos_says_so() -> None:
    message = (
        "3 videos cannot be shared by 8 processes with 1 video per step each; use at least 8 videos, "
        "a smaller TRAIN.BATCH_SIZE, or TRAIN.DROP_LAST False"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        random_views(3, batch_size=1, world_size=8)


# ---- The last incomplete step --------------------------------------------------------------------


def test_the_last_step_is_divided_evenly_over_the_parts() -> None:
    # 20 videos, steps of 4 parts of 4: one whole step, then 4 videos, one for each part.
    views = random_views(batch_size=4, parts_per_step=4, drop_last=False)
    assert (views.num_steps, len(views), views.num_dropped) == (2, 8, 0)
    batches = videos_of(views)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 1, 1, 1, 1]
    assert sorted(chain(*batches)) == list(range(20))


def test_first_videos_of_the_epoch_fill_up_the_last_step() -> None:
    # 20 videos, steps of 3 parts of 5: 5 are left for 3 parts of 2, so the first video comes again.
    views = random_views(batch_size=5, parts_per_step=3, drop_last=False)
    batches = videos_of(views)
    assert [len(batch) for batch in batches] == [5, 5, 5, 2, 2, 2]
    assert batches[-1][-1] == batches[0][0]
    shown = list(chain(*batches))
    assert sorted(shown[:-1]) == list(range(20))


def test_a_repeated_video_is_seeded_by_its_repetition() -> None:
    # 1 video for 2 * 2 parts of 3 videos: each part shows it once.
    seeds = []
    for rank in range(2):
        views = random_views(1, parts_per_step=2, rank=rank, world_size=2, drop_last=False)
        views.set_epoch(7)
        seeds += [request.seed for batch in views for request in batch]
    assert seeds == [(4, 7, 0), (4, 7, 0, 1), (4, 7, 0, 2), (4, 7, 0, 3)]


@pytest.mark.parametrize("num_videos", [1, 5, 8, 16, 17, 24, 30])
@pytest.mark.parametrize(("world_size", "parts_per_step"), [(1, 8), (2, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize("num_classes", [0, 1, 3])
def test_a_kept_step_is_the_same_on_any_number_of_processes(
    num_videos: int, world_size: int, parts_per_step: int, num_classes: int
) -> None:
    labels = [number**2 % num_classes for number in range(num_videos)] if num_classes else None

    def parts_of_steps(*, parts_per_step: int, world_size: int) -> list[list[Request]]:
        ranks = [
            iter(
                random_views(
                    num_videos,
                    labels=labels,
                    batch_size=2,
                    parts_per_step=parts_per_step,
                    rank=rank,
                    world_size=world_size,
                    drop_last=False,
                )
            )
            for rank in range(world_size)
        ]
        num_steps = -(-num_videos // 16)
        return [
            next(batches)
            for _ in range(num_steps)
            for batches in ranks
            for _ in range(parts_per_step)
        ]

    alone = parts_of_steps(parts_per_step=8, world_size=1)
    assert parts_of_steps(parts_per_step=parts_per_step, world_size=world_size) == alone
    assert len({len(batch) for batch in alone[-8:]}) == 1  # so that the mean over parts is plain
    seeds = [request.seed for batch in alone for request in batch]
    assert len(set(seeds)) == len(seeds) < num_videos + 8


@pytest.mark.parametrize("labels", [None, [0] * 12 + [3] * 5 + [9] * 4])
def test_an_epoch_may_begin_at_its_last_step(labels: list[int] | None) -> None:
    views = random_views(21, labels=labels, parts_per_step=2, drop_last=False)
    views.set_epoch(3)
    whole = list(views)
    views.set_epoch(3, first_step=3)
    assert list(views) == whole[6:]
    assert [len(batch) for batch in whole] == [3, 3, 3, 3, 3, 3, 2, 2]


# ---- All views -----------------------------------------------------------------------------------


def all_views(num_videos: int, *, rank: int, world_size: int) -> AllViews:
    return AllViews(
        num_videos, num_clips=2, num_crops=3, videos_per_batch=2, rank=rank, world_size=world_size
    )


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("num_videos", [1, 7, 16])
def test_every_view_is_asked_for_once(num_videos: int, world_size: int) -> None:
    asked = [
        (request.video, view.clip, view.crop)
        for rank in range(world_size)
        for batch in all_views(num_videos, rank=rank, world_size=world_size)
        for request in batch
        for view in request.views
    ]
    assert sorted(asked) == [
        (video, clip, crop) for video in range(num_videos) for clip in range(2) for crop in range(3)
    ]


@pytest.mark.parametrize("world_size", [2, 3])
def test_batches_are_the_same_on_any_number_of_processes(world_size: int) -> None:
    alone = list(all_views(11, rank=0, world_size=1))
    shared = [
        batch
        for rank in range(world_size)
        for batch in all_views(11, rank=rank, world_size=world_size)
    ]
    assert sorted(shared) == alone


def test_one_crop_is_the_center() -> None:
    views = AllViews(1, num_clips=2, num_crops=1, videos_per_batch=1, rank=0, world_size=1).views
    assert views == (View(0, clip=0, crop=1), View(1, clip=1, crop=1))
