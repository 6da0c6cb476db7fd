"""Samplers: which views of which videos make up the batches of each process."""

import re
from collections.abc import Iterable
from hashlib import sha256
from itertools import chain, product

import pytest

from slowfast.datasets.epoch_order import BalancedOrder, UniformOrder
from slowfast.datasets.records import Request, View
from slowfast.datasets.samplers import EvalSampler, TrainSampler
from slowfast.datasets.view_groups import ViewGroups


def train_sampler(
    num_videos: int = 20,
    *,
    labels: list[int] | None = None,
    batch_size: int = 3,
    micro_batches_per_step: int = 1,
    views_per_video: int = 2,
    seed: int = 4,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = True,
) -> TrainSampler:
    return TrainSampler(
        UniformOrder(num_videos) if labels is None else BalancedOrder(labels),
        batch_size=batch_size,
        micro_batches_per_step=micro_batches_per_step,
        views_per_video=views_per_video,
        seed=seed,
        rank=rank,
        world_size=world_size,
        drop_last=drop_last,
    )


def video_indices(batches: Iterable[list[Request]]) -> list[list[int]]:
    return [[request.video_index for request in batch] for batch in batches]


def test_an_epoch_is_shuffled_and_drops_the_incomplete_step() -> None:
    batches = video_indices(train_sampler())
    assert [len(batch) for batch in batches] == [3] * 6

    videos = list(chain(*batches))
    assert len(set(videos)) == 18
    assert videos != sorted(videos)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    sampler = train_sampler()
    first = list(sampler)
    assert list(train_sampler()) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(train_sampler(seed=5)) != first


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_a_step_is_the_same_on_any_number_of_processes(world_size: int) -> None:
    alone = list(train_sampler(batch_size=6))
    shared = [
        list(train_sampler(batch_size=6 // world_size, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert [list(chain(*step)) for step in zip(*shared, strict=True)] == alone


def test_a_training_request_carries_seed_epoch_and_video() -> None:
    sampler = train_sampler()
    sampler.set_epoch(7)
    request = next(iter(sampler))[0]
    assert request.seed == (4, 7, request.video_index)
    assert [view.number for view in request.views] == [0, 1]


def test_dropping_the_last_step_draws_what_it_always_drew() -> None:
    # Golden: runs that began before TRAIN.DROP_LAST and TRAIN.SAMPLING resume with the same clips.
    sampler = train_sampler()
    sampler.set_epoch(7)
    batches = [[3, 5, 7], [13, 18, 4], [10, 6, 15], [8, 0, 1], [17, 16, 9], [19, 12, 2]]
    assert video_indices(sampler) == batches
    assert next(iter(sampler))[0].seed == (4, 7, 3)

    sampler = train_sampler(1000, batch_size=4, micro_batches_per_step=2, rank=1, world_size=3)
    sampler.set_epoch(7, first_step=1)
    text = repr([[tuple(request) for request in batch] for batch in sampler])
    assert sha256(text.encode()).hexdigest()[:16] == "6283f829a256b9be"


def test_a_pass_may_end_before_the_epoch_does() -> None:
    sampler = train_sampler(24, batch_size=2, micro_batches_per_step=2)
    sampler.set_epoch(7)
    whole = video_indices(sampler)
    assert len(whole) == 12

    sampler.set_epoch(7, first_step=1, end_step=3)
    assert video_indices(sampler) == whole[2:6]
    assert len(sampler) == 4
    assert sampler.num_steps == 6

    sampler.set_epoch(7, first_step=5, end_step=9)
    assert video_indices(sampler) == whole[10:]
    sampler.set_epoch(7)
    assert video_indices(sampler) == whole


def test_too_few_videos_for_a_step_are_an_error() -> None:
    message = (
        "3 videos cannot be shared by 8 processes with 1 video per step each. Use at least 8 "
        "videos, a smaller TRAIN.BATCH_SIZE, or TRAIN.DROP_LAST False"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train_sampler(3, batch_size=1, world_size=8)


# ---- The incomplete last step --------------------------------------------------------------------


def test_the_last_step_is_divided_over_the_micro_batches() -> None:
    # 20 videos, steps of 4 micro-batches of 4: one whole step, then 4 videos, one for each of them.
    sampler = train_sampler(batch_size=4, micro_batches_per_step=4, drop_last=False)
    assert (sampler.num_steps, len(sampler), sampler.num_dropped) == (2, 8, 0)
    batches = video_indices(sampler)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 1, 1, 1, 1]
    assert sorted(chain(*batches)) == list(range(20))


def test_first_videos_of_the_epoch_fill_up_the_last_step() -> None:
    # 20 videos, steps of 3 micro-batches of 5: the 5 left make 3 of 2, so the first video repeats.
    sampler = train_sampler(batch_size=5, micro_batches_per_step=3, drop_last=False)
    batches = video_indices(sampler)
    assert [len(batch) for batch in batches] == [5, 5, 5, 2, 2, 2]
    assert batches[-1][-1] == batches[0][0]
    shown = list(chain(*batches))
    assert sorted(shown[:-1]) == list(range(20))


def test_a_repeated_video_is_seeded_by_its_repetition() -> None:
    # 1 video for 2 * 2 micro-batches of 3 videos: each of them shows it once.
    seeds = []
    for rank in range(2):
        sampler = train_sampler(
            1, micro_batches_per_step=2, rank=rank, world_size=2, drop_last=False
        )
        sampler.set_epoch(7)
        seeds += [request.seed for request in chain(*sampler)]
    assert seeds == [(4, 7, 0), (4, 7, 0, 1), (4, 7, 0, 2), (4, 7, 0, 3)]


def list_micro_batches(
    num_videos: int, *, labels: list[int] | None, micro_batches_per_step: int, world_size: int
) -> list[list[Request]]:
    """Return the micro-batches of an epoch with steps of 16 videos, by step and rank."""
    ranks = [
        iter(
            train_sampler(
                num_videos,
                labels=labels,
                batch_size=2,
                micro_batches_per_step=micro_batches_per_step,
                rank=rank,
                world_size=world_size,
                drop_last=False,
            )
        )
        for rank in range(world_size)
    ]

    found = []
    num_steps = -(-num_videos // 16)
    for _ in range(num_steps):
        for batches in ranks:
            found += [next(batches) for _ in range(micro_batches_per_step)]
    return found


@pytest.mark.parametrize("num_videos", [1, 5, 8, 16, 17, 24, 30])
@pytest.mark.parametrize(("world_size", "micro_batches_per_step"), [(1, 8), (2, 4), (4, 2), (8, 1)])
@pytest.mark.parametrize("num_classes", [0, 1, 3])
def test_a_kept_step_is_the_same_on_any_number_of_processes(
    num_videos: int, world_size: int, micro_batches_per_step: int, num_classes: int
) -> None:
    labels = [number**2 % num_classes for number in range(num_videos)] if num_classes else None

    alone = list_micro_batches(num_videos, labels=labels, micro_batches_per_step=8, world_size=1)
    shared = list_micro_batches(
        num_videos,
        labels=labels,
        micro_batches_per_step=micro_batches_per_step,
        world_size=world_size,
    )
    assert shared == alone
    assert len({len(batch) for batch in alone[-8:]}) == 1  # so the mean over micro-batches is plain

    seeds = [request.seed for request in chain(*alone)]
    assert len(set(seeds)) == len(seeds) < num_videos + 8


@pytest.mark.parametrize("labels", [None, [0] * 12 + [3] * 5 + [9] * 4])
def test_an_epoch_may_begin_at_its_last_step(labels: list[int] | None) -> None:
    sampler = train_sampler(21, labels=labels, micro_batches_per_step=2, drop_last=False)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.set_epoch(3, first_step=3)
    assert list(sampler) == whole[6:]
    assert [len(batch) for batch in whole] == [3, 3, 3, 3, 3, 3, 2, 2]


# ---- Evaluation ----------------------------------------------------------------------------------


def eval_sampler(num_videos: int, *, rank: int, world_size: int) -> EvalSampler:
    return EvalSampler(
        ViewGroups(num_videos, 6, 12),
        num_clips=2,
        num_crops=3,
        videos_per_batch=2,
        rank=rank,
        world_size=world_size,
    )


def list_batches(num_videos: int, *, world_size: int) -> list[list[Request]]:
    """Return the batches of all processes, rank by rank."""
    samplers = [
        eval_sampler(num_videos, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    return list(chain(*samplers))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("num_videos", [1, 7, 16])
def test_every_view_is_requested_once(num_videos: int, world_size: int) -> None:
    requested = []
    for request in chain(*list_batches(num_videos, world_size=world_size)):
        requested += [(request.video_index, view.clip, view.crop) for view in request.views]

    assert sorted(requested) == list(product(range(num_videos), range(2), range(3)))


@pytest.mark.parametrize("world_size", [2, 3])
def test_batches_are_the_same_on_any_number_of_processes(world_size: int) -> None:
    alone = list_batches(11, world_size=1)
    assert sorted(list_batches(11, world_size=world_size)) == alone


def test_one_crop_is_the_center() -> None:
    sampler = EvalSampler(
        ViewGroups(1, 2, 2), num_clips=2, num_crops=1, videos_per_batch=1, rank=0, world_size=1
    )
    assert sampler.views == (View(0, clip=0, crop=1), View(1, clip=1, crop=1))
