"""Curves and last validation of a training, from what it wrote to its OUTPUT_DIR."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import simplejson

from slowfast.utils.files import read_json

_MARK = b"json_stats: "


class Curve(NamedTuple):
    """Values of one quantity over the epochs of a training."""

    epochs: list[float]  # ascending
    values: list[float]


class TrainingCurves(NamedTuple):
    """Curves of a training by name: loss, top1 and so on. Accuracies are in percent."""

    train: dict[str, Curve]  # curves over the steps
    val: dict[str, Curve]  # curves over the validations
    last_validation: dict[str, Any] | None = None  # its epoch and all its metrics


_QUANTITIES = {
    "train": ("loss", "top1"),
    "val": ("loss", "top1", "top5", "mean_class_accuracy"),
}


def read_training(output_dir: Path) -> TrainingCurves | None:
    """Return the curves and the last validation of the training in a folder.

    Returns:
        The curves, or None if the folder holds no training.
    """
    curves = read_training_log(output_dir / "stdout.log")
    if curves is None:
        return None
    try:
        validation = read_json(output_dir / "validation_metrics.json", remedy="")
    except (OSError, ValueError):  # none yet, or torn by a crash of the machine
        return curves
    return curves._replace(last_validation=validation)


def read_training_log(path: Path) -> TrainingCurves | None:
    """Return the curves of the training that wrote a log.

    A log holds all parts of a training that was resumed. Where they overlap, the last value counts.
    Lines that are torn are skipped, and so are values that are not finite.

    Args:
        path: The log, OUTPUT_DIR/stdout.log.

    Returns:
        The curves, or None if there is no log or it holds no training.
    """
    points: dict[tuple[str, str], dict[float, float]] = {}
    for stats in _read_stats(path):
        split, epoch = _locate(stats)
        for name in _QUANTITIES.get(split, ()):
            value = stats.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                points.setdefault((split, name), {})[epoch] = value
            else:
                points.get((split, name), {}).pop(epoch, None)

    if not any(points.values()):
        return None
    curves: dict[str, dict[str, Curve]] = {"train": {}, "val": {}}
    for (split, name), values in points.items():
        epochs = sorted(values)
        curves[split][name] = Curve(epochs, [values[epoch] for epoch in epochs])
    return TrainingCurves(curves["train"], curves["val"])


def _read_stats(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            for line in file:
                _, mark, text = line.partition(_MARK)
                if mark and (b'"train_step"' in text or b'"val_epoch"' in text):
                    yield from _parse(text)
    except (FileNotFoundError, NotADirectoryError):
        return


def _parse(text: bytes) -> list[dict[str, Any]]:
    try:
        stats = simplejson.loads(text)
    except ValueError:  # the process was killed while it wrote the line
        return []
    return [stats] if isinstance(stats, dict) else []


def _locate(stats: dict[str, Any]) -> tuple[str, float]:
    """Return the split of a record, "" for none, and its time in finished epochs."""
    try:
        if stats["_type"] == "train_step":
            return "train", stats["epoch"] - 1 + stats["step"] / stats["num_steps"]
        if stats["_type"] == "val_epoch":
            return "val", float(stats["epoch"])
    except (KeyError, TypeError, ZeroDivisionError):
        pass
    return "", 0.0
