"""Pictures of explanations: a video with its heat map on top, and a contact sheet."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slowfast.datasets.decode import FrameSource
from slowfast.utils.files import write_file
from slowfast.utils.text import printable
from slowfast.visualization.mp4 import (
    DEFAULT_FPS,
    Pixels,
    constant_timing,
    encode_mp4,
    pad_to_even,
)

MIN_SIDE = 256  # pixels, smaller frames are enlarged
MAX_COLUMNS = 8  # frames on a sheet
THUMB = 160  # pixels, height of a frame on a sheet

_CHUNK_BYTES = 32 << 20
_MAX_OPACITY = 0.65  # of the hottest pixels
_UNSEEN = 0.35  # brightness of pixels that no view saw
_MAX_ASPECT = 4  # width by height of a frame on a sheet, a wider one is squeezed
_MARGIN = 6  # pixels around text
_GAP = 4  # pixels between frames of a sheet
_MIN_WIDTH = 360  # pixels, of a video or a sheet, so that its text fits
_TEXT, _BACKGROUND = "#202020", "#ffffff"

# From a frame number to its heat (H, W) from 0 to 1, and how often each pixel was seen (H, W).
Heat = Callable[[int], tuple[NDArray[np.float32], NDArray[np.uint16]]]


class Explained(NamedTuple):
    """What the pictures of an explanation show.

    Attributes:
        title: The class and its probability.
        note: The method, and what the check of the map says.
        heat: The heat of a frame.
        seen_numbers: Numbers of the frames that a view shows, ascending.
        max_step: Largest number of frames from one frame of a clip to the next.
    """

    title: str
    note: str
    heat: Heat
    seen_numbers: NDArray[np.int64]
    max_step: int

    def shown_number(self, number: int) -> int:
        """Return the frame whose heat is shown with a frame: the nearest one of the same clip."""
        after = int(np.searchsorted(self.seen_numbers, number))
        near = self.seen_numbers[max(after - 1, 0) : after + 1]
        nearest = int(near[np.abs(near - number).argmin()])
        return nearest if abs(nearest - number) < self.max_step else number


def write_explained_video(
    source: FrameSource, path: Path, explained: Explained, *, fps: float | None = None
) -> None:
    """Write the video with its heat map on top, as H.264 in an MP4 file.

    Above it is the class with its probability, below it the color bar. Pixels that no view saw are
    dark and gray. Frames between two frames of a clip have the heat of the nearest one. Small
    frames are enlarged. There is no sound.

    Args:
        source: The open video, with channels in the order red, green, blue.
        path: The file, whole or absent.
        explained: What to show.
        fps: Frames per second of a source whose times are unknown.

    Raises:
        DecodeError: If a frame of the video is damaged.
        OSError: If the file cannot be written.
    """
    timing = source.timing or constant_timing(len(source.shown), fps=fps or DEFAULT_FPS)

    def images() -> Iterator[Pixels]:
        number = 0
        numbers = list(range(len(timing.starts)))
        for chunk in source.read_in_chunks(numbers, max_bytes=_CHUNK_BYTES):
            for frame in chunk:
                yield _draw_frame(frame, number, explained)
                number += 1

    write_file(path, lambda file: encode_mp4(file, images(), timing))


def write_explained_sheet(source: FrameSource, path: Path, explained: Explained) -> None:
    """Write a contact sheet as a PNG file: frames, and below them the same with their heat.

    Args:
        source: The open video, with channels in the order red, green, blue.
        path: The file, whole or absent.
        explained: What to show.

    Raises:
        DecodeError: If a frame of the video is damaged.
        OSError: If the file cannot be written.
    """
    numbers = choose_frames(explained.seen_numbers)
    strip = _draw_numbered(source, numbers, explained)
    width = max(strip.width, _MIN_WIDTH)
    header, footer = _draw_header(explained.title, width), _draw_footer(explained.note, width)
    sheet = _stack([header, strip, footer], width=width)
    write_file(path, lambda file: sheet.save(file, "PNG"))


def draw_explained_strip(
    source: FrameSource, explained: Explained, *, num_frames: int, height: int
) -> Image.Image:
    """Return frames of equally long sections, and below them the same frames with their heat.

    Each is the frame of its section with the most heat.

    Args:
        source: The open video, with channels in the order red, green, blue.
        explained: What to show.
        num_frames: Maximum number of frames side by side.
        height: Height of a frame in pixels.

    Raises:
        DecodeError: If a frame of the video is damaged.
    """
    seen = explained.seen_numbers
    sections = np.array_split(seen, min(len(seen), num_frames))
    numbers = [_hottest(section.tolist(), explained) for section in sections]
    return _join(_draw_columns(source, numbers, explained, height=height))


def _hottest(numbers: Sequence[int], explained: Explained) -> int:
    """Return the number of the frame with the most heat."""
    return max(numbers, key=lambda number: float(explained.heat(number)[0].mean()))


def choose_frames(seen_numbers: NDArray[np.int64]) -> list[int]:
    """Return at most MAX_COLUMNS evenly spaced ones of some frame numbers."""
    indices = np.linspace(0, len(seen_numbers) - 1, min(len(seen_numbers), MAX_COLUMNS))
    return seen_numbers[indices.round().astype(int)].tolist()


def overlay(
    frame: Pixels, heat: NDArray[np.float32], counts: NDArray[np.uint16] | NDArray[np.bool_]
) -> Pixels:
    """Return a frame (H, W, 3) with its heat on top. The hotter, the less of the frame is left.

    Args:
        frame: RGB pixels.
        heat: Heat from 0 to 1, shape (H, W).
        counts: How often each pixel was seen, shape (H, W).
    """
    opacity = (_MAX_OPACITY * heat)[..., None]
    colored = frame * (1 - opacity) + _color_table()[(heat * 255).astype(np.uint8)] * opacity
    gray = frame.mean(axis=-1, keepdims=True) * _UNSEEN
    return np.where(counts[..., None] > 0, colored, gray).astype(np.uint8)


def _draw_frame(frame: Pixels, number: int, explained: Explained) -> Pixels:
    """Return a frame of the video with header and footer."""
    pixels = overlay(frame, *explained.heat(explained.shown_number(number)))
    factor = math.ceil(MIN_SIDE / min(frame.shape[:2]))
    image = Image.fromarray(pixels)
    if factor > 1:
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.BICUBIC)

    width = max(image.width, _MIN_WIDTH)
    header, footer = _draw_header(explained.title, width), _draw_footer(explained.note, width)
    return pad_to_even(np.asarray(_stack([header, image, footer], width=width)))


def _draw_numbered(
    source: FrameSource, numbers: Sequence[int], explained: Explained
) -> Image.Image:
    """Return frames with their numbers, and below them the same frames with their heat."""
    columns = _draw_columns(source, numbers, explained, height=THUMB)
    size = _size_for(THUMB)
    line = _line_height(size)
    strip = _join(columns)

    sheet = Image.new("RGB", (strip.width, strip.height + line), _BACKGROUND)
    sheet.paste(strip, (0, line))
    pen = ImageDraw.Draw(sheet)
    for index, number in enumerate(numbers):
        left = index * (columns[0].width + _GAP)
        pen.text((left + 2, 0), f"frame {number}", fill=_TEXT, font=_font(size))
    return sheet


def _draw_columns(
    source: FrameSource, numbers: Sequence[int], explained: Explained, *, height: int
) -> list[Image.Image]:
    """Return an image for each frame: the frame, and below it the same with its heat."""
    columns = []
    for number in numbers:
        frame = source.read([number])[0]
        aspect = min(frame.shape[1] / frame.shape[0], _MAX_ASPECT)
        size = (max(round(aspect * height), 1), height)
        both = (frame, overlay(frame, *explained.heat(number)))
        images = [Image.fromarray(np.ascontiguousarray(pixels)) for pixels in both]
        above, below = (image.resize(size, Image.Resampling.BICUBIC) for image in images)

        column = Image.new("RGB", (above.width, 2 * height + _GAP), _BACKGROUND)
        column.paste(above, (0, 0))
        column.paste(below, (0, height + _GAP))
        columns.append(column)
    return columns


def _join(columns: Sequence[Image.Image]) -> Image.Image:
    """Return images of the same size side by side."""
    width, height = columns[0].size
    joined = Image.new("RGB", (len(columns) * (width + _GAP) - _GAP, height), _BACKGROUND)
    for index, column in enumerate(columns):
        joined.paste(column, (index * (width + _GAP), 0))
    return joined


def _stack(images: Sequence[Image.Image], *, width: int) -> Image.Image:
    stacked = Image.new("RGB", (width, sum(image.height for image in images)), _BACKGROUND)
    top = 0
    for image in images:
        stacked.paste(image, ((width - image.width) // 2, top))
        top += image.height
    return stacked


@cache
def _draw_header(title: str, width: int) -> Image.Image:
    """Return a line of text of this width."""
    size = _fitting_size(title, width)
    image = Image.new("RGB", (width, _line_height(size) + _MARGIN), _BACKGROUND)
    text = _shortened(title, width, size)
    ImageDraw.Draw(image).text((_MARGIN, _MARGIN // 2), text, fill=_TEXT, font=_font(size))
    return image


@cache
def _draw_footer(note: str, width: int) -> Image.Image:
    """Return the color bar of this width with a note below it."""
    size = _size_for(MIN_SIDE)
    line, bar = _line_height(size), 10
    lines = _wrapped(note, width, size)
    image = Image.new("RGB", (width, bar + 2 * _MARGIN + line * (1 + len(lines))), _BACKGROUND)
    pen = ImageDraw.Draw(image)

    left, right = _MARGIN, width - _MARGIN
    colors = _color_table()[np.linspace(0, 255, right - left).astype(int)].astype(np.uint8)
    image.paste(Image.fromarray(np.tile(colors[None], (bar, 1, 1))), (left, _MARGIN))

    top = bar + _MARGIN + 2
    low, high = "0: least evidence", "1: most evidence"
    pen.text((left, top), low, fill=_TEXT, font=_font(size))
    pen.text((right - _font(size).getlength(high), top), high, fill=_TEXT, font=_font(size))
    for index, text in enumerate(lines, start=1):
        pen.text((left, top + index * line), text, fill=_TEXT, font=_font(size))
    return image


def _wrapped(text: str, width: int, size: int) -> list[str]:
    """Return the lines of a text that fit a width."""
    lines = [""]
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _font(size).getlength(longer) > width - 2 * _MARGIN:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _fitting_size(text: str, width: int) -> int:
    size = 20
    while size > _size_for(MIN_SIDE) and _font(size).getlength(text) > width - 2 * _MARGIN:
        size -= 1
    return size


def _shortened(text: str, width: int, size: int) -> str:
    text = printable(text)
    while len(text) > 3 and _font(size).getlength(text) > width - 2 * _MARGIN:
        text = f"{text.removesuffix('..')[:-1]}.."
    return text


def _size_for(height: int) -> int:
    return max(min(height // 18, 14), 12)


def _line_height(size: int) -> int:
    _, _, _, bottom = _font(size).getbbox("Ág")
    return int(bottom) + 3


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@cache
def _color_table() -> NDArray[np.float32]:
    """Return the colors (256, 3) of heats from 0 to 1, from 0 to 255."""
    from matplotlib import colormaps

    table: NDArray[np.float32] = (colormaps["turbo"](np.arange(256))[:, :3] * 255).astype(
        np.float32
    )
    return table
