"""Table of the metrics of an evaluation as it is printed on the console."""

from slowfast.evaluation.metrics import Metrics
from slowfast.utils.text import printable


def format_table(metrics: Metrics, *, title: str) -> str:
    """Return a table of the accuracy of each class that has scored videos, and of all classes."""
    classes = [entry for entry in metrics.classes if entry.support]
    names = [printable(entry.name).replace("\n", "\\n") for entry in classes]
    width = max(len(name) for name in [*names, "mean over classes"])

    head = f"  {'class':<{width}}  {'videos':>6}  {'top-1':>6}"
    rows = [
        f"  {name:<{width}}  {entry.support:>6}  {entry.recall:>6.2f}"
        for name, entry in zip(names, classes, strict=True)
    ]

    low, high = metrics.intervals["top1"]
    level = 100 * metrics.intervals["level"]
    total = (
        f"  {'all classes':<{width}}  {metrics.num_scored:>6}  {metrics.top1:>6.2f}"
        f"    top-5 {metrics.top5:.2f}    {level:g} % interval of top-1: {low:.2f} to {high:.2f}"
    )
    mean = f"  {'mean over classes':<{width}}  {'':>6}  {metrics.mean_class_accuracy:>6.2f}"

    scored = f"  scored {metrics.num_scored}/{metrics.num_videos}"
    if metrics.num_scored < metrics.num_videos:
        scored += (
            f". With the others counted as wrong: top-1 {metrics.top1_listed:.2f}  "
            f"top-5 {metrics.top5_listed:.2f}"
        )
    return "\n".join([title, head, *rows, total, mean, scored])
