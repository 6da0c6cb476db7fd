"""Comparison of tests as a page: one HTML file with its styles, without scripts."""

from pathlib import Path
from typing import Any, NamedTuple

from slowfast.evaluation.compare import (
    RIGHT_TO_WRONG,
    WRONG_TO_RIGHT,
    ClassChange,
    Comparison,
    Difference,
)
from slowfast.evaluation.compare_text import (
    METRICS,
    describe_difference,
    format_metric,
    videos_with,
)
from slowfast.utils.files import write_file
from slowfast.utils.provenance import provenance
from slowfast.utils.text import printable

MAX_CLASSES = 1000  # rows of a table of classes
MAX_VIDEOS = 1000  # rows of a table of videos

_TEMPLATE = "compare_template.html"


class _VideoTable(NamedTuple):
    """Videos that changed in one direction."""

    change: str
    num_videos: int
    shown: list[dict[str, Any]]


class _Section(NamedTuple):
    """What the page says about one result against the first one."""

    letter: str
    title: str
    facts: list[str]
    num_classes: int
    classes: tuple[ClassChange, ...]
    tables: list[_VideoTable]


def write_page(path: Path, comparison: Comparison) -> None:
    """Write a comparison as a page. A browser that opens it loads nothing else.

    Tables of classes or videos end after 1000 rows, and the page counts the others.

    Raises:
        OSError: If the page cannot be written.
    """
    write_file(path, render_page(comparison))


def render_page(comparison: Comparison) -> str:
    """Return the page of a comparison, see `write_page`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = lambda text: printable(str(text))

    rows = [
        (title, [format_metric(compared.metrics, name, digits) for compared in comparison.results])
        for name, title, digits in METRICS
    ]
    return environment.get_template(_TEMPLATE).render(
        results=comparison.results,
        first=comparison.results[0].letter,
        level=100 * comparison.results[0].metrics.intervals["level"],
        metrics=rows,
        sections=[_section(difference, comparison) for difference in comparison.differences],
        run_by=provenance(),
    )


def _section(difference: Difference, comparison: Comparison) -> _Section:
    title, *facts = describe_difference(difference, comparison)
    tables = []
    for change in (RIGHT_TO_WRONG, WRONG_TO_RIGHT):
        videos = videos_with(difference, change)
        shown = videos.slice(0, MAX_VIDEOS).to_pylist()
        tables.append(_VideoTable(change.replace("->", "→"), len(videos), shown))

    return _Section(
        letter=difference.letter,
        title=title,
        facts=[fact.replace("->", "→") for fact in facts],
        num_classes=len(difference.classes),
        classes=difference.classes[:MAX_CLASSES],
        tables=tables,
    )
