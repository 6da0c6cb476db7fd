"""The table that a test prints."""

import torch

from slowfast.evaluation.metrics import summarize
from slowfast.evaluation.report import format_table
from tests.evaluation.combined_table import combined_table


def test_the_table_names_every_class_that_has_videos() -> None:
    result = summarize(combined_table([[3.0, 2, 1], [3, 2, 1]]), torch.tensor([0, 1]))
    text = format_table(result, ["left", "right", "up"], title="test, 1 view")
    assert text.splitlines() == [
        "test, 1 view",
        "  class        videos   top-1",
        "  left              1  100.00",
        "  right             1    0.00",
        "  all classes       2   50.00    top-5 100.00",
        "  scored 2/2",
    ]

    table = combined_table([[3.0, 2, 1], [3, 2, 1]], unreadable={1: "gone"})
    result = summarize(table, torch.tensor([0, 1]))
    text = format_table(result, ["left", "right", "up"], title="test, 1 view")
    assert (
        text.splitlines()[-1]
        == "  scored 1/2. With the others counted as wrong: top-1 50.00  top-5 50.00"
    )
