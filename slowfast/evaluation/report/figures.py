"""Figures of the report page as inline SVG, in colors that follow the theme of the page."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from slowfast.evaluation.report.training_log import Curve

MAX_POINTS = 400  # points of a curve, more are averaged
MAX_BLOCKS = 150  # along a side of the overview of a large confusion matrix

# Placeholders of the variables of page.css. No figure uses these colors for anything else.
_THEME = {
    "#010a01": "--text",
    "#010a02": "--line",
    "#010a11": "--series-1",
    "#010a12": "--series-2",
    "#010a13": "--series-3",
    "#010a14": "--series-4",
    "#010a15": "--series-5",
    "#010a16": "--series-6",
}
_TEXT, _LINE, *_SERIES = _THEME
_MARKERS = "osD^vX"

# Colors of cells of a confusion matrix, readable on light and on dark.
_RIGHT = (0.18, 0.47, 0.86)
_WRONG = (0.85, 0.33, 0.05)

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "image.composite_image": False,  # keeps one pixel per cell of an image
    "font.size": 11,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def draw_views(views: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a figure of the top-1 accuracy against the number of clips.

    Args:
        views: The records `views` of metrics.json.
    """
    lines: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for record in views:
        line = lines.setdefault((record["fusion"], record["num_crops"]), [])
        line.append((record["num_clips"], record["top1"]))

    with _figure("views", "Top-1 accuracy against the number of clips") as drawing:
        axes = drawing.figure.add_subplot()
        for index, ((fusion, num_crops), points) in enumerate(lines.items()):
            num_clips, top1 = zip(*sorted(points), strict=True)
            name = f"{fusion}, {num_crops} {'crop' if num_crops == 1 else 'crops'}"
            axes.plot(num_clips, top1, label=name, **_series(index), markersize=5)

        axes.set_xlabel("clips")
        axes.set_ylabel("top-1 accuracy (%)")
        axes.set_xticks(sorted({record["num_clips"] for record in views}))
        _add_legend(axes)
    return drawing.svg


def draw_reliability(bins: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a reliability diagram, with the share of the videos of each bin below it.

    Args:
        bins: The records `reliability` of metrics.json.
    """
    lows = np.array([record["low"] for record in bins])
    widths = np.array([record["high"] for record in bins]) - lows
    accuracies = [record["accuracy"] or 0.0 for record in bins]
    counts = np.array([record["count"] for record in bins], float)

    with _figure("reliability", "Accuracy against confidence", height=4.2) as drawing:
        upper, lower = drawing.figure.subplots(
            2, sharex=True, gridspec_kw={"height_ratios": (3, 1)}
        )
        bar = {"width": widths * 0.92, "align": "edge"}
        upper.bar(lows, accuracies, color=_SERIES[0], label="accuracy", **bar)
        upper.plot((0, 100), (0, 100), color=_TEXT, dashes=(4, 3), label="perfect calibration")

        points = [(record["confidence"], record["accuracy"]) for record in bins if record["count"]]
        if points:
            upper.plot(*zip(*points, strict=True), "o", color=_SERIES[1], label="mean of a bin")
        upper.set_ylabel("accuracy (%)")
        upper.set_ylim(0, 100)
        _add_legend(upper)

        lower.bar(lows, 100 * counts / max(counts.sum(), 1), color=_SERIES[0], **bar)
        lower.set_ylabel("videos (%)")
        lower.set_xlabel("confidence (%)")
        lower.set_xlim(0, 100)
    return drawing.svg


def draw_confidences(bins: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a histogram of the confidences.

    Args:
        bins: The records `confidences` of metrics.json.
    """
    lows = np.array([record["low"] for record in bins])
    widths = np.array([record["high"] for record in bins]) - lows
    counts = np.array([record["count"] for record in bins], float)

    with _figure("confidences", "Videos by confidence") as drawing:
        axes = drawing.figure.add_subplot()
        shares = 100 * counts / max(counts.sum(), 1)
        axes.bar(lows, shares, width=widths * 0.92, align="edge", color=_SERIES[0])
        axes.set_ylabel("videos (%)")
        axes.set_xlabel("confidence (%)")
        axes.set_xlim(0, 100)
    return drawing.svg


def draw_curves(name: str, *, title: str, curves: Mapping[str, Curve]) -> Markup:
    """Return a figure of curves of a training over its epochs.

    Args:
        name: Name of the figure, unique on the page.
        title: Title for screen readers and the label of the vertical axis.
        curves: Curves by their names in the legend.
    """
    with _figure(name, title) as drawing:
        axes = drawing.figure.add_subplot()
        for index, (label, curve) in enumerate(curves.items()):
            epochs, values = _thin_out(curve)
            is_sparse = len(epochs) <= 60
            style = _series(index) if is_sparse else {"color": _SERIES[index % len(_SERIES)]}
            axes.plot(epochs, values, label=label, **style, markersize=4)

        axes.set_xlabel("epoch")
        axes.set_ylabel(title)
        axes.set_xlim(left=0)
        _add_legend(axes)
    return drawing.svg


def draw_confusion(shares: NDArray[np.float64]) -> Markup:
    """Return an image of a large confusion matrix, with one pixel per cell.

    Right predictions have another color than wrong ones. The image has two layers. The layer
    `confusion-overview` shows the largest value of each block of cells, since single cells are too
    small to be seen in an image that is not zoomed. `confusion-cells` shows all cells.

    Args:
        shares: Share of the videos of each class (rows) that got each prediction, in [0, 1].
    """
    with _figure("confusion", "Confusion matrix", width=6.4, height=6.2) as drawing:
        axes = drawing.figure.add_subplot()
        edges = (-0.5, len(shares) - 0.5)
        block = math.ceil(len(shares) / MAX_BLOCKS)  # cells along the side of a block
        for name, size in (("overview", block), ("cells", 1)):
            pooled = _pool(shares, size=size)
            end = len(pooled) * size - 0.5  # the last block may exceed the matrix
            image = axes.imshow(
                _to_pixels(pooled), extent=(-0.5, end, end, -0.5), interpolation="none"
            )
            image.set_gid(name)

        axes.set_xlim(edges)
        axes.set_ylim(edges[::-1])
        axes.grid(visible=False)
        axes.set_xlabel("number of the predicted class")
        axes.set_ylabel("number of the labeled class")
    return drawing.svg


def _pool(shares: NDArray[np.float64], *, size: int) -> NDArray[np.float64]:
    """Return the largest value of each block of size x size cells."""
    starts = np.arange(0, len(shares), size)
    rows = np.maximum.reduceat(shares, starts, axis=0)
    return np.maximum.reduceat(rows, starts, axis=1)


def _to_pixels(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return RGBA pixels. The opacity is the square root of the share, and never faint."""
    pixels = np.empty((*shares.shape, 4))
    pixels[..., :3] = _WRONG
    pixels[np.diag_indices(len(shares))] = (*_RIGHT, 0)
    pixels[..., 3] = np.where(shares > 0, 0.2 + 0.8 * np.sqrt(shares), 0)
    return pixels


def _series(index: int) -> dict[str, Any]:
    """Return the color and the marker of a line, so that lines differ in print too."""
    marker = _MARKERS[index % len(_MARKERS)]
    return {"color": _SERIES[index % len(_SERIES)], "marker": marker}


def _add_legend(axes: Axes) -> None:
    """Add a legend above the axes, where it covers nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=10)


def _thin_out(curve: Curve) -> tuple[list[float], list[float]]:
    """Return at most MAX_POINTS points, means of consecutive ones."""
    num_points = len(curve.epochs)
    if num_points <= MAX_POINTS:
        return curve.epochs, curve.values

    starts = np.linspace(0, num_points, MAX_POINTS, endpoint=False).astype(int)
    lengths = np.diff([*starts, num_points])
    epochs = np.add.reduceat(curve.epochs, starts) / lengths
    values = np.add.reduceat(curve.values, starts) / lengths
    return epochs.tolist(), values.tolist()


class _Drawing:
    """A figure, and its SVG once it is drawn."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.svg = Markup("")


@contextmanager
def _figure(
    name: str, title: str, *, width: float = 5.6, height: float = 3.4
) -> Iterator[_Drawing]:
    """Draw a figure in the style of the page. After the block, it has its SVG.

    Args:
        name: Name of the figure, which makes its ids unique on the page.
        title: Title for screen readers.
        width: Width in inches.
        height: Height in inches.
    """
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        drawing = _Drawing(Figure(figsize=(width, height), layout="constrained"))
        FigureCanvasSVG(drawing.figure)
        yield drawing

        file = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawing.figure.savefig(file, format="svg", metadata=metadata)
    drawing.svg = Markup(_embed(file.getvalue(), name=name, title=title))


def _embed(svg: str, *, name: str, title: str) -> str:
    """Return an SVG file as an element of the page: its ids, colors and fonts belong there."""
    svg = svg[svg.index("<svg") :]  # without the XML prolog
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id=")|(url\(#|href="#)', rf"\g<0>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for color, variable in _THEME.items():
        svg = svg.replace(color, f"var({variable})")

    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening).removeprefix("<svg")
    return f'<svg id="{name}" role="img" aria-label="{escape(title)}"{opening}>{rest}'
