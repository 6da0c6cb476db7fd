"""Unreadable videos: training counts them up to a limit, and evaluation names the first ones."""

import logging
from collections.abc import Sequence

from slowfast.datasets.records import DecodeError, UnreadableVideo
from slowfast.distributed.collectives import gather_over_ranks, is_main
from slowfast.utils.command_names import command_name

logger = logging.getLogger(__name__)

MAX_LOGGED = 10  # videos without scores in the log, predictions.parquet lists all of them


class UnreadableVideos:
    """Counts the unreadable videos of a run and ends the run if an epoch has too many.

    Args:
        num_videos: Number of videos in the training list.
        max_fraction: Largest share of them that may be unreadable in one epoch.
    """

    def __init__(self, num_videos: int, *, max_fraction: float) -> None:
        self.num_videos = num_videos
        self.max_fraction = max_fraction
        self._new: list[UnreadableVideo] = []  # in this process, since the last report
        self._logged: set[int] = set()

    def add(self, videos: Sequence[UnreadableVideo]) -> None:
        """Add the unreadable videos of a step of this process."""
        self._new += videos

    def report(self, rows: set[int]) -> None:
        """Log new unreadable videos, add them to those of the epoch, and check the limit.

        All processes call it together after a step in which any process met an unreadable video.

        Args:
            rows: Rows of the unreadable videos of this epoch over all processes. It grows.

        Raises:
            DecodeError: If there are too many. The message names the last one.
        """
        found = gather_over_ranks(self._new)
        self._new = []
        for unreadable in found:
            if unreadable.video_index not in self._logged and is_main():
                logger.warning("unreadable video, another one replaces it: %s", unreadable.reason)
            self._logged.add(unreadable.video_index)

        rows.update(unreadable.video_index for unreadable in found)
        if len(rows) > self.max_fraction * self.num_videos:
            raise DecodeError(
                f"{len(rows)} of {self.num_videos} training videos could not be read in this "
                f"epoch, more than DATA.MAX_BAD_FRACTION={self.max_fraction} allows. The last one: "
                f"{found[-1].reason}. Find the unreadable videos with "
                f"{command_name('check_data')} and leave them out with DATA.MANIFEST"
            )


def log_unscored(title: str, reasons: Sequence[str], *, num_unscored: int) -> None:
    """Log the reasons of the first videos without scores, and how many others there are."""
    for reason in reasons[:MAX_LOGGED]:
        logger.warning("%s: not scored: %s", title, reason)
    if num_unscored > MAX_LOGGED:
        logger.warning("%s: not scored: %d more", title, num_unscored - MAX_LOGGED)
