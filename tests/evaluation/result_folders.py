"""Result directories of tests that never ran: random predictions with metrics that fit them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

NUM_BINS = 15
NUM_TOP = 5

RUN_BY = {
    "slowfast": "0.1.0",
    "path": "/code/slowfast",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": "no",
    "python": "3.11.9",
    "torch": "2.14.1",
    "torchvision": "0.29.1",
    "av": "17.0.1",
    "command": "python tools/run_net.py --cfg exp/quickstart/config.yaml",
    "cwd": "/code",
    "host": "node-1",
    "started": "2026-01-31T09:30:00+00:00",
}


def write_result_folder(
    folder: Path,
    *,
    num_classes: int = 8,
    num_videos: int = 100,
    num_unreadable: int = 0,
    num_nonfinite: int = 0,
    class_names: Sequence[str] | None = None,
    path_of: Callable[[int], str] = "videos/{:06d}.mp4".format,
    reason: str = "moov atom not found",
    seed: int = 0,
) -> Path:
    """Write metrics.json, predictions.parquet, config.yaml and the log of a training.

    Args:
        folder: Output directory of the run. The result is in its folder test.
        num_classes: Number of classes. The last one has no videos if there are at least three.
        num_videos: Number of listed videos.
        num_unreadable: Number of videos that could not be read, at every third row from 1.
        num_nonfinite: Number of videos with non-finite scores, at the rows after those.
        class_names: Names of the classes, by default `class 0` and so on.
        path_of: Function from the row to the path.
        reason: Reason of the unscored videos.
        seed: Seed of the predictions.

    Returns:
        The directory of the result.
    """
    rng = np.random.default_rng(seed)
    names = list(class_names or [f"class {number}" for number in range(num_classes)])
    num_used = num_classes - 1 if num_classes > 2 else num_classes
    labels = rng.integers(num_used, size=num_videos)
    unreadable = np.arange(1, num_videos, 3)[:num_unreadable]
    nonfinite = np.setdiff1d(np.arange(num_videos), unreadable)[:num_nonfinite]

    logits = rng.standard_normal((num_videos, num_classes)).astype(np.float32)
    logits[np.arange(num_videos), labels] += 2.5
    logits[np.arange(num_videos), (labels + 1) % num_used] += 1.2  # neighbors are confused
    probabilities = np.exp(1.5 * logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)

    status = np.full(num_videos, "scored", object)
    status[unreadable], status[nonfinite] = "unreadable", "nonfinite"
    columns = _make_columns(probabilities, labels=labels, status=status, names=names)
    columns["path"] = pa.array([path_of(row) for row in range(num_videos)])
    columns["reason"] = pa.array(["" if word == "scored" else reason for word in status])

    result = folder / "test"
    result.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata({"slowfast.predictions": "1"})
    pq.write_table(table, result / "predictions.parquet")
    metrics = _make_metrics(table, names=names)
    (result / "metrics.json").write_text(json.dumps(metrics, indent=1))
    (result / "config.yaml").write_text("DATA:\n  NUM_FRAMES: 8\nOUTPUT_DIR: output/quickstart\n")
    write_training_log(folder / "stdout.log")
    return result


def write_training_log(path: Path, *, num_epochs: int = 10, steps_per_epoch: int = 40) -> None:
    """Write the log of a training with 4 lines per epoch and a validation every second epoch."""
    lines = ["2026-01-31 09:30:00,000 slowfast: training starts"]
    for epoch in range(1, num_epochs + 1):
        for step in range(steps_per_epoch // 4, steps_per_epoch + 1, steps_per_epoch // 4):
            progress = (epoch - 1 + step / steps_per_epoch) / num_epochs
            stats = {"_type": "train_step", "epoch": epoch, "step": step}
            stats |= {"num_steps": steps_per_epoch, "loss": 2 - progress, "top1": 70 * progress}
            lines.append(json_line(stats))
        if epoch % 2 == 0:
            stats = {"_type": "val_epoch", "epoch": epoch, "loss": 2 - epoch / 8}
            lines.append(json_line({**stats, "top1": 6.5 * epoch, "top5": 9.5 * epoch}))
    path.write_text("\n".join(lines) + "\n")


def edit_metrics(folder: Path, **changes: Any) -> None:
    """Change some metrics of a result."""
    path = folder / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def json_line(stats: dict[str, Any]) -> str:
    """Return a line of a log with a JSON record."""
    return f"2026-01-31 09:31:00,000 slowfast.utils.progress: json_stats: {json.dumps(stats)}"


def _make_columns(
    probabilities: NDArray[np.float32],
    *,
    labels: NDArray[np.int64],
    status: NDArray[Any],
    names: list[str],
) -> dict[str, pa.Array]:
    num_videos, num_classes = probabilities.shape
    is_unscored = status != "scored"
    order = np.argsort(-probabilities, axis=1, kind="stable")
    top = order[:, : min(NUM_TOP, num_classes)]
    ranks = 1 + np.argmax(order == labels[:, None], axis=1)
    label_probabilities = probabilities[np.arange(num_videos), labels]
    top_probabilities = np.take_along_axis(probabilities, top, axis=1)

    def lists(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
        rows = [
            None if skip else row for row, skip in zip(values.tolist(), is_unscored, strict=True)
        ]
        return pa.array(rows, pa.list_(kind))

    return {
        "row": pa.array(np.arange(num_videos)),
        "path": pa.nulls(num_videos, pa.string()),
        "label": pa.array(labels, pa.int32()),
        "class_name": pa.array([names[label] for label in labels]),
        "prediction": pa.array(top[:, 0], pa.int32(), mask=is_unscored),
        "label_rank": pa.array(ranks, pa.int32(), mask=is_unscored),
        "nll": pa.array(-np.log(label_probabilities), pa.float32(), mask=is_unscored),
        "top_labels": lists(top, pa.int32()),
        "top_names": lists(np.array(names, object)[top], pa.string()),
        "top_probabilities": lists(top_probabilities, pa.float32()),
        "num_views": pa.array(np.where(is_unscored, 0, 12), pa.int32()),
        "status": pa.array(status),
        "reason": pa.nulls(num_videos, pa.string()),
    }


def _make_metrics(table: pa.Table, *, names: list[str]) -> dict[str, Any]:
    scored = table.filter(pa.array([word == "scored" for word in table["status"].to_pylist()]))
    labels = scored["label"].to_numpy()
    predictions = scored["prediction"].to_numpy()
    ranks, nll = scored["label_rank"].to_numpy(), scored["nll"].to_numpy()
    confidence = 100 * np.array([row[0] for row in scored["top_probabilities"].to_pylist()])
    statuses = table["status"].to_pylist()

    num_classes, num_scored = len(names), len(scored)
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, predictions), 1)
    top1, top5 = 100 * float(np.mean(ranks == 1)), 100 * float(np.mean(ranks <= 5))
    listed = np.bincount(table["label"].to_numpy(), minlength=num_classes)
    classes = _make_classes(confusion, listed=listed, names=names)
    used = [record for record in classes if record["support"]]

    reliability = _make_reliability(confidence, labels == predictions)
    gaps = [abs(r["confidence"] - r["accuracy"]) * r["count"] for r in reliability if r["count"]]
    values = {
        "top1": top1,
        "top5": top5,
        "mean_class_accuracy": float(np.mean([record["recall"] for record in used])),
        "macro_f1": float(np.mean([record["f1"] for record in used])),
        "nll": float(nll.mean()),
        "ece": sum(gaps) / num_scored,
    }

    found = np.nonzero(confusion)
    intervals = {name: [0.98 * value, 1.02 * value] for name, value in values.items()}
    return {
        "version": 1,
        "num_videos": len(table),
        "num_scored": num_scored,
        "num_unreadable": statuses.count("unreadable"),
        "num_nonfinite": statuses.count("nonfinite"),
        **values,
        "top1_listed": top1 * num_scored / len(table),
        "top5_listed": top5 * num_scored / len(table),
        "intervals": {"level": 0.95, "num_resamples": 1000, "seed": 0, **intervals},
        "classes": classes,
        "most_confused": _make_pairs(confusion),
        "confusion": {
            "labels": found[0].tolist(),
            "predictions": found[1].tolist(),
            "counts": confusion[found].tolist(),
        },
        "reliability": reliability,
        "views": _make_views(top1, top5),
        "num_clips": 4,
        "num_crops": 3,
        "fusion": "sum",
        "temperature": None,
        "seconds": 12.5,
        "videos_per_second": num_scored / 12.5,
        "num_processes": 2,
        "weights": "output/quickstart/checkpoints/checkpoint_epoch_00010.pyth",
        "weights_sha256": "ab" * 32,
        "list": "data/motion/test.csv",
        "device": "CPU",
        "dtype": "float32",
        "identity": {},
        "run_by": RUN_BY,
    }


def _make_classes(
    confusion: NDArray[np.int64], *, listed: NDArray[np.int64], names: list[str]
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        right = confusion[number, number]
        support, num_predicted = confusion[number].sum(), confusion[:, number].sum()
        precision = 100 * right / num_predicted if num_predicted else None
        recall = 100 * right / support if support else None
        f1 = 200 * right / (support + num_predicted) if support else None
        record = {"name": name, "support": int(support), "listed": int(listed[number])}
        records.append({**record, "precision": precision, "recall": recall, "f1": f1})
    return records


def _make_pairs(confusion: NDArray[np.int64]) -> list[dict[str, Any]]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    pairs = []
    for cell in np.argsort(-wrong, axis=None, kind="stable")[:50]:
        label, prediction = (int(index) for index in np.unravel_index(cell, wrong.shape))
        if number := int(wrong[label, prediction]):
            percent = 100 * number / int(confusion[label].sum())
            pair = {"label": label, "prediction": prediction, "count": number}
            pairs.append({**pair, "percent": percent})
    return pairs


def _make_reliability(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    bins = np.minimum((confidence / 100 * NUM_BINS).astype(int), NUM_BINS - 1)
    records = []
    for number in range(NUM_BINS):
        inside = bins == number
        has_any = bool(inside.any())
        record = {"low": 100 * number / NUM_BINS, "high": 100 * (number + 1) / NUM_BINS}
        record["count"] = int(inside.sum())
        mean_confidence = float(confidence[inside].mean()) if has_any else None
        accuracy = 100 * float(is_right[inside].mean()) if has_any else None
        records.append({**record, "confidence": mean_confidence, "accuracy": accuracy})
    return records


def _make_views(top1: float, top5: float) -> list[dict[str, Any]]:
    records = []
    for fusion, penalty in (("sum", 0.0), ("probabilities", 0.4), ("max", 1.1)):
        for num_crops in (1, 3):
            for num_clips in (1, 2, 3, 4):
                loss = penalty + 1.5 / num_clips + 1.2 / num_crops - 0.775
                record = {"num_clips": num_clips, "num_crops": num_crops, "fusion": fusion}
                records.append({**record, "top1": top1 - loss, "top5": top5 - loss / 3})
    return records
