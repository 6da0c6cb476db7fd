"""The records that flow from a list file to the model, and the error of one that cannot be read."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from slowfast.datasets.boxes import Box


class DecodeError(ValueError):
    """A video or a frame that cannot be read; the message names the file and the reason."""


class TruncatedError(DecodeError):
    """A video that lacks a part of what its container promises."""


class Span(NamedTuple):
    """A part of a video, in seconds from its first frame."""

    start: float
    end: float


class Video(NamedTuple):
    """One annotated line."""

    path: str
    label: int
    num_frames: int | None  # None where the list does not say
    span: Span | None = None  # the part of the file that it is; None: all of it

    @property
    def name(self) -> str:
        """What tells it from other videos, in a manifest and in messages.

        It is the path, for a span with a fragment as in W3C Media Fragments: `a.mp4#t=12.5,20`.
        """
        if self.span is None:
            return self.path
        return f"{self.path}#t={self.span.start:.12g},{self.span.end:.12g}"


class View(NamedTuple):
    """One look at a video."""

    number: int  # of the view among those of its video, from 0
    clip: int  # which temporal clip, from 0
    crop: int  # which spatial crop: 0 left or top, 1 center, 2 right or bottom


class Request(NamedTuple):
    """A video and the views that are wanted of it.

    The seed of a training request is (run seed, epoch, video), so that its sample is the same in whatever worker or
    process, after a resume, and in a bug report. Where an epoch shows a video again, the number of
    the repetition, from 1, follows. A request without a seed draws nothing at random.
    """

    video: int  # row of the list
    views: tuple[View, ...]
    seed: tuple[int, ...] | None


class UnreadableVideo(NamedTuple):
    """A video that was asked for and cannot be read."""

    video: int  # row of the list
    reason: str  # names the file


class Unfilled(NamedTuple):
    """Boxes of a clip of a uint8 batch, the same in all frames, that are filled once it is normalized."""

    clip: int  # number in the batch
    boxes: Sequence[Box]
    seed: int  # of the noise


class Batch(NamedTuple):
    """What the model sees of several views, one clip each, and the videos that cannot be seen."""

    frames: Tensor  # (B, C, T, H, W), float32 and normalized; or uint8 (DATA.UINT8)
    label: Tensor  # (B,), int64, as the others
    video: Tensor
    view: Tensor
    unreadable: Sequence[UnreadableVideo]
    unfilled: Sequence[Unfilled] = ()  # of uint8 frames
