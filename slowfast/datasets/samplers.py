"""Which views of which videos a process loads: samplers of batches of requests."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from slowfast.datasets.epoch_draws import BalancedDraws, Draws, UniformDraws, padding
from slowfast.datasets.records import Request, View
from slowfast.utils.text import count

CENTRE_CROP = 1


class RandomViews(Sampler[list[Request]]):
    """Batches for one epoch of training: its draws in random order, divided into equal parts.

    What is drawn is a function of the seed and the epoch, and step s of all processes together
    takes the same videos however many processes share them, and in however many parts each process
    takes its share. If the last step is incomplete, it is left out, or its videos are divided over
    all parts: each takes as many, and the first videos of the epoch fill up what is missing.

    Args:
        draws: The videos of an epoch.
        batch_size: Number of videos per part of a step.
        parts_per_step: Number of batches that this process takes for one step.
        views_per_video: Number of augmented copies of each video.
        seed: Seed of the run.
        rank: Rank of this process.
        world_size: Number of processes.
        drop_last: Whether the last incomplete step of an epoch is left out.

    Raises:
        ValueError: The videos do not fill one step, and an incomplete one is left out.
    """

    def __init__(
        self,
        draws: UniformDraws | BalancedDraws,
        *,
        batch_size: int,
        parts_per_step: int = 1,
        views_per_video: int,
        seed: int,
        rank: int,
        world_size: int,
        drop_last: bool = True,
    ) -> None:
        num_videos, per_step = draws.num_videos, batch_size * parts_per_step
        if drop_last and num_videos < per_step * world_size:
            raise ValueError(
                f"{count(num_videos, 'video')} cannot be shared by {count(world_size, 'process')} with "
                f"{count(per_step, 'video')} per step each; use at least {per_step * world_size} "
                "videos, a smaller TRAIN.BATCH_SIZE, or TRAIN.DROP_LAST False"
            )
        self.draws = draws
        self.batch_size = batch_size
        self.parts_per_step = parts_per_step
        self.views = tuple(
            View(number, clip=0, crop=CENTRE_CROP) for number in range(views_per_video)
        )
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.drop_last = drop_last
        self.epoch = 0
        self.first_step = 0

    def set_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        """Choose the epoch, from 0, of the next iteration, and the step with which it begins."""
        self.epoch = epoch
        self.first_step = first_step

    @property
    def videos_per_step(self) -> int:
        """Videos of a whole step, over all processes."""
        return self.batch_size * self.parts_per_step * self.world_size

    @property
    def num_steps(self) -> int:
        """Steps of a whole epoch."""
        num_whole, num_left = divmod(self.draws.num_videos, self.videos_per_step)
        return num_whole if self.drop_last or not num_left else num_whole + 1

    @property
    def num_dropped(self) -> int:
        """Draws of each epoch that no step takes."""
        return max(self.draws.num_videos - self.num_steps * self.videos_per_step, 0)

    def __len__(self) -> int:
        return (self.num_steps - self.first_step) * self.parts_per_step

    def __iter__(self) -> Iterator[list[Request]]:
        drawn = self.draws(np.random.default_rng((self.seed, self.epoch)))
        for step in range(self.first_step, self.num_steps):
            videos, repetitions = self._draws_of(step, drawn)

            part_size = len(videos) // (self.parts_per_step * self.world_size)
            first_part = self.rank * self.parts_per_step
            for part in range(first_part, first_part + self.parts_per_step):
                own = slice(part * part_size, (part + 1) * part_size)
                pairs = zip(videos[own].tolist(), repetitions[own].tolist(), strict=True)
                yield [self.request(video, repetition) for video, repetition in pairs]

    def request(self, video: int, repetition: int = 0) -> Request:
        """Return what is asked of a video in the epoch that was chosen.

        Args:
            video: The row of the list.
            repetition: The number of other draws of the video in this epoch that count before this
                one. Each of them has a seed, and so a clip, of its own.
        """
        seed = (self.seed, self.epoch, video)
        return Request(video, self.views, seed=(*seed, repetition) if repetition else seed)

    def _draws_of(self, step: int, drawn: Draws) -> Draws:
        """Return the draws of a step, a multiple of the number of its parts."""
        own = slice(step * self.videos_per_step, (step + 1) * self.videos_per_step)
        taken = Draws(drawn.videos[own], drawn.repetitions[own])

        num_missing = -len(taken.videos) % (self.parts_per_step * self.world_size)
        if num_missing == 0:
            return taken
        added = padding(drawn, num_missing)
        return Draws(
            np.concatenate([taken.videos, added.videos]),
            np.concatenate([taken.repetitions, added.repetitions]),
        )


class AllViews(Sampler[list[Request]]):
    """Batches that ask for all views of every video, each once over all processes.

    Batches are made in the order of the list before they are dealt out, so that the videos that share a forward pass
    are the same on any number of processes with this batch size.

    Args:
        num_videos: in the list.
        num_clips: temporal clips per video.
        num_crops: spatial crops per clip: 1 (the center) or 3.
        videos_per_batch: of this process.
        rank: of this process.
        world_size: processes.
    """

    def __init__(
        self,
        num_videos: int,
        *,
        num_clips: int,
        num_crops: int,
        videos_per_batch: int,
        rank: int,
        world_size: int,
    ) -> None:
        crops = [CENTRE_CROP] if num_crops == 1 else list(range(num_crops))
        looks = [(clip, crop) for clip in range(num_clips) for crop in crops]
        self.views = tuple(View(number, clip, crop) for number, (clip, crop) in enumerate(looks))
        self.batch_size = min(videos_per_batch, num_videos)
        self.batches = [
            range(start, min(start + videos_per_batch, num_videos))
            for start in range(rank * videos_per_batch, num_videos, world_size * videos_per_batch)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Request]]:
        for videos in self.batches:
            yield [self.request(video) for video in videos]

    def request(self, video: int) -> Request:
        """Return what is asked of a video."""
        return Request(video, self.views, seed=None)
