"""Table of the metrics of an evaluation as it is printed on the console."""

from slowfast.evaluation.metrics import Metrics
from slowfast.evaluation.unlabeled_metrics import UnlabeledMetrics
from slowfast.utils.text import count, printable

MAX_LINES = 10  # of the classes that were predicted


def format_table(metrics: Metrics | UnlabeledMetrics, *, title: str) -> str:
    """Return a table of the metrics.

    It has the accuracy of each class that has scored videos, and of all classes. Without labels, it
    has the classes that were predicted most often.
    """
    if isinstance(metrics, UnlabeledMetrics):
        return _format_predicted(metrics, title=title)
    return _format_accuracies(metrics, title=title)


def _format_predicted(metrics: UnlabeledMetrics, *, title: str) -> str:
    classes = [entry for entry in metrics.classes if entry.predicted]
    classes.sort(key=lambda entry: -entry.predicted)
    num_shown = MAX_LINES if len(classes) <= MAX_LINES else MAX_LINES - 1
    shown, others = classes[:num_shown], classes[num_shown:]
    names = [_one_line(entry.name) for entry in shown]
    numbers = [entry.predicted for entry in shown]
    if others:
        names.append(count(len(others), "other class"))
        numbers.append(sum(entry.predicted for entry in others))

    width = max(len(name) for name in [*names, "predicted class"])
    head = f"  {'predicted class':<{width}}  {'videos':>6}  {'%':>6}"
    rows = [
        f"  {name:<{width}}  {number:>6}  {100 * number / metrics.num_scored:>6.2f}"
        for name, number in zip(names, numbers, strict=True)
    ]
    total = (
        f"  predicted {metrics.num_scored}/{metrics.num_videos}, with a mean confidence of "
        f"{metrics.mean_confidence:.2f} %. The list has no labels, so there is no accuracy"
    )
    return "\n".join([title, head, *rows, total])


def _one_line(name: str) -> str:
    return printable(name).replace("\n", "\\n")


def _format_accuracies(metrics: Metrics, *, title: str) -> str:
    classes = [entry for entry in metrics.classes if entry.support]
    names = [_one_line(entry.name) for entry in classes]
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
