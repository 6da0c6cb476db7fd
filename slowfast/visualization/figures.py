"""Figures of a run as RGB images: confusion matrices, predictions by class, and sheets of clips."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slowfast.utils.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_DPI = 100
_MAX_NAMED = 60  # classes of a confusion matrix that has room for their names
_MAX_NUMBERED = 20  # and for the numbers in its cells
_MAX_LETTERS = 28  # letters of a class name
_COLUMNS = 4  # frames of a clip on a sheet
_CLIPS_PER_ROW = 2
_SIDE = 128  # pixels, shorter side of a frame on a sheet
_LINE = 16  # pixels, height of a line of text
_GAP = 8  # pixels between clips


class CaptionedClip(NamedTuple):
    """A clip on a sheet."""

    frames: Pixels  # RGB, (T, H, W, 3)
    caption: str  # one or two lines


def draw_confusion(
    confusion: NDArray[np.int64], class_names: Sequence[str], *, size: tuple[float, float]
) -> Pixels:
    """Return a confusion matrix. The color of a cell is its share of the videos of its label.

    Args:
        confusion: Videos by label (row) and prediction (column), shape (K, K).
        class_names: Names of the K classes.
        size: Width and height in inches of 100 pixels.
    """
    figure, axes = _new_figure(size)
    num_classes = len(class_names)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")

    if num_classes <= _MAX_NAMED:
        names = [_shorten(name) for name in class_names]
        font_size = max(4.0, min(9.0, 300 / max(num_classes, 1)))
        axes.set_xticks(range(num_classes), names, rotation=90, fontsize=font_size)
        axes.set_yticks(range(num_classes), names, fontsize=font_size)
    if num_classes <= _MAX_NUMBERED:
        for (row, column), number in np.ndenumerate(confusion):
            if number:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(number), ha="center", va="center", color=color)
    return _to_pixels(figure)


def draw_predictions(
    counts: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    label: int,
    num_shown: int,
    size: tuple[float, float],
) -> Pixels:
    """Return a bar chart of what the videos of one class are most often taken for.

    Args:
        counts: Videos of the class by prediction, shape (K,).
        class_names: Names of the K classes.
        label: Number of the class.
        num_shown: Number of predictions to show.
        size: Width and height in inches of 100 pixels.
    """
    figure, axes = _new_figure(size)
    shown = np.argsort(-counts, kind="stable")[:num_shown]
    shown = shown[counts[shown] > 0]
    shares = 100 * counts[shown] / max(counts.sum(), 1)
    colors = ["#2166ac" if number == label else "#d6604d" for number in shown]
    axes.barh(range(len(shown)), shares, color=colors)
    axes.set_yticks(range(len(shown)), [_shorten(class_names[number]) for number in shown])
    axes.set_xlim(0, 100)
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    axes.set_xlabel("% of the videos")
    axes.set_title(f"predictions for {_shorten(class_names[label])}")
    return _to_pixels(figure)


def draw_clips(clips: Sequence[CaptionedClip]) -> Pixels:
    """Return a sheet of clips, two in a row, each with four of its frames and its caption.

    Args:
        clips: At least one clip.
    """
    thumbs = [[_to_thumb(clip.frames[index]) for index in _columns(clip)] for clip in clips]
    num_lines = max(clip.caption.count("\n") + 1 for clip in clips)
    width = max(sum(image.width for image in row) for row in thumbs) + _GAP
    height = max(image.height for row in thumbs for image in row) + num_lines * _LINE + _GAP
    num_columns = min(_CLIPS_PER_ROW, len(clips))
    num_rows = -(-len(clips) // num_columns)

    sheet = Image.new("RGB", (num_columns * width, num_rows * height), "#ffffff")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (clip, images) in enumerate(zip(clips, thumbs, strict=True)):
        left, top = number % num_columns * width, number // num_columns * height
        text = _fit(clip.caption, pen=pen, font=font, width=width - _GAP)
        pen.text((left + 2, top), text, fill="#000000", font=font)
        for image in images:
            sheet.paste(image, (left, top + num_lines * _LINE))
            left += image.width
    return np.asarray(sheet)


def _columns(clip: CaptionedClip) -> list[int]:
    num_frames = len(clip.frames)
    indices = np.linspace(0, num_frames - 1, min(_COLUMNS, num_frames))
    return [int(index) for index in indices.round()]


def _to_thumb(frame: Pixels) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(frame))
    scale = _SIDE / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)))


def _fit(text: str, *, pen: ImageDraw.ImageDraw, font: Font, width: int) -> str:
    """Return a text whose lines are cut to a width in pixels."""
    lines = []
    for line in printable(text).split("\n"):
        shown = line
        while shown and pen.textlength(shown, font=font) > width:
            shown = f"{shown.removesuffix('..')[:-1]}.." if len(shown) > 3 else ""
        lines.append(shown)
    return "\n".join(lines)


def _shorten(name: str) -> str:
    name = printable(name).replace("$", r"\$")  # matplotlib would read formulas
    return name if len(name) <= _MAX_LETTERS else f"{name[: _MAX_LETTERS - 2]}.."


def _new_figure(size: tuple[float, float]) -> "tuple[Figure, Any]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    return figure, figure.add_subplot()


def _to_pixels(figure: "Figure") -> Pixels:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
