"""MP4 files from frames that come one by one."""

from collections.abc import Iterable
from fractions import Fraction
from typing import IO

import av
import numpy as np
from numpy.typing import NDArray

from slowfast.datasets.decode import FrameTimes

DEFAULT_FPS = 25  # of frames whose times are unknown

_TIME_BASE = Fraction(1, 90_000)

Pixels = NDArray[np.uint8]


def encode_mp4(file: IO[bytes], images: Iterable[Pixels], timing: FrameTimes) -> None:
    """Write RGB images (H, W, 3) of one size as H.264 in an MP4 file, without sound.

    Args:
        file: The open file.
        images: The images, with an even height and width.
        timing: When they are shown.
    """
    num_frames = len(timing.starts)
    duration = duration_of(timing)
    rate = Fraction(num_frames / duration if duration else DEFAULT_FPS).limit_denominator(1001)
    is_open = False

    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = _TIME_BASE
        stream.codec_context.thread_count = 1

        for image, time in zip(images, timing.starts.tolist(), strict=True):
            if not is_open:
                stream.height, stream.width = image.shape[:2]
                is_open = True
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / _TIME_BASE), _TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def duration_of(timing: FrameTimes) -> float:
    """Return the seconds from the first frame to the end of the last one."""
    return timing.interval([0, len(timing.starts) - 1])[1]


def constant_timing(num_frames: int, *, fps: float) -> FrameTimes:
    """Return the times of frames at a constant rate."""
    return FrameTimes(np.arange(num_frames) / fps, np.full(num_frames, 1 / fps))


def pad_to_even(frame: Pixels) -> Pixels:
    """Return a copy of a frame (H, W, 3) with an even height and width."""
    height, width = frame.shape[:2]
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    return np.ascontiguousarray(np.pad(frame, padding, mode="edge"))
