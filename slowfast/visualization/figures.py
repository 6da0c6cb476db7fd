"""Figures of a run as RGB images: confusion matrices, predictions by class, and sheets of clips."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slowfast.utils.text import count, printable
from slowfast.visualization.trackers import IMPORT_LOCK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]

_DPI = 100
_MAX_NAMED = 60  # classes of a confusion matrix that has room for their names
_MAX_NUMBERED = 20  # and for the numbers in its cells
_MAX_LETTERS = 28  # letters of a class name
_MIN_BARS = 5  # bars that a chart has room for, so that one alone is no wall
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
    confusion: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    classes: Sequence[int],
    size: tuple[float, float],
) -> Pixels:
    """Return the confusion matrix of some classes.

    The color of a cell is its share of all videos of its label, also of those that were taken for
    a class that is not shown.

    Args:
        confusion: Videos by label (row) and prediction (column), shape (K, K).
        class_names: Names of the K classes.
        classes: Numbers of the classes to show.
        size: Width and height in inches of 100 pixels.
    """
    figure, axes = _new_figure(size)
    shown = confusion[np.ix_(classes, classes)]
    shares = 100 * shown / np.maximum(confusion[classes].sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")

    if len(classes) <= _MAX_NAMED:
        names = [_shorten(class_names[number]) for number in classes]
        font_size = max(4.0, min(9.0, 300 / max(len(classes), 1)))
        axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=font_size)
        axes.set_yticks(range(len(classes)), names, fontsize=font_size)
    if len(classes) <= _MAX_NUMBERED:
        _write_numbers(axes, shown, is_dark=shares > 50)
    else:
        title = "% of the videos of the label"
        figure.colorbar(image, label=title, location="top", shrink=0.5, aspect=40)
    return _to_pixels(figure)


def _write_numbers(axes: Any, numbers: NDArray[np.int64], *, is_dark: NDArray[np.bool_]) -> None:
    """Write the numbers of a matrix into its cells, as large as fits the longest one."""
    with _no_font_warnings():
        axes.figure.draw_without_rendering()  # decides how wide a cell is
    cell_width = axes.get_window_extent().width / len(numbers) * 72 / _DPI  # in points
    font_size = min(10.0, cell_width / (0.7 * len(str(numbers.max()))))
    for (row, column), number in np.ndenumerate(numbers):
        if number:
            axes.text(
                column,
                row,
                str(number),
                ha="center",
                va="center",
                color="white" if is_dark[row, column] else "black",
                fontsize=font_size,
            )


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
    axes.set_ylim(max(len(shown), _MIN_BARS) - 0.5, -0.5)
    axes.set_xlabel("% of the videos")
    videos = count(int(counts.sum()), "video")
    axes.set_title(f"{videos} of {_shorten(class_names[label])}: taken for")
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
    pen, font = ImageDraw.Draw(sheet), _caption_font()
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


def _fit(text: str, *, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return a text whose lines are cut to a width in pixels."""
    lines = []
    for line in printable(text).split("\n"):
        shown = line
        while shown and pen.textlength(shown, font=font) > width:
            shown = f"{shown.removesuffix('..')[:-1]}.." if len(shown) > 3 else ""
        lines.append(shown)
    return "\n".join(lines)


def _shorten(name: str) -> str:
    """Return a class name without its middle. Long names of classes often begin alike."""
    name = printable(name)
    if len(name) > _MAX_LETTERS:
        half = _MAX_LETTERS // 2 - 1
        name = f"{name[:half]}..{name[-half:]}"
    return name.replace("$", r"\$")  # matplotlib would read formulas


@cache
def _caption_font() -> ImageFont.FreeTypeFont:
    """Return the font of matplotlib. The one of Pillow has English letters alone."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 11)


def _new_figure(size: tuple[float, float]) -> "tuple[Figure, Any]":
    with IMPORT_LOCK:
        from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    return figure, figure.add_subplot()


@contextmanager
def _no_font_warnings() -> Iterator[None]:
    """Keep quiet of letters that the font lacks, and of names that a small figure has no room for.

    Such letters become boxes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _to_pixels(figure: "Figure") -> Pixels:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with _no_font_warnings():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
