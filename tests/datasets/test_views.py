import pytest

from slowfast.datasets.records import View
from slowfast.datasets.views import AllViews, RandomViews


def random_views(num_videos: int = 20, **settings: int) -> RandomViews:
    defaults = {"batch_size": 3, "views_per_video": 2, "seed": 4, "rank": 0, "world_size": 1}
    return RandomViews(num_videos, **(defaults | settings))


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
        list(random_views(batch_size=6 // world_size, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert [[request for batch in step for request in batch] for step in zip(*shared, strict=True)] == alone


def test_a_training_request_carries_seed_epoch_and_video() -> None:
    views = random_views()
    views.set_epoch(7)
    request = next(iter(views))[0]
    assert request.seed == (4, 7, request.video)
    assert [view.number for view in request.views] == [0, 1]


def test_too_few_videos_says_so() -> None:
    with pytest.raises(ValueError, match="3 videos cannot be shared by 8 processes"):
        random_views(3, batch_size=1, world_size=8)


def all_views(num_videos: int, *, rank: int, world_size: int) -> AllViews:
    return AllViews(num_videos, num_clips=2, num_crops=3, videos_per_batch=2, rank=rank, world_size=world_size)


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
    shared = [batch for rank in range(world_size) for batch in all_views(11, rank=rank, world_size=world_size)]
    assert sorted(shared) == alone


def test_one_crop_is_the_centre() -> None:
    views = AllViews(1, num_clips=2, num_crops=1, videos_per_batch=1, rank=0, world_size=1).views
    assert views == (View(0, clip=0, crop=1), View(1, clip=1, crop=1))
