"""Scores of an evaluation: the scores of all views of each video, summed over the views."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from slowfast.datasets.records import UnreadableVideo
from slowfast.distributed.collectives import device, gather_over_ranks, sum_over_ranks


class ScoreTable:
    """Summed scores of each video of a list, and the reasons why some videos have none.

    Args:
        num_videos: Number of videos, the rows of the table.
        num_views: Number of views that each video must have in the end.
        num_classes: Number of classes, the columns of the table.
        are_probabilities: Whether the scores are softmax probabilities instead of logits.
    """

    def __init__(
        self,
        num_videos: int,
        *,
        num_views: int,
        num_classes: int,
        are_probabilities: bool = False,
    ) -> None:
        self.num_views = num_views
        self.are_probabilities = are_probabilities
        self.scores = torch.zeros(num_videos, num_classes)
        self.times_scored = torch.zeros(num_videos, num_views, dtype=torch.int32)
        self.unreadable: list[UnreadableVideo] = []
        self.nonfinite: list[UnreadableVideo] = []  # non-finite scores are never right

    def add(self, scores: Tensor, *, video: Tensor, view: Tensor) -> None:
        """Add the scores of some views, shape (B, K), to their videos.

        Args:
            scores: Scores of shape (B, K).
            video: Row of the video of each view, shape (B,).
            view: Index of each view among those of its video, shape (B,).
        """
        self.scores.index_add_(0, video, scores)
        once = torch.ones_like(view, dtype=torch.int32)
        self.times_scored.index_put_((video, view), once, accumulate=True)

    def add_unreadable(self, videos: Sequence[UnreadableVideo]) -> None:
        """Add videos that have no scores because they could not be read."""
        self.unreadable += videos

    @property
    def unscored(self) -> list[UnreadableVideo]:
        """The videos without scores, in the order of the list."""
        return sorted([*self.unreadable, *self.nonfinite])

    @property
    def is_scored(self) -> Tensor:
        """Whether each video has scores, shape (N,), bool."""
        is_scored = torch.ones(len(self.scores), dtype=torch.bool)
        is_scored[[unscored.video_index for unscored in self.unscored]] = False
        return is_scored

    def combine(self, *, video_name: Callable[[int], str] = str) -> None:
        """Combine the rows of all processes, in every process. Call it once, at the end.

        Args:
            video_name: Function from a row to the path of its video.

        Raises:
            RuntimeError: If a view is missing or was scored twice.
        """
        self.unreadable = sorted(gather_over_ranks(self.unreadable))
        # Each video is scored by one process, so every sum has one nonzero term and is exact.
        self.scores = sum_over_ranks(self.scores.to(device())).cpu()
        self.times_scored = sum_over_ranks(self.times_scored.to(device())).cpu()

        expected = self.is_scored.int()[:, None].expand_as(self.times_scored)
        if not torch.equal(self.times_scored, expected):
            video, view = (self.times_scored != expected).nonzero()[0].tolist()
            raise RuntimeError(
                f"view {view} of video {video} was scored {self.times_scored[video, view]} times "
                f"instead of {expected[video, view]}"
            )

        nonfinite_rows = (~self.scores.isfinite().all(dim=1)).nonzero().flatten().tolist()
        self.nonfinite = [
            UnreadableVideo(row, f"{video_name(row)}: its scores are not finite")
            for row in nonfinite_rows
        ]


class PendingScores:
    """Scores on their way from the device. The host waits for them only to add them to a table.

    Args:
        scores: Scores of shape (B, K) on the device.
        video: Row of the video of each view, shape (B,), on the host.
        view: Index of each view among those of its video, shape (B,), on the host.
    """

    def __init__(self, scores: Tensor, *, video: Tensor, view: Tensor) -> None:
        self._video = video
        self._view = view
        self._scores = scores
        self._copied: torch.cuda.Event | None = None
        if scores.is_cuda:
            self._scores = torch.empty(scores.shape, pin_memory=True)
            self._scores.copy_(scores, non_blocking=True)
            self._copied = torch.cuda.Event(blocking=True)
            self._copied.record()

    def add_to(self, table: ScoreTable) -> None:
        """Wait for the scores and add them to a table."""
        if self._copied is not None:
            self._copied.synchronize()
        table.add(self._scores, video=self._video, view=self._view)
