"""The training videos that cannot be read: named once, counted over all processes, and not more than is allowed."""

import logging
from collections.abc import Sequence

from slowfast.datasets.decode import DecodeError
from slowfast.datasets.records import Unread
from slowfast.utils.distributed import gather_over_ranks, is_main

logger = logging.getLogger(__name__)


class UnreadVideos:
    """What could not be read in a run, epoch by epoch.

    Args:
        num_videos: of the list.
        max_fraction: most of them that may fail in an epoch.
    """

    def __init__(self, num_videos: int, *, max_fraction: float) -> None:
        self.num_videos = num_videos
        self.max_fraction = max_fraction
        self.num_in_epoch = 0  # over all processes
        self._new: list[Unread] = []  # of this process
        self._named: set[int] = set()

    def start_epoch(self, *, num_before: int = 0) -> None:
        """Count anew, or on from the number before: an epoch asks for each video once."""
        self.num_in_epoch = num_before

    def add(self, unread: Sequence[Unread]) -> None:
        """Note what a batch of this process could not read."""
        self._new += unread

    def report(self) -> None:
        """Name the videos that were not named before; all processes call it at the same step.

        Raises:
            DecodeError: too many videos have failed in this epoch.
        """
        found = gather_over_ranks(self._new)
        self._new = []
        self.num_in_epoch += len(found)
        for unread in found:
            if unread.video not in self._named and is_main():
                logger.warning("another video takes the place of one that cannot be read: %s", unread.reason)
            self._named.add(unread.video)
        if self.num_in_epoch > self.max_fraction * self.num_videos:
            raise DecodeError(
                f"{self.num_in_epoch} of {self.num_videos} training videos could not be read in this epoch, more than "
                f"DATA.MAX_BAD_FRACTION={self.max_fraction} allows, the last because of {found[-1].reason}; find the "
                "bad ones with tools/check_data.py and leave them out with DATA.MANIFEST"
            )
