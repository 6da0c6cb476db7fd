"""Training curves that the report page reads from a log."""

from pathlib import Path

from slowfast.evaluation.report.figures import MAX_POINTS, _thin_out
from slowfast.evaluation.report.training_log import Curve, read_training_log
from tests.evaluation.result_folders import json_line


def step(epoch: int, number: int, loss: float | None) -> str:
    stats = {"_type": "train_step", "epoch": epoch, "step": number, "num_steps": 4}
    return json_line({**stats, "loss": loss, "top1": 10.0 * number})


def write_log(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_steps_are_placed_in_epochs(tmp_path: Path) -> None:
    validation = json_line({"_type": "val_epoch", "epoch": 1, "top1": 55.0, "loss": 1.25})
    log = write_log(tmp_path / "log", step(1, 2, 3.0), step(1, 4, 2.0), validation, step(2, 2, 1.5))
    curves = read_training_log(log)
    assert curves is not None
    assert curves.train["loss"] == Curve([0.5, 1.0, 1.5], [3.0, 2.0, 1.5])
    assert curves.train["top1"] == Curve([0.5, 1.0, 1.5], [20.0, 40.0, 20.0])
    assert curves.val == {"loss": Curve([1.0], [1.25]), "top1": Curve([1.0], [55.0])}


def test_the_last_value_of_a_step_counts(tmp_path: Path) -> None:
    lines = [step(1, 2, 3.0), step(1, 4, 2.0), step(2, 2, 9.0), step(1, 4, 1.75), step(2, 2, 1.5)]
    curves = read_training_log(write_log(tmp_path / "log", *lines))
    assert curves is not None
    assert curves.train["loss"] == Curve([0.5, 1.0, 1.5], [3.0, 1.75, 1.5])


def test_torn_lines_and_other_records_are_skipped(tmp_path: Path) -> None:
    log = write_log(
        tmp_path / "log",
        "2026-01-31 a line about train_step",
        step(1, 2, 3.0)[:-9],
        step(1, 3, None),  # a loss that was not finite
        json_line({"_type": "test", "top1": 1.0, "note": "val_epoch"}),
        'json_stats: ["train_step"]',
        'json_stats: {"_type": "train_step"}',
        step(1, 4, 2.0),
    )
    curves = read_training_log(log)
    assert curves is not None
    assert curves.train["loss"] == Curve([1.0], [2.0])
    assert curves.val == {}


def test_a_log_without_training_has_no_curves(tmp_path: Path) -> None:
    assert read_training_log(write_log(tmp_path / "log", json_line({"_type": "test"}))) is None
    assert read_training_log(tmp_path / "missing") is None


def test_a_long_curve_becomes_means() -> None:
    num_points = 4 * MAX_POINTS
    curve = Curve([float(index) for index in range(num_points)], [1.0, 3.0] * (num_points // 2))
    epochs, values = _thin_out(curve)
    assert epochs == [4 * index + 1.5 for index in range(MAX_POINTS)]
    assert values == [2.0] * MAX_POINTS
