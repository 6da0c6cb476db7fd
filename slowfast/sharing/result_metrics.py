"""Metrics of a test as an exported model carries them: no path, no video, nothing of a machine."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slowfast.evaluation.result import Result

NUM_CONFUSED = 10  # most confused pairs of classes
NUM_WEAKEST = 5  # classes with the lowest recall

_NUMBERS = ("num_videos", "num_scored", "num_clips", "num_crops", "fusion", "temperature")
_METRICS = ("top1", "top5", "mean_class_accuracy", "macro_f1", "nll", "ece")


def make_test_metrics(result: "Result") -> dict[str, Any]:
    """Return the metrics of a result on a list with labels, as plain data.

    Accuracies, F1, ECE and recalls are in percent. An interval is (low, high) at `level`.
    """
    metrics = result.metrics
    names = [entry["name"] for entry in metrics["classes"]]
    pairs = metrics["most_confused"][:NUM_CONFUSED]
    intervals = metrics["intervals"]
    tested = [entry for entry in metrics["classes"] if entry["recall"] is not None]
    weakest = sorted(tested, key=lambda entry: entry["recall"])[:NUM_WEAKEST]
    return {
        **{name: metrics[name] for name in (*_NUMBERS, *_METRICS)},
        "level": intervals.get("level"),
        "intervals": {name: intervals[name] for name in _METRICS if name in intervals},
        "most_confused": [
            {
                "label": names[pair["label"]],
                "prediction": names[pair["prediction"]],
                "count": pair["count"],
                "percent": pair["percent"],
            }
            for pair in pairs
        ],
        "weakest_classes": [
            {name: entry[name] for name in ("name", "recall", "support")} for entry in weakest
        ],
    }
