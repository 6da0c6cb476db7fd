"""A bar chart of times over those of the plain formulation."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.cpu_rows.measurement import Line
from benchmarks.cpu_rows.workload import COMPILED, OURS, PLAIN

COLORS = {PLAIN: "#9aa3ad", OURS: "#1f6feb", COMPILED: "#0b3d91"}
PEER_COLOR = "#d9b26f"
TEXT, MUTED, GRID = "#1b1f24", "#57606a", "#e3e7eb"
BAR_INCHES, WIDTH_INCHES, MARGIN_INCHES = 0.3, 9.0, 1.1
GROUP_GAP = 1.5  # Bars between two rows, one of which holds the title.


def draw_chart(lines: Sequence[Line], path: Path, *, heading: str) -> None:
    """Write a PNG with a bar for each line that has a ratio to the plain formulation.

    Args:
        lines: Lines of the table, those of a row together.
        path: File to write.
        heading: Sentence about the machine.
    """
    measured = [line for line in lines if line.ratio == line.ratio]
    groups = [(name, list(group)) for name, group in groupby(measured, key=lambda line: line.row)]
    num_slots = len(measured) + GROUP_GAP * len(groups)

    height = MARGIN_INCHES + BAR_INCHES * max(num_slots, 2)
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.15, 0.55 / height, 0.8, 1 - MARGIN_INCHES / height))
    figure.text(0.02, 1 - 0.3 / height, "Time over the plain formulation", size=13, color=TEXT)
    figure.text(0.98, 1 - 0.3 / height, "shorter is faster", size=9, color=MUTED, ha="right")
    figure.text(0.02, 0.12 / height, heading, size=6.5, color=MUTED)

    largest = max((line.ratio for line in measured), default=1.0)
    _draw_groups(axes, groups, limit=1.3 * max(largest, 1.0))
    axes.set_ylim(num_slots, 0)
    figure.savefig(path, format="png")


def _draw_groups(axes: Axes, groups: Sequence[tuple[str, list[Line]]], *, limit: float) -> None:
    """Draw the bars of each row below its name."""
    ticks: dict[float, str] = {}
    position = 0.0
    for name, lines in groups:
        position += GROUP_GAP
        axes.text(
            0, position - 0.75, name, size=9.5, weight="bold", color=TEXT, va="center", ha="left"
        )
        for line in lines:
            _draw_bar(axes, line, position)
            ticks[position] = line.variant
            position += 1
        ends = (position - len(lines) - 0.5, position - 0.5)
        axes.vlines(1.0, *ends, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)), zorder=3)

    axes.set_xlim(0, limit)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=TEXT)
    axes.tick_params(axis="x", length=0, labelsize=8, labelcolor=MUTED)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_bar(axes: Axes, line: Line, position: float) -> None:
    assert line.times is not None
    color = COLORS.get(line.variant, PEER_COLOR)
    axes.barh(position, line.ratio, height=0.78, color=color, zorder=2)
    axes.annotate(
        f"{line.ratio:.2f}",
        (line.ratio, position),
        xytext=(5, 0),
        textcoords="offset points",
        size=9,
        weight="bold" if line.variant in (OURS, COMPILED) else "normal",
        color=TEXT,
        va="center",
        zorder=4,
    )
    axes.annotate(
        f"{line.times.fastest:.3g} s",
        (line.ratio, position),
        xytext=(33, 0),
        textcoords="offset points",
        size=8.5,
        color=MUTED,
        va="center",
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )
