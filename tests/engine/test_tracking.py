"""Trackers of a run: what they record, across restarts, and what happens when they fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast.runs.run_record import read_record
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path, list_checkpoints
from tests.engine.tracked_records import (
    Points,
    json_points,
    tensorboard_points,
    wandb_points,
    wandb_records,
)

Start = Callable[..., tuple[int, str]]

ALL = ["jsonl", "mlflow", "trackio", "wandb"]
TRACKED: dict[str, Any] = {
    "SOLVER__MAX_EPOCH": 2,
    "TRAIN__EVAL_PERIOD": 1,
    "LOG_PERIOD": 1,
    "TENSORBOARD__ENABLE": True,
}
TRAINED = [1, 2, 3, 4, 5, 6, 7, 8]  # steps of two epochs
VALIDATED = [4, 8]


def environment() -> dict[str, str]:
    """Variables of a run that must not reach the network, or the folders of the user."""
    return {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": "", "WANDB_SILENT": "true"}


def steps_of(points: Points, tag: str) -> list[int]:
    return [step for step, _ in points[tag]]


def lose_second_epoch(run: Path) -> None:
    """Leave what a crash after a checkpoint that was never written would leave."""
    checkpoint_path(str(run), epoch=2).unlink()
    (run / "best.pyth").unlink()


@pytest.mark.parametrize("how", ["killed", "lost"])
def test_no_point_is_written_twice(start: Start, tmp_path: Path, how: str) -> None:
    run, settings = tmp_path / "run", {**TRACKED, "TRACKERS__NAMES": "[jsonl]"}
    if how == "killed":
        status, _ = start(**settings, signal="SIGKILL", when="validation")
        assert status == -9
    else:
        assert start(**settings)[0] == 0
        lose_second_epoch(run)
    status, printed = start(**settings)
    assert (status, "resuming at" in printed) == (0, True), printed

    for points in (tensorboard_points(run / "tensorboard"), json_points(run)):
        assert steps_of(points, "train/loss") == TRAINED
        assert steps_of(points, "val/top1") == VALIDATED
        assert steps_of(points, "final/top1") == [8]
    images = tensorboard_points(run / "tensorboard")
    assert steps_of(images, "val/confusion_matrix") == VALIDATED
    assert steps_of(images, "train/clips") == [0]


def test_a_finished_run_records_nothing_again(start: Start, tmp_path: Path) -> None:
    settings = {**TRACKED, "TRACKERS__NAMES": "[jsonl]", "SOLVER__MAX_EPOCH": 1}
    for _ in range(2):
        assert start(**settings)[0] == 0
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 1
    assert steps_of(json_points(tmp_path / "run"), "final/top1") == [4]


def test_a_resumed_run_continues_its_records(start: Start, tmp_path: Path) -> None:
    for module in ("wandb", "mlflow", "trackio"):
        pytest.importorskip(module)
    run = tmp_path / "run"
    settings = {
        **TRACKED,
        "TRACKERS__NAMES": f"[{','.join(ALL)}]",
        "TRACKERS__RUN_NAME": "mine",
        "TRACKERS__GROUP": "ours",
        "TRACKERS__TAGS": "[small]",
        "environment": environment(),
    }
    assert start(**settings)[0] == 0
    lose_second_epoch(run)
    status, printed = start(**settings, TEST__ENABLE=True)
    assert (status, "is off from here on" in printed) == (0, False), printed

    record = read_record(str(run))
    assert record is not None
    kept = load_checkpoint(list_checkpoints(str(run))[0])["tracker_records"]
    assert kept["wandb"] == record.run_id
    check_wandb(run, run_id=record.run_id)
    check_mlflow(run, record_id=kept["mlflow"])
    check_trackio(run, record_id=kept["trackio"])
    assert steps_of(json_points(run), "test/top1") == [8]


def check_wandb(run: Path, *, run_id: str) -> None:
    records = list(wandb_records(run))
    assert not any(record.HasField("environment") for record in records)  # host, user and folders
    assert {record.run.host for record in records if record.HasField("run")} == {""}
    started = [record.run for record in wandb_records(run) if record.HasField("run")]
    assert {record.run_id for record in started} == {run_id}
    assert {(record.display_name, record.run_group) for record in started} == {("mine", "ours")}
    config = {item.key: item.value_json for item in started[0].config.update}
    assert config["SOLVER.MAX_EPOCH"] == "2"
    assert "commit" in config["run_by"]
    assert {*steps_of(wandb_points(run), "train/loss")} == {*TRAINED}

    summaries = [record.summary for record in wandb_records(run) if record.HasField("summary")]
    sent = {item.key or ".".join(item.nested_key) for one in summaries for item in one.update}
    assert {"final/top1", "test/top1"} <= sent


def check_mlflow(run: Path, *, record_id: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("slowfast")
    assert experiment is not None
    [found] = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.status) == (record_id, "FINISHED")
    assert found.info.run_name == "mine"
    assert found.data.params["SOLVER.MAX_EPOCH"] == "2"
    assert found.data.tags["slowfast.group"] == "ours"
    assert found.data.metrics.keys() >= {"final/top1", "test/top1"}
    losses = client.get_metric_history(record_id, "train/loss")
    assert {metric.step for metric in losses} == {*TRAINED}
    assert client.list_artifacts(record_id, "images")


def check_trackio(run: Path, *, record_id: str) -> None:
    import sqlite3

    [path] = run.glob("trackio/*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    assert {name for name, *_ in rows} == {record_id}
    assert {step for _, step, text in rows if b"train/loss" in text} == {*TRAINED}


def test_trackers_that_fail_change_nothing(
    serve: Callable[..., list[int]], arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    states, printed = [], ""
    for folder, names in (("plain", []), ("run", ["FailsAtStart", "FailsLater", "FailsAtEnd"])):
        settings = {**TRACKED, "TENSORBOARD__ENABLE": False, "SOLVER__MAX_EPOCH": 1}
        words = arguments(folder, 1, TRACKERS__NAMES=f"[{','.join(names)}]", **settings)
        output = tmp_path / f"{folder}.txt"
        command = ["--import", "failing_trackers", *words]
        assert serve(command, num_processes=1, output=output) == [0], output.read_text()
        printed = output.read_text()
        states.append(load_checkpoint(checkpoint_path(str(tmp_path / folder), epoch=1)))

    for name, reason in (
        ("FailsAtStart", "ConnectionError: no network"),
        ("FailsLater", "No space left on device"),
        ("FailsAtEnd", "SystemExit: closed"),
    ):
        assert printed.count(f"the tracker {name} is off from here on") == 1
        assert reason in printed
    plain, tracked = states
    for name, weight in plain["model_state"].items():
        torch.testing.assert_close(tracked["model_state"][name], weight, rtol=0, atol=0)


def test_only_the_main_process_tracks_and_the_rehearsal_leaves_no_trace(
    serve: Callable[..., list[int]], arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    settings = {**TRACKED, "SOLVER__MAX_EPOCH": 1, "TRAIN__REHEARSE": True, "TRAIN__BATCH_SIZE": 8}
    assert serve(arguments("run", 2, **settings), num_processes=2) == [0, 0]
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 1
    points = tensorboard_points(tmp_path / "run/tensorboard")
    assert steps_of(points, "train/loss") == [1, 2, 3, 4]
    assert steps_of(points, "val/mistakes") == [4]


def test_unknown_trackers_are_problems_before_the_start(start: Start, tmp_path: Path) -> None:
    status, printed = start(TRACKERS__NAMES="[tensorboard,nothing,jsonl,jsonl]")
    assert status == 1
    assert "TRACKERS.NAMES has 'tensorboard'. Set TENSORBOARD.ENABLE True instead" in printed
    assert "TRACKERS.NAMES has 'nothing'. Choose from jsonl, mlflow, trackio, wandb" in printed
    assert "TRACKERS.NAMES has 'jsonl' more than once" in printed
    assert not (tmp_path / "run").exists()


def test_classes_of_figures_must_exist(start: Start, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("LEFT\nsideways\n")
    key = {"TENSORBOARD__CONFUSION_MATRIX__SUBSET_PATH": tmp_path / "some.txt"}
    status, printed = start(TENSORBOARD__ENABLE=True, **key)
    assert status == 1
    assert "some.txt: names no class of the data: sideways" in printed

    layers = {"TENSORBOARD__MODEL_VIS__ENABLE": True, "TENSORBOARD__MODEL_VIS__LAYER_LIST": "[s1]"}
    status, printed = start(TENSORBOARD__ENABLE=True, **layers)
    assert status == 1
    assert "TENSORBOARD.MODEL_VIS.LAYER_LIST: 's1' matches no module" in printed
