"""A test on a list without labels: its videos are predicted with the scores of any other test."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slowfast.config import CfgNode
from slowfast.datasets.build import find_problems
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from slowfast.evaluation.result import open_result
from slowfast.evaluation.unlabeled_metrics import UnlabeledMetrics
from slowfast.models.build import build_model
from slowfast.utils.checkpoint import save_checkpoint
from tests.engine.outputs import read_logits

TinyCfg = Callable[..., CfgNode]


@pytest.fixture
def weights(tiny_cfg: TinyCfg, tmp_path: Path, motion_folder: Path) -> Path:
    """Random weights with class names."""
    torch.manual_seed(3)
    names = (motion_folder / "classes.txt").read_text().splitlines()
    path = tmp_path / "weights.pyth"
    state = build_model(tiny_cfg()).state_dict()
    save_checkpoint(path, {"model_state": state, "class_names": names})
    return path


def remove_labels(source: Path, folder: Path, label: str = "") -> Path:
    """Write the test list of a folder without labels, or with one label for all videos."""
    paths = [line.rpartition(",")[0] for line in (source / "test.csv").read_text().splitlines()]
    folder.mkdir()
    (folder / "test.csv").write_text("".join(f"{path}{label}\n" for path in paths))
    return folder


def test_predictions_are_those_of_the_list_with_labels(
    tiny_cfg: TinyCfg, weights: Path, motion_folder: Path, tmp_path: Path
) -> None:
    settings = {"TEST__CHECKPOINT_FILE_PATH": weights, "TRAIN__ENABLE": False}
    evaluate(tiny_cfg(**settings))
    run = Path(tiny_cfg().OUTPUT_DIR)
    expected, logits = open_result(run).predictions(), read_logits(run)

    settings["DATA__PATH_TO_DATA_DIR"] = remove_labels(motion_folder, tmp_path / "lists", ",-1")
    settings["DATA__CLASS_NAMES"] = ""  # the names are in the weights
    cfg = tiny_cfg(**settings, OUTPUT_DIR=tmp_path / "unlabeled")
    metrics = evaluate(cfg)
    assert isinstance(metrics, UnlabeledMetrics)
    result = open_result(tmp_path / "unlabeled")
    np.testing.assert_array_equal(read_logits(tmp_path / "unlabeled"), logits)
    names = ["path", "prediction", "top_names", "top_probabilities", "status"]
    assert result.predictions(*names).equals(expected.select(names))

    counts = np.bincount(expected["prediction"].to_numpy(), minlength=8).tolist()
    assert [entry.predicted for entry in metrics.classes] == counts
    log = (tmp_path / "unlabeled/stdout.log").read_text()
    assert "predicted 24/24, with a mean confidence" in log
    assert '"top1"' not in log
    assert "class names" not in log  # nothing warns about them

    with (tmp_path / "unlabeled/test/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [top[0] for top in expected["top_names"].to_pylist()]

    assert evaluate(cfg) == metrics  # it is finished
    assert "this test is finished" in (tmp_path / "unlabeled/stdout.log").read_text()


def test_unreadable_videos_keep_their_rules(
    tiny_cfg: TinyCfg, weights: Path, broken_folder: Path, tmp_path: Path
) -> None:
    cfg = tiny_cfg(
        TEST__CHECKPOINT_FILE_PATH=weights,
        TEST__REPORT=True,
        DATA__PATH_TO_DATA_DIR=remove_labels(broken_folder, tmp_path / "lists"),
        DATA__PATH_PREFIX=broken_folder,
    )
    metrics = evaluate(cfg)
    assert (metrics.num_videos, metrics.num_scored, metrics.num_unreadable) == (20, 15, 5)

    folder = tmp_path / "run/test"
    with (folder / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] != "scored"]
    assert len(rows) == 5
    for row in rows:
        assert row["path"] in row["reason"]
        assert row["class"] == row["probability"] == ""
    page = (folder / "report.html").read_text()
    assert page.count("data:image/jpeg") == 15  # a thumbnail of each scored video


def test_a_training_may_end_with_an_unlabeled_test(
    tiny_cfg: TinyCfg, motion_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists = remove_labels(motion_folder, tmp_path / "lists")
    for split in ("train", "val"):
        (lists / f"{split}.csv").write_text((motion_folder / f"{split}.csv").read_text())
    cfg = tiny_cfg(
        DATA__PATH_TO_DATA_DIR=lists,
        TRAIN__REHEARSE=True,
        TRAIN__BATCH_SIZE=16,
        TEST__NUM_ENSEMBLE_VIEWS=1,
        SOLVER__MAX_EPOCH=1,
    )
    assert find_problems(cfg) == []
    assert "test.csv has no labels: the test predicts its videos, and scores none" in caplog.text

    assert train(cfg)
    metrics = evaluate(cfg)
    assert isinstance(metrics, UnlabeledMetrics)
    assert metrics.num_scored == 24


def test_training_without_labels_is_refused_at_the_start(
    tiny_cfg: TinyCfg, motion_folder: Path, tmp_path: Path
) -> None:
    lists = remove_labels(motion_folder, tmp_path / "lists")
    (lists / "train.csv").write_text((motion_folder / "train.csv").read_text())
    (lists / "val.csv").write_text((lists / "test.csv").read_text())
    (problem,) = find_problems(tiny_cfg(DATA__PATH_TO_DATA_DIR=lists))
    assert problem.startswith(f"{lists}/val.csv has 24 invalid rows:\n    line 1 is 'test/")
    assert "Expected a path and a class number" in problem
