"""Which views of which videos a process loads: samplers of batches of requests, without padding."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from slowfast.datasets.records import Request, View

CENTRE_CROP = 1


class RandomViews(Sampler[list[Request]]):
    """Batches for one epoch of training: a shuffled pass over the videos, the last incomplete step left out.

    The order of the videos is a function of the seed and the epoch, and step s of all processes together takes the
    same videos however many processes share them, and in however many parts each process takes its share.

    Args:
        num_videos: in the list.
        batch_size: videos per part of a step.
        parts_per_step: batches that this process takes for one step.
        views_per_video: augmented copies of each video.
        seed: of the run.
        rank: of this process.
        world_size: processes.

    Raises:
        ValueError: the videos do not fill one step.
    """

    def __init__(
        self,
        num_videos: int,
        *,
        batch_size: int,
        parts_per_step: int = 1,
        views_per_video: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        per_step = batch_size * parts_per_step
        if num_videos < per_step * world_size:
            raise ValueError(
                f"{num_videos} videos cannot be shared by {world_size} processes with {per_step} videos per step "
                f"each; use at least {per_step * world_size} videos, or a smaller TRAIN.BATCH_SIZE"
            )
        self.num_videos = num_videos
        self.batch_size = batch_size
        self.parts_per_step = parts_per_step
        self.views = tuple(View(number, clip=0, crop=CENTRE_CROP) for number in range(views_per_video))
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.first_step = 0

    def set_epoch(self, epoch: int, *, first_step: int = 0) -> None:
        """Choose the epoch, from 0, of the next iteration, and the step with which it begins."""
        self.epoch = epoch
        self.first_step = first_step

    @property
    def num_steps(self) -> int:
        """Steps of a whole epoch."""
        return self.num_videos // (self.batch_size * self.parts_per_step * self.world_size)

    def __len__(self) -> int:
        return (self.num_steps - self.first_step) * self.parts_per_step

    def __iter__(self) -> Iterator[list[Request]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_videos)
        for step in range(self.first_step, self.num_steps):
            first_part = (step * self.world_size + self.rank) * self.parts_per_step
            for part in range(first_part, first_part + self.parts_per_step):
                videos = order[part * self.batch_size : (part + 1) * self.batch_size]
                yield [self.request(video) for video in videos.tolist()]

    def request(self, video: int) -> Request:
        """Return what is asked of a video in the epoch that was chosen."""
        return Request(video, self.views, seed=(self.seed, self.epoch, video))


class AllViews(Sampler[list[Request]]):
    """Batches that ask for all views of every video, each once over all processes.

    Batches are made in the order of the list before they are dealt out, so that the videos that share a forward pass
    are the same on any number of processes with this batch size.

    Args:
        num_videos: in the list.
        num_clips: temporal clips per video.
        num_crops: spatial crops per clip: 1 (the centre) or 3.
        videos_per_batch: of this process.
        rank: of this process.
        world_size: processes.
    """

    def __init__(
        self, num_videos: int, *, num_clips: int, num_crops: int, videos_per_batch: int, rank: int, world_size: int
    ) -> None:
        crops = [CENTRE_CROP] if num_crops == 1 else list(range(num_crops))
        looks = [(clip, crop) for clip in range(num_clips) for crop in crops]
        self.views = tuple(View(number, clip, crop) for number, (clip, crop) in enumerate(looks))
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
