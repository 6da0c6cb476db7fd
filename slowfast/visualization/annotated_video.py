"""Annotated videos: a copy of a video with the predicted class and a score curve drawn in."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import cycle, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from slowfast.datasets.decode import FrameSource, FrameTimes
from slowfast.utils.files import write_file
from slowfast.utils.text import printable
from slowfast.visualization.contact_sheet import COLORS
from slowfast.visualization.mp4 import (
    DEFAULT_FPS,
    Pixels,
    constant_timing,
    duration_of,
    encode_mp4,
    pad_to_even,
)

_CHUNK_BYTES = 32 << 20
_MIN_FONT, _MAX_FONT = 9, 48  # pixels
_SHADE = 0.35  # brightness of what is below text and curve
_MARGIN = 4  # pixels around text


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
    timing = source.timing or constant_timing(len(source.shown), fps=fps or DEFAULT_FPS)
    images = _draw(source, timing, marks=marks, curve=curve or marks)
    write_file(path, lambda file: encode_mp4(file, images, timing))


def _draw(
    source: FrameSource, timing: FrameTimes, *, marks: Sequence[Mark], curve: Sequence[Mark]
) -> Iterator[Pixels]:
    """Yield copies of all frames with what is drawn into them."""
    times = timing.starts.tolist()
    remaining = iter(times)
    overlay: Overlay | None = None
    for chunk in source.read_in_chunks(list(range(len(times))), max_bytes=_CHUNK_BYTES):
        for frame in chunk:
            image = pad_to_even(frame)
            if overlay is None:
                duration = duration_of(timing)
                overlay = Overlay(*image.shape[:2], marks=marks, curve=curve, duration=duration)
            overlay.draw(image, time=next(remaining))
            yield image


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
