"""Groups of views: whole videos per forward pass, passes of one size, and padding."""

from itertools import chain

import numpy as np
import pytest
import torch

from slowfast.datasets.records import Batch, UnreadableVideo
from slowfast.datasets.samplers import EvalSampler
from slowfast.datasets.view_groups import ViewGroup, ViewGroups, group_views


@pytest.mark.parametrize(
    ("num_views", "views_per_forward", "expected"),
    [
        # Videos per group, passes per group, views per pass.
        (1, 16, (16, 1, 16)),
        (3, 16, (5, 1, 15)),
        (12, 16, (1, 1, 12)),
        (30, 16, (1, 2, 15)),
        (12, 8, (1, 2, 6)),
        (7, 4, (1, 2, 4)),  # the second pass has a view of padding
        (5, 1, (1, 5, 1)),
    ],
)
def test_groups_of_a_long_list_by_hand(
    num_views: int, views_per_forward: int, expected: tuple[int, int, int]
) -> None:
    groups = ViewGroups(1003, num_views, views_per_forward)
    sizes = groups.videos_per_group, groups.passes_per_group, groups.views_per_pass
    assert sizes == expected
    assert list(chain(*map(groups.videos, range(groups.num_groups)))) == list(range(1003))


def test_a_short_list_needs_no_larger_passes_than_it_has_views() -> None:
    groups = ViewGroups(3, 2, 64)
    assert (groups.num_groups, groups.views_per_pass) == (1, 6)


def make_batch(rows: list[int], *, num_views: int, unreadable: tuple[int, ...] = ()) -> Batch:
    """Return a batch whose frames hold 100 * row + view."""
    pairs = [(row, view) for row in rows if row not in unreadable for view in range(num_views)]
    values = torch.tensor([float(100 * row + view) for row, view in pairs])
    return Batch(
        values[:, None, None, None, None].expand(-1, 1, 1, 1, 1),
        labels=torch.zeros(len(pairs)),
        video_indices=torch.tensor([row for row, _ in pairs], dtype=torch.long),
        view_indices=torch.tensor([view for _, view in pairs], dtype=torch.long),
        unreadable=tuple(UnreadableVideo(row, f"{row}: gone") for row in rows if row in unreadable),
    )


def collect(
    batch_size: int, *, groups: ViewGroups, unreadable: tuple[int, ...] = ()
) -> list[ViewGroup]:
    rows = list(range(groups.num_videos))
    batches = (
        make_batch(rows[i : i + batch_size], num_views=groups.num_views, unreadable=unreadable)
        for i in range(0, len(rows), batch_size)
    )
    return list(group_views(batches, groups))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
@pytest.mark.parametrize("unreadable", [(), (0,), (2, 3), (4,), tuple(range(7))])
def test_groups_are_the_same_for_any_batches(batch_size: int, unreadable: tuple[int, ...]) -> None:
    groups = ViewGroups(7, 3, 6)
    found = collect(batch_size, groups=groups, unreadable=unreadable)

    for number, group in enumerate(found):
        videos = groups.videos(number)
        assert group.videos.tolist() == list(videos)
        assert group.unreadable == {row: f"{row}: gone" for row in videos if row in unreadable}
        values = [
            0.0 if row in unreadable else 100.0 * row + view for row in videos for view in range(3)
        ]
        values += [0.0] * (groups.passes_per_group * groups.views_per_pass - len(values))
        assert group.frames.flatten().tolist() == values
        assert group.frames.shape[:2] == (1, 6)
    assert len(found) == 4


def test_a_video_of_many_views_takes_several_passes() -> None:
    groups = ViewGroups(2, 7, 4)
    first, second = collect(2, groups=groups)
    assert first.frames.shape == (2, 4, 1, 1, 1, 1)
    assert second.frames.flatten().tolist() == [100.0, 101, 102, 103, 104, 105, 106, 0]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("selected", [[], [0], [3], [0, 2, 3], [1, 2]])
def test_selected_groups_are_shared_anew(world_size: int, selected: list[int]) -> None:
    groups = ViewGroups(11, 1, 3)
    requested = []
    for rank in range(world_size):
        sampler = EvalSampler(
            groups, num_clips=1, num_crops=1, videos_per_batch=2, rank=rank, world_size=world_size
        )
        sampler.select(np.array(selected, np.int64))
        batches = list(sampler)
        assert len(sampler) == len(batches)
        own = [request.video_index for request in chain(*batches)]
        assert own == sorted(own)
        requested += own
    expected = list(chain(*map(groups.videos, selected)))
    assert sorted(requested) == expected
    assert groups.num_videos_of(np.array(selected, np.int64)) == len(expected)
