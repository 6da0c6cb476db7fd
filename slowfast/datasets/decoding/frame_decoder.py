"""Open decoders of other libraries as frame sources."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slowfast.datasets.decoding.frame_source import FrameTimes
from slowfast.datasets.decoding.images import Frames
from slowfast.datasets.records import DecodeError


class FrameDecoder:
    """Frames of an open decoder, numbered from 0. The caller closes it.

    Args:
        decoder: Object with `num_frames` and `read(numbers)`, which returns RGB frames of shape
            (N, H, W, 3), uint8. It may have `fps`, `timing` and `shown`, as a `VideoFile` has.
        fps: Frames per second, None for those of the decoder.
        bgr: Whether to read the channels in the order blue, green, red.
    """

    def __init__(self, decoder: Any, *, fps: float | None = None, bgr: bool = False) -> None:
        self.path = str(getattr(decoder, "path", type(decoder).__name__))
        self._decoder = decoder
        self._fps = float(fps or getattr(decoder, "fps", 0) or 0)
        self._is_swapped = bgr != getattr(decoder, "bgr", False)

    def __enter__(self) -> "FrameDecoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass  # the caller opened it

    @property
    def shown(self) -> NDArray[np.int64]:
        """Numbers of the frames to sample from: those of the decoder, or all.

        Raises:
            DecodeError: If there are none.
        """
        if self._decoder.num_frames < 1:
            raise DecodeError(f"{self.path}: the decoder has no frames")
        return getattr(self._decoder, "shown", np.arange(self._decoder.num_frames))

    @property
    def timing(self) -> FrameTimes | None:
        """When the frames are shown, None without a frame rate."""
        timing: FrameTimes | None = getattr(self._decoder, "timing", None)
        if timing is not None or not self._fps:
            return timing
        starts = np.arange(self._decoder.num_frames) / self._fps
        return FrameTimes(starts, np.full(len(starts), 1 / self._fps))

    def read(self, numbers: Sequence[int]) -> Frames:
        """Return the frames with the given numbers, in the given order.

        Raises:
            DecodeError: If the decoder returns something else than frames.
        """
        frames = np.asarray(self._decoder.read(numbers))
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[::3] != (len(numbers), 3):
            raise DecodeError(
                f"{self.path}: read({len(numbers)} numbers) returned {frames.dtype} of shape "
                f"{frames.shape}, but frames are uint8 of shape ({len(numbers)}, H, W, 3)"
            )
        return frames[..., ::-1] if self._is_swapped else frames

    def read_in_chunks(self, numbers: Sequence[int], *, max_bytes: int) -> Iterator[Frames]:
        """Yield the frames with ascending numbers in chunks, see `VideoFile.read_in_chunks`."""
        start, length = 0, 1  # the first frame tells how large the others are
        while start < len(numbers):
            frames = self.read(numbers[start : start + length])
            start += length
            length = max(max_bytes // frames[0].nbytes, 1)
            # The model sees a clip channel by channel.
            planes = np.ascontiguousarray(frames.transpose(3, 0, 1, 2))
            yield planes.transpose(1, 2, 3, 0)
