"""Openers of videos: picklable functions from an annotated video to its frames."""

from dataclasses import dataclass
from os.path import join
from pathlib import Path

from slowfast.datasets.decode import FrameFolder, VideoFile
from slowfast.datasets.decoding.frame_table import table_path
from slowfast.datasets.records import Video


@dataclass(frozen=True)
class VideoFileOpener:
    """Opens video files.

    Attributes:
        prefix: Folder that the paths of videos are relative to.
        bgr: Whether frames have the channels in the order BGR instead of RGB.
        allow_truncated: Whether a video without its end is opened instead of refused.
        max_pixels: Maximum number of pixels of a frame.
        tables: Folder of the frame tables of long videos, None if there is none.
    """

    prefix: str
    bgr: bool
    allow_truncated: bool
    max_pixels: int
    tables: Path | None

    def __call__(self, video: Video) -> VideoFile:
        """Open a video.

        Raises:
            DecodeError: If the video is unreadable.
        """
        source = VideoFile(
            join(self.prefix, video.path),
            bgr=self.bgr,
            allow_truncated=self.allow_truncated,
            max_pixels=self.max_pixels,
            table_path=None if self.tables is None else table_path(self.tables, video.path),
        )
        source.span = video.span
        return source


@dataclass(frozen=True)
class FrameFolderOpener:
    """Opens folders of frames.

    Attributes:
        prefix: Folder that the paths of frame folders are relative to.
        bgr: Whether frames have the channels in the order BGR instead of RGB.
        template: File name of a frame as a format string of its number.
    """

    prefix: str
    bgr: bool
    template: str

    def __call__(self, video: Video) -> FrameFolder:
        """Open a frame folder.

        Raises:
            DecodeError: If the folder is unreadable.
        """
        return FrameFolder(
            join(self.prefix, video.path),
            template=self.template,
            num_frames=video.num_frames,
            bgr=self.bgr,
        )
