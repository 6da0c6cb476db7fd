"""Arrays of frames in memory as frame sources."""

from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from slowfast.datasets.decoding.frame_source import FrameTimes
from slowfast.datasets.decoding.images import Frames, stack_in_chunks


class FrameArray:
    """Frames of an array, numbered from 0.

    Args:
        frames: RGB frames of shape (T, H, W, 3), uint8, at least one.
        fps: Frames per second. None if it is unknown.
        bgr: Whether to read the channels in the order blue, green, red.
        name: Name of the array, for messages.
    """

    def __init__(
        self, frames: Frames, *, fps: float | None = None, bgr: bool = False, name: str = "frames"
    ) -> None:
        self.path = name
        self.bgr = bgr
        self._frames = frames[..., ::-1] if bgr else frames
        self._fps = fps

    def __enter__(self) -> "FrameArray":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass  # the caller owns the array

    @property
    def num_frames(self) -> int:
        """Number of frames in the array."""
        return len(self._frames)

    @property
    def shown(self) -> NDArray[np.int64]:
        """Numbers of all frames, ascending."""
        return np.arange(self.num_frames)

    @property
    def timing(self) -> FrameTimes | None:
        """When the frames are shown, None without a frame rate."""
        if self._fps is None:
            return None
        starts = np.arange(self.num_frames) / self._fps
        return FrameTimes(starts, np.full(self.num_frames, 1 / self._fps))

    def read(self, numbers: Sequence[int]) -> Frames:
        """Return the frames with the given numbers, in the given order, repeats included."""
        return self._frames[np.asarray(numbers)]

    def read_in_chunks(self, numbers: Sequence[int], *, max_bytes: int) -> Iterator[Frames]:
        """Yield the frames with ascending numbers in chunks, see `VideoFile.read_in_chunks`."""
        images = (self._frames[number] for number in numbers)
        yield from stack_in_chunks(images, num_frames=len(numbers), max_bytes=max_bytes)
