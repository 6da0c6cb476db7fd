"""Frame sources: what a video file, a frame folder and an array of frames have in common."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from slowfast.datasets.decoding.images import Frames
from slowfast.datasets.records import DecodeError
from slowfast.datasets.sampling import ConstantRate, constant_rate


class FrameTimes(NamedTuple):
    """When the frames of a video are shown."""

    starts: NDArray[np.float64]  # (num_frames,), seconds from the first frame, ascending
    durations: NDArray[np.float64]  # (num_frames,), seconds, 0 where they are unknown

    def interval(self, numbers: Sequence[int] | NDArray[np.int64]) -> tuple[float, float]:
        """Return when the first of some frames appears and when the last one disappears."""
        first, last = min(numbers), max(numbers)
        if last + 1 < len(self.starts):
            return float(self.starts[first]), float(self.starts[last + 1])

        duration = self.durations[last]
        if duration == 0 and last:
            duration = self.starts[last] - self.starts[last - 1]
        return float(self.starts[first]), float(self.starts[last] + duration)


class FrameSource(Protocol):
    """Frames by number, from 0. It is a context manager that opens and closes the video."""

    @property
    def path(self) -> str:
        """Path of the video, for messages."""
        ...

    @property
    def shown(self) -> NDArray[np.int64]:
        """Numbers of the frames to sample from, ascending, at least one."""
        ...

    @property
    def timing(self) -> FrameTimes | None:
        """When the frames are shown, None if this is unknown."""
        ...

    def read(self, numbers: Sequence[int]) -> Frames:
        """Return the frames with the given numbers (N, H, W, 3), in the given order."""
        ...

    def read_in_chunks(self, numbers: Sequence[int], *, max_bytes: int) -> Iterator[Frames]:
        """Yield the frames with ascending numbers in chunks (N, H, W, 3) of at most `max_bytes`."""
        ...

    def __enter__(self) -> "FrameSource":
        """Return the source."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the video."""
        ...


def at_rate(source: FrameSource, fps: float) -> ConstantRate | None:
    """Return the frames that a source shows at a constant frame rate, None without frame times.

    Raises:
        DecodeError: If a frame is shown for so long that a timestamp must be wrong.
    """
    timing = source.timing
    if timing is None:
        return None
    try:
        return constant_rate(timing.starts, timing.durations, fps=fps)
    except ValueError as error:
        raise DecodeError(f"{source.path}: {error}") from error
