"""The table that a test prints."""

import numpy as np

from slowfast.evaluation.console_table import format_table
from slowfast.evaluation.metrics import MetricCounts, compute_metrics


def test_the_table_names_every_class_that_has_videos() -> None:
    counts = MetricCounts(3)
    counts.add(np.log([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]), np.array([0, 1]))
    names = ["left", "right\n\x1b[2J", "up"]
    text = format_table(compute_metrics(counts, names), title="test, 1 view")
    assert text.splitlines() == [
        "test, 1 view",
        "  class              videos   top-1",
        "  left                    1  100.00",
        "  right\\n\\x1b[2J          1    0.00",
        "  all classes             2   50.00    top-5 100.00"
        "    95 % interval of top-1: 0.00 to 100.00",
        "  mean over classes           50.00",
        "  scored 2/2",
    ]


def test_the_table_tells_how_many_videos_have_scores() -> None:
    counts = MetricCounts(2)
    counts.add(np.log([[0.7, 0.3]]), np.array([0]))
    counts.add_unscored([1], nonfinite=False)
    text = format_table(compute_metrics(counts, ["left", "right"]), title="test")
    assert (
        text.splitlines()[-1]
        == "  scored 1/2. With the others counted as wrong: top-1 50.00  top-5 50.00"
    )
