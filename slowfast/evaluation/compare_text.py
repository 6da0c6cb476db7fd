"""Comparison of tests as it is printed on the console."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from slowfast.evaluation.compare import (
    RIGHT_TO_WRONG,
    WRONG_TO_RIGHT,
    ComparedResult,
    Comparison,
    Difference,
)
from slowfast.evaluation.metrics import Metrics
from slowfast.utils.text import count, printable

# Field of `Metrics`, its name, and its number of digits.
METRICS = (
    ("top1", "top-1 (%)", 2),
    ("top5", "top-5 (%)", 2),
    ("mean_class_accuracy", "mean class accuracy (%)", 2),
    ("macro_f1", "macro F1 (%)", 2),
    ("nll", "NLL", 4),
    ("ece", "ECE (%)", 2),
)


def format_comparison(comparison: Comparison, *, max_rows: int = 10) -> str:
    """Return a comparison as text.

    Args:
        comparison: The comparison.
        max_rows: Rows of each list of classes or videos. The others are counted.
    """
    results = [_format_result(compared) for compared in comparison.results]
    lines = [*results, "", *_format_metrics(comparison)]
    for difference in comparison.differences:
        lines += ["", *_format_difference(difference, comparison, max_rows)]
    return "\n".join(lines)


def format_metric(metrics: Metrics, name: str, digits: int) -> str:
    """Return a metric with its interval, such as `87.50 (68.75 to 100.00)`.

    Args:
        metrics: Metrics of a result.
        name: Field of the metrics.
        digits: Number of digits after the point.
    """
    text = f"{getattr(metrics, name):.{digits}f}"
    interval = metrics.intervals.get(name)
    if interval is None:
        return text
    low, high = interval
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def describe_difference(difference: Difference, comparison: Comparison) -> list[str]:
    """Return the difference of two accuracies and McNemar's test, as sentences."""
    letter, first = difference.letter, comparison.results[0].letter
    level = 100 * comparison.results[0].metrics.intervals["level"]
    low, high = difference.interval
    change = difference.after - difference.before

    videos = f"{difference.num_videos} of {count(comparison.num_listed, 'listed video')}"
    return [
        f"{letter} against {first}, over the {videos} that both scored",
        f"top-1: {difference.before:.2f} -> {difference.after:.2f}, difference {change:+.2f} "
        f"({level:g} % interval {low:+.2f} to {high:+.2f})",
        f"McNemar's test: p = {difference.p_value:.3g}. Only {letter} classifies "
        f"{count(difference.only_after, 'video')} correctly, only {first} {difference.only_before}",
    ]


def _format_result(compared: ComparedResult) -> str:
    folder, weights = compared.result.folder, compared.result.record.weights
    text = f"{compared.letter}  {folder}  (weights {weights}"
    if compared.temperature is not None:
        text += f", temperature {compared.temperature:.4g}"
    return printable(f"{text})")


def _format_metrics(comparison: Comparison) -> list[str]:
    rows = [["", *(compared.letter for compared in comparison.results)]]
    scored = [
        f"{compared.metrics.num_scored}/{compared.metrics.num_videos}"
        for compared in comparison.results
    ]
    rows.append(["scored", *scored])
    for name, title, digits in METRICS:
        values = [format_metric(compared.metrics, name, digits) for compared in comparison.results]
        rows.append([title, *values])
    return _format_table(rows)


def _format_difference(difference: Difference, comparison: Comparison, max_rows: int) -> list[str]:
    title, *facts = describe_difference(difference, comparison)
    lines = [title, *(f"  {fact}" for fact in facts)]
    letters = comparison.results[0].letter, difference.letter

    if difference.classes:
        rows = [["class", "videos", *letters, "difference"]]
        for entry in difference.classes[:max_rows]:
            accuracies = [f"{value:.2f}" for value in (entry.before, entry.after)]
            cells = [entry.name, str(entry.support), *accuracies, f"{entry.difference:+.2f}"]
            rows.append(cells)
        lines += ["  classes that changed most", *_format_table(rows, indent=4)]
        lines += _format_rest(len(difference.classes) - max_rows)

    for change in (RIGHT_TO_WRONG, WRONG_TO_RIGHT):
        videos = videos_with(difference, change)
        lines.append(f"  {change}: {count(len(videos), 'video')}")
        if len(videos):
            lines += _format_table(_video_rows(videos.slice(0, max_rows), letters), indent=4)
            lines += _format_rest(len(videos) - max_rows)
    return lines


def videos_with(difference: Difference, change: str) -> pa.Table:
    """Return the videos that changed in one direction."""
    return difference.videos.filter(pc.equal(difference.videos["change"], change))


def _video_rows(videos: pa.Table, letters: tuple[str, str]) -> list[list[str]]:
    first, letter = letters
    rows = [["row", "label", f"prediction of {first}", f"prediction of {letter}", "path"]]
    for video in videos.to_pylist():
        names = [video[name] for name in ("class_name", "name_before", "name_after")]
        rows.append([str(video["row"]), *names, video["path"]])
    return rows


def _format_rest(number: int) -> list[str]:
    return [f"    and {number} more"] if number > 0 else []


def _format_table(rows: Sequence[Sequence[str]], *, indent: int = 2) -> list[str]:
    """Return the lines of a table with aligned columns."""
    cells = [[printable(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        " " * indent
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
