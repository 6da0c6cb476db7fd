"""Annotated videos: a copy of a video with the predicted class and a score curve drawn in."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import cycle, pairwise
from pathlib import Path
from typing import IO, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slowfast.datasets.decode import FrameSource, FrameTimes
from slowfast.utils.files import write_file
from slowfast.utils.text import printable
from slowfast.visualization.contact_sheet import COLORS

DEFAULT_FPS = 25  # of frames whose times are unknown

_TIME_BASE = Fraction(1, 90_000)
_CHUNK_BYTES = 32 << 20
_MIN_FONT, _MAX_FONT = 9, 48  # pixels
_SHADE = 0.35  # brightness of what is below text and curve
_MARGIN = 4  # pixels around text

Pixels = NDArray[np.uint8]


class Mark(NamedTuple):
    """The class of a section of a video."""

    start: float  # seconds from the first frame
    end: float
    label: str
    probability: float


def write_annotated_video(
    source: FrameSource,
    path: Path,
    marks: Sequence[Mark],
    *,
    curve: Sequence[Mark] = (),
    fps: float | None = None,
) -> None:
    """Write a copy of a video with labels and a score curve, as H.264 in an MP4 file.

    The copy has the size and the times of the video. An odd side gets one more pixel. There is
    no sound.

    Args:
        source: The open video, with channels in the order red, green, blue.
        path: The file, whole or absent.
        marks: Sections in the order of time. Where two overlap, the later one begins in the middle.
        curve: Sections whose probabilities are drawn, those of `marks` by default.
        fps: Frames per second of a source whose times are unknown.

    Raises:
        DecodeError: If a frame of the video is damaged.
        OSError: If the file cannot be written.
        ValueError: If there are no marks.
    """
    if not marks:
        raise ValueError("there is nothing to draw: give at least one mark")
    timing = source.timing or _constant_timing(len(source.shown), fps=fps or DEFAULT_FPS)
    write_file(path, lambda file: _encode(source, file, timing, marks=marks, curve=curve or marks))


def _encode(
    source: FrameSource,
    file: IO[bytes],
    timing: FrameTimes,
    *,
    marks: Sequence[Mark],
    curve: Sequence[Mark],
) -> None:
    num_frames = len(timing.starts)
    duration = timing.interval([0, num_frames - 1])[1]
    rate = Fraction(num_frames / duration if duration else DEFAULT_FPS).limit_denominator(1001)
    overlay: Overlay | None = None

    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = _TIME_BASE
        stream.codec_context.thread_count = 1

        for number, image in enumerate(_read_even(source, num_frames)):
            if overlay is None:
                stream.height, stream.width = image.shape[:2]
                overlay = Overlay(*image.shape[:2], marks=marks, curve=curve, duration=duration)
            time = float(timing.starts[number])
            overlay.draw(image, time=time)

            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / _TIME_BASE), _TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _read_even(source: FrameSource, num_frames: int) -> Iterator[Pixels]:
    """Yield copies of all frames (H, W, 3) with an even height and width."""
    for chunk in source.read_in_chunks(list(range(num_frames)), max_bytes=_CHUNK_BYTES):
        for frame in chunk:
            height, width = frame.shape[:2]
            padding = ((0, height % 2), (0, width % 2), (0, 0))
            yield np.ascontiguousarray(np.pad(frame, padding, mode="edge"))


def _constant_timing(num_frames: int, *, fps: float) -> FrameTimes:
    return FrameTimes(np.arange(num_frames) / fps, np.full(num_frames, 1 / fps))


class Overlay:
    """What is drawn into the frames of a video: a label at the top, a score curve at the bottom.

    Args:
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
        marks: Sections in the order of time, at least one.
        curve: Sections whose probabilities are drawn.
        duration: Seconds of the video, the width of the curve.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        marks: Sequence[Mark],
        curve: Sequence[Mark],
        duration: float,
    ) -> None:
        self._height, self._width = height, width
        self._marks = marks
        self._borders = _borders(marks)
        self._duration = duration
        labels = dict.fromkeys(mark.label for mark in [*curve, *marks])
        self._colors = dict(zip(labels, cycle(COLORS), strict=False))
        self._strip = self._render_curve(curve)
        self._text = (("", ""), np.zeros((0, 0, 4), np.uint8))

    def draw(self, frame: Pixels, *, time: float) -> None:
        """Draw into a frame (H, W, 3) that is shown at a time in seconds."""
        mark = self._marks[bisect_right(self._borders, time)]
        label, percent = printable(mark.label), f"{mark.probability:.0%}"
        if self._text[0] != (label, percent):
            pixels = self._render_text(label, percent, color=self._colors[mark.label])
            self._text = ((label, percent), pixels)
        text = self._text[1]
        top = frame[: text.shape[0], : text.shape[1]]
        top[:] = _blend(top, text)

        bottom = frame[self._height - len(self._strip) :]
        bottom[:] = _blend(bottom, self._strip)
        column = min(int(time * self._per_second), self._width - 1)
        bottom[:, column : column + max(self._width // 400, 1)] = 255

    @property
    def _per_second(self) -> float:
        """Pixels of the curve per second."""
        return self._width / self._duration if self._duration else 0.0

    def _render_text(self, label: str, percent: str, *, color: str) -> Pixels:
        """Return a text (H, W, 4) beside a spot of its color, in letters that fit the frame."""
        size = min(max(self._height // 14, _MIN_FONT), _MAX_FONT)
        while size > _MIN_FONT and _text_width(f"{label} {percent}", size) > self._width:
            size -= 1
        while label and _text_width(f"{label} {percent}", size) > self._width:
            label = f"{label.removesuffix('..')[:-1]}.." if len(label) > 3 else ""

        text = f"{label} {percent}".strip()
        height = min(_text_height(size), self._height)
        image = Image.new("RGBA", (min(_text_width(text, size), self._width), height))
        pen = ImageDraw.Draw(image)
        pen.rectangle((0, 0, _MARGIN - 2, height), fill=color)
        pen.text((2 * _MARGIN - 2, _MARGIN // 2), text, fill="#ffffff", font=_font(size))
        return np.asarray(image)

    def _render_curve(self, curve: Sequence[Mark]) -> Pixels:
        """Return the curve (H, W, 4), one line per section, at the height of its probability."""
        height = min(max(self._height // 6, 12), self._height)
        image = Image.new("RGBA", (self._width, height))
        pen = ImageDraw.Draw(image)
        thickness = max(self._height // 240, 1)
        edges = [0.0, *(min(time, self._duration) for time in _borders(curve)), self._duration]

        last: tuple[int, int] | None = None
        for mark, (start, end) in zip(curve, pairwise(edges), strict=True):
            row = round((1 - mark.probability) * (height - 1 - thickness))
            left, right = round(start * self._per_second), round(end * self._per_second)
            if last is not None:
                pen.line((*last, left, row), fill="#ffffff", width=1)
            color = self._colors[mark.label]
            pen.rectangle((left, row, right, row + thickness), fill=color)
            last = (right, row)
        return np.asarray(image)


def _borders(marks: Sequence[Mark]) -> list[float]:
    """Return the times at which the next mark begins."""
    return [(before.end + after.start) / 2 for before, after in pairwise(marks)]


def _blend(pixels: Pixels, drawn: Pixels) -> Pixels:
    """Return darkened pixels with a drawing (H, W, 4) on top."""
    opacity = drawn[..., 3:] / np.float32(255)
    mixed = pixels * (_SHADE * (1 - opacity)) + drawn[..., :3] * opacity
    return mixed.astype(np.uint8)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> int:
    return int(_font(size).getlength(text)) + 3 * _MARGIN


def _text_height(size: int) -> int:
    _, _, _, bottom = _font(size).getbbox("Ág")
    return int(bottom) + _MARGIN
