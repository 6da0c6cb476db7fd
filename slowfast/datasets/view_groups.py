"""Groups of views: how the views of a list are cut into forward passes of one fixed size.

The kernels of float32 are not invariant to the size of a batch, so a score depends on what it is
computed with. A group always takes the same videos, in the same order, whatever the number of
processes, the batches of the loader, and the moment at which a test was killed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # The tools that read results need no torch.
    from torch import Tensor

    from slowfast.datasets.records import Batch


@dataclass(frozen=True)
class ViewGroups:
    """Cuts all views of a list into groups: several whole videos, or one that takes several passes.

    Args:
        num_videos: Number of videos of the list, at least 1.
        num_views: Number of views of each video.
        views_per_forward: Largest number of views in a forward pass, TEST.VIEWS_PER_FORWARD.
        fills_passes: Whether a short list is cut like a long one, with the same forward passes.
    """

    num_videos: int
    num_views: int
    views_per_forward: int
    fills_passes: bool = False

    @property
    def videos_per_group(self) -> int:
        """Number of videos of a group. The last group may have fewer."""
        num_videos = max(self.views_per_forward // self.num_views, 1)
        return num_videos if self.fills_passes else min(num_videos, self.num_videos)

    @property
    def num_groups(self) -> int:
        """Number of groups of the list."""
        return -(-self.num_videos // self.videos_per_group)

    @property
    def passes_per_group(self) -> int:
        """Number of forward passes of a group."""
        return -(-self._views_per_group // self.views_per_forward)

    @property
    def views_per_pass(self) -> int:
        """Number of views of every forward pass. What is missing is filled up with zeros."""
        return -(-self._views_per_group // self.passes_per_group)

    def videos(self, group: int) -> range:
        """Return the rows of the videos of a group."""
        start = group * self.videos_per_group
        return range(start, min(start + self.videos_per_group, self.num_videos))

    def num_videos_of(self, groups: NDArray[np.int64]) -> int:
        """Return the number of videos of some groups, in ascending order."""
        num_missing = 0  # in the last group of the list
        if self.num_groups - 1 in groups[-1:]:
            num_missing = self.num_groups * self.videos_per_group - self.num_videos
        return len(groups) * self.videos_per_group - num_missing

    @property
    def _views_per_group(self) -> int:
        return self.videos_per_group * self.num_views


class ViewGroup(NamedTuple):
    """Frames of all views of some videos."""

    videos: NDArray[np.int64]  # (N,), rows of the annotation list
    frames: "Tensor"  # (P, B, C, T, H, W): P passes of B views, video by video, padded with zeros
    unreadable: dict[int, str]  # reason by row. Such a video has zeros for frames.


def group_views(batches: "Iterable[Batch]", groups: ViewGroups) -> Iterator[ViewGroup]:
    """Iterate over the groups that make up some batches.

    Args:
        batches: Batches of all views of videos. Their videos are those of whole groups, in order,
            but a batch may end anywhere.
        groups: How the list is cut into groups.
    """
    group: ViewGroup | None = None
    num_missing = 0
    for batch in batches:
        for row, frames, reason in _videos_of(batch, groups.num_views):
            if group is None:
                group = _empty_group(groups, row, like=batch.frames)
                num_missing = len(group.videos)

            if frames is None:
                group.unreadable[row] = reason
            else:
                first = (row - int(group.videos[0])) * groups.num_views
                group.frames.flatten(0, 1)[first : first + groups.num_views] = frames
            num_missing -= 1
            if num_missing == 0:
                yield group
                group = None


def _empty_group(groups: ViewGroups, row: int, *, like: "Tensor") -> ViewGroup:
    """Return the group that a video belongs to, without any frames."""
    videos = groups.videos(row // groups.videos_per_group)
    shape = groups.passes_per_group, groups.views_per_pass, *like.shape[1:]
    return ViewGroup(np.array(videos), like.new_zeros(shape), unreadable={})


def _videos_of(batch: "Batch", num_views: int) -> "Iterator[tuple[int, Tensor | None, str]]":
    """Iterate over the row, the frames or None, and the reason of each requested video."""
    found: list[tuple[int, Tensor | None, str]] = [
        (video.video_index, None, video.reason) for video in batch.unreadable
    ]
    rows = batch.video_indices[::num_views].tolist()
    for row, frames in zip(rows, batch.frames.split(num_views), strict=False):
        found.append((row, frames, ""))
    yield from sorted(found, key=lambda video: video[0])
