"""The training videos that cannot be read: each is named once, all are counted, and there is a limit."""

import logging
from collections.abc import Sequence

from slowfast.datasets.records import DecodeError, UnreadableVideo
from slowfast.distributed.collectives import gather_over_ranks, is_main

logger = logging.getLogger(__name__)


class UnreadableVideos:
    """Names the unreadable videos of a run, and ends it when an epoch has too many of them.

    Args:
        num_videos: Number of videos in the list.
        max_fraction: Largest share of them that may be unreadable in an epoch.
    """

    def __init__(self, num_videos: int, *, max_fraction: float) -> None:
        self.num_videos = num_videos
        self.max_fraction = max_fraction
        self._new: list[UnreadableVideo] = []  # of this process
        self._named: set[int] = set()

    def add(self, unreadable: Sequence[UnreadableVideo]) -> None:
        """Note what a step of this process could not read."""
        self._new += unreadable

    def report(self, rows: set[int]) -> None:
        """Name the new ones, add their rows to those of the epoch, and compare these with the limit.

        All processes call it together, after a step in which some process could not read a video.

        Args:
            rows: Rows of the unreadable videos of this epoch, over all processes; grows.

        Raises:
            DecodeError: There are too many. The message names the last one.
        """
        found = gather_over_ranks(self._new)
        self._new = []
        for unreadable in found:
            if unreadable.video not in self._named and is_main():
                logger.warning(
                    "another video takes the place of one that cannot be read: %s",
                    unreadable.reason,
                )
            self._named.add(unreadable.video)

        rows.update(unreadable.video for unreadable in found)
        if len(rows) > self.max_fraction * self.num_videos:
            raise DecodeError(
                f"{len(rows)} of {self.num_videos} training videos could not be read in this epoch, more than "
                f"DATA.MAX_BAD_FRACTION={self.max_fraction} allows, the last because of {found[-1].reason}; find the "
                "bad ones with tools/check_data.py and leave them out with DATA.MANIFEST"
            )
