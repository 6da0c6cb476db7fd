"""Batch samplers: the views of videos that a process loads, batch by batch."""

from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from slowfast.datasets.epoch_order import BalancedOrder, EpochOrder, UniformOrder, draw_padding
from slowfast.datasets.records import Request, View
from slowfast.datasets.view_groups import ViewGroups
from slowfast.utils.text import count

CENTER_CROP = 1


class TrainSampler(Sampler[list[Request]]):
    """Micro-batches of one training epoch, in random order.

    The order is a function of the seed and the epoch. Step s of all processes together takes the
    same videos for any number of processes and any number of micro-batches. An incomplete last step
    is either dropped or divided equally over all micro-batches. The first videos of the epoch fill
    up what is missing then.

    Args:
        order: Order of the videos of an epoch.
        batch_size: Number of videos in a micro-batch.
        micro_batches_per_step: Number of micro-batches that this process takes for one step.
        views_per_video: Number of augmented copies of each video.
        seed: Seed of the run.
        rank: Rank of this process.
        world_size: Number of processes.
        drop_last: Whether to drop the last step of an epoch if it is incomplete.

    Raises:
        ValueError: If the videos do not fill one step and `drop_last` is set.
    """

    def __init__(
        self,
        order: UniformOrder | BalancedOrder,
        *,
        batch_size: int,
        micro_batches_per_step: int = 1,
        views_per_video: int,
        seed: int,
        rank: int,
        world_size: int,
        drop_last: bool = True,
    ) -> None:
        self.order = order
        self.batch_size = batch_size
        self.micro_batches_per_step = micro_batches_per_step
        self.views = tuple(
            View(number, clip=0, crop=CENTER_CROP) for number in range(views_per_video)
        )
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.drop_last = drop_last
        self.set_epoch(0)

        if drop_last and order.num_videos < self.videos_per_step:
            raise ValueError(
                f"{count(order.num_videos, 'video')} cannot be shared by "
                f"{count(world_size, 'process')} with "
                f"{count(batch_size * micro_batches_per_step, 'video')} per step each. Use at "
                f"least {self.videos_per_step} videos, a smaller TRAIN.BATCH_SIZE, or "
                "TRAIN.DROP_LAST False"
            )

    def set_epoch(self, epoch: int, *, first_step: int = 0, end_step: int | None = None) -> None:
        """Set the 0-based epoch of the next iteration, and its steps.

        Args:
            epoch: Number of the epoch, from 0.
            first_step: Step at which the iteration starts.
            end_step: Step before which it ends. None for the whole epoch.
        """
        self.epoch = epoch
        self.first_step = first_step
        self.end_step = self.num_steps if end_step is None else min(end_step, self.num_steps)

    @property
    def videos_per_step(self) -> int:
        """Number of videos in a complete step over all processes."""
        return self.batch_size * self._num_micro_batches

    @property
    def num_steps(self) -> int:
        """Number of steps in a whole epoch."""
        num_complete, num_left = divmod(self.order.num_videos, self.videos_per_step)
        return num_complete if self.drop_last or not num_left else num_complete + 1

    @property
    def num_dropped(self) -> int:
        """Number of draws of each epoch that no step takes."""
        return max(self.order.num_videos - self.num_steps * self.videos_per_step, 0)

    def __len__(self) -> int:
        return (self.end_step - self.first_step) * self.micro_batches_per_step

    def __iter__(self) -> Iterator[list[Request]]:
        epoch_order = self.order(np.random.default_rng((self.seed, self.epoch)))
        first_index = self.rank * self.micro_batches_per_step

        for step in range(self.first_step, self.end_step):
            videos, repetitions = self._select_step(step, epoch_order)
            size = len(videos) // self._num_micro_batches

            for index in range(first_index, first_index + self.micro_batches_per_step):
                own = slice(index * size, (index + 1) * size)
                pairs = zip(videos[own].tolist(), repetitions[own].tolist(), strict=True)
                yield [self.request(video, repetition) for video, repetition in pairs]

    def request(self, video_index: int, repetition: int = 0) -> Request:
        """Return the request for a video in the current epoch.

        Args:
            video_index: Row of the annotation list.
            repetition: How often the epoch has shown the video before. Each repetition has a seed,
                and thus a clip, of its own.
        """
        seed: tuple[int, ...] = (self.seed, self.epoch, video_index)
        if repetition:
            seed += (repetition,)
        return Request(video_index, self.views, seed)

    @property
    def _num_micro_batches(self) -> int:
        """Number of micro-batches in a step over all processes."""
        return self.micro_batches_per_step * self.world_size

    def _select_step(self, step: int, epoch_order: EpochOrder) -> EpochOrder:
        """Return the draws of a step, a multiple of the number of its micro-batches."""
        own = slice(step * self.videos_per_step, (step + 1) * self.videos_per_step)
        selected = EpochOrder(epoch_order.videos[own], epoch_order.repetitions[own])

        num_missing = -len(selected.videos) % self._num_micro_batches
        if num_missing == 0:
            return selected

        padding = draw_padding(epoch_order, num_missing)
        return EpochOrder(
            np.concatenate([selected.videos, padding.videos]),
            np.concatenate([selected.repetitions, padding.repetitions]),
        )


class EvalSampler(Sampler[list[Request]]):
    """Batches of all views of every video, each video on exactly one process.

    The processes share whole groups of videos, see `ViewGroups`. The batches cut the videos of a
    process into equal numbers, without regard to groups.

    Args:
        groups: How the list is cut into forward passes.
        num_clips: Number of temporal clips per video.
        num_crops: Number of spatial crops per clip, 1 for the center or 3.
        videos_per_batch: Number of videos in a batch.
        rank: Rank of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        groups: ViewGroups,
        *,
        num_clips: int,
        num_crops: int,
        videos_per_batch: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.views = make_views(num_clips, num_crops)
        self.groups = groups
        self.num_clips = num_clips
        self.num_crops = num_crops
        self.batch_size = min(videos_per_batch, groups.num_videos)
        self._rank = rank
        self._world_size = world_size
        self._own_groups = np.arange(rank, groups.num_groups, world_size)

    def select(self, groups: NDArray[np.int64]) -> None:
        """Load only some groups from now on, and share them anew.

        Args:
            groups: Indices of the groups in ascending order, the same in every process.
        """
        self._own_groups = groups[self._rank :: self._world_size]

    @property
    def own_groups(self) -> NDArray[np.int64]:
        """Indices of the groups of this process, in ascending order."""
        return self._own_groups

    def __len__(self) -> int:
        num_videos = self.groups.num_videos_of(self._own_groups)
        return -(-num_videos // self.batch_size)

    def __iter__(self) -> Iterator[list[Request]]:
        videos = chain.from_iterable(map(self.groups.videos, self._own_groups.tolist()))
        while batch := list(islice(videos, self.batch_size)):
            yield [self.request(video_index) for video_index in batch]

    def request(self, video_index: int) -> Request:
        """Return the request for all views of a video."""
        return Request(video_index, self.views, seed=None)


def make_views(num_clips: int, num_crops: int) -> tuple[View, ...]:
    """Return all views of a video, clip by clip.

    Args:
        num_clips: Number of temporal clips.
        num_crops: Number of spatial crops per clip, 1 for the center or 3.
    """
    crops = [CENTER_CROP] if num_crops == 1 else list(range(num_crops))
    views: list[View] = []
    for clip in range(num_clips):
        views += [View(len(views) + index, clip, crop) for index, crop in enumerate(crops)]
    return tuple(views)
