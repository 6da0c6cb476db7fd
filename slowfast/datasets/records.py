"""Records that flow from an annotation list to the model, and the errors of unreadable videos."""

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from torch import Tensor

from slowfast.datasets.boxes import Box

NO_LABEL = -1  # label of every video of a list without labels

_SECONDS = r"[\d.e+-]+"
SPAN_PATTERN = rf"#t=(?P<start>{_SECONDS}),(?P<end>{_SECONDS})$"  # end of a name, see `video_name`


class DecodeError(ValueError):
    """Raised for an unreadable video or frame. The message names the file and the reason."""


class TruncatedError(DecodeError):
    """Raised for a video file that ends before the data its container promises."""


class Span(NamedTuple):
    """A section of a video file, in seconds from its first frame."""

    start: float
    end: float


class Video(NamedTuple):
    """One row of an annotation list."""

    path: str  # relative to DATA.PATH_PREFIX
    label: int  # NO_LABEL in a list without labels
    num_frames: int | None  # None if the list does not say
    span: Span | None = None  # section of the file to use, None for the whole file

    @property
    def name(self) -> str:
        """Name that identifies the video in manifests and messages.

        See `video_name`.
        """
        return video_name(self.path, self.span)


def video_name(path: str, span: Span | None) -> str:
    """Return the name of a video or a section of one.

    It is the path. A span is appended as a W3C media fragment: `a.mp4#t=12.5,20`.
    """
    if span is None:
        return path
    return f"{path}#t={span.start:.12g},{span.end:.12g}"


def split_video_name(name: str) -> tuple[str, Span | None]:
    """Return the path and the span of a name, see `video_name`."""
    found = re.search(SPAN_PATTERN, name)
    if found is None:
        return name, None
    return name[: found.start()], Span(float(found["start"]), float(found["end"]))


class View(NamedTuple):
    """One temporal clip and one spatial crop of a video."""

    number: int  # 0-based, among the views of the video
    clip: int  # 0-based index of the temporal clip
    crop: int  # spatial crop: 0 for left or top, 1 for center, 2 for right or bottom


class Request(NamedTuple):
    """A video and the views to load from it.

    The seed of a training request is `(run seed, epoch, video index)`, so its sample is the same in
    any worker or process, after a resume, and in a bug report. If an epoch shows a video more than
    once, the number of the repetition (from 1) is appended. A request without a seed is
    deterministic.
    """

    video_index: int  # row of the annotation list
    views: tuple[View, ...]
    seed: tuple[int, ...] | None


# Start and end in seconds from the first frame of the file, None if times are unknown.
Interval: TypeAlias = tuple[float, float] | None


class UnreadableVideo(NamedTuple):
    """A requested video that could not be read."""

    video_index: int  # row of the annotation list
    reason: str  # includes the path of the file


class Unfilled(NamedTuple):
    """Boxes of a uint8 clip to fill with noise after normalization, the same in all its frames."""

    clip: int  # index of the clip in the batch
    boxes: Sequence[Box]
    seed: int  # seed of the noise


class Batch(NamedTuple):
    """Clips of several views, and the requested videos that could not be read."""

    frames: Tensor  # (B, C, T, H, W), normalized float32, or uint8 with DATA.UINT8
    labels: Tensor  # (B,), int64
    video_indices: Tensor  # (B,), int64, rows of the annotation list
    view_indices: Tensor  # (B,), int64, see `View.number`
    unreadable: Sequence[UnreadableVideo]
    unfilled: Sequence[Unfilled] = ()  # empty unless the frames are uint8
    intervals: Sequence[Interval] = ()  # of each clip, empty unless the dataset notes them
