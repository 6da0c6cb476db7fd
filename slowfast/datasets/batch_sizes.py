"""Batch sizes of a run, over all processes and for one of them."""

from dataclasses import dataclass

from slowfast.distributed.collectives import share_of, world_size


@dataclass(frozen=True)
class BatchSizes:
    """Number of videos, clips and views that all processes of a run take for one step together.

    Attributes:
        videos_per_step: Videos of a training step.
        copies_per_video: Augmented clips of each video of a training step.
        views_per_test_batch: Views that all processes load at once in validation and testing.
    """

    videos_per_step: int
    copies_per_video: int
    views_per_test_batch: int

    @property
    def clips_per_step(self) -> int:
        """Clips of a training step."""
        return self.videos_per_step * self.copies_per_video

    @property
    def videos_per_process(self) -> int:
        """Videos that this process takes for a training step.

        Raises:
            ValueError: If the processes cannot share a step equally.
        """
        return share_of(self.videos_per_step, key="TRAIN.BATCH_SIZE")

    def eval_videos_per_process(self, num_views: int) -> int:
        """Return how many videos this process loads at once in validation and testing.

        Args:
            num_views: Number of views of each video.
        """
        return max(self.views_per_test_batch // (world_size() * num_views), 1)
