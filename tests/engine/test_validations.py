"""Validation records of a run, and validations with non-finite scores."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import simplejson

from slowfast.config import CfgNode
from slowfast.engine.build import build_state
from slowfast.engine.checkpoints import CheckpointSaver, Retention
from slowfast.engine.validations import Validations, read_validations
from slowfast.evaluation.result import open_result
from slowfast.runs.run_checkpoints import best_validation
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import newest_checkpoint
from tests.engine.outputs import epochs_in

Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]

Finish = Callable[..., Path]
Start = Callable[..., tuple[int, str]]


def test_validations_after_the_checkpoint_are_forgotten(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    state = build_state(tiny_cfg(), run_id="a run")
    state.epoch = 2
    first = {"epoch": 1, "top1": 10.0, "top5": 50.0, "loss": 1.0}
    second = {"epoch": 2, "top1": 20.0, "top5": 50.0, "loss": 1.0}
    validations = Validations(
        str(tmp_path), run_id=state.run_id, records=state.validations, best=None, metric="top1"
    )
    validations.add(first, is_best=True)
    validations.add(second, is_best=True)
    retention = Retention(keep_last=0, keep_every=0)
    saver = CheckpointSaver(str(tmp_path), lock=None, minutes=0, retention=retention)
    saver.save_best(state, validation=second)

    for epoch, records, best in ((2, [first, second], second), (1, [first], None)):
        assert read_validations(str(tmp_path), "a run", max_epoch=epoch) == records
        assert best_validation(str(tmp_path), "a run", max_epoch=epoch) == best
    assert read_validations(str(tmp_path), "another run", max_epoch=2) == []
    assert best_validation(str(tmp_path), "another run", max_epoch=2) is None


def test_a_non_finite_score_is_never_counted(
    serve: Serve, faulty_arguments: Arguments, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    command = faulty_arguments(kind="nan_in_evaluation")
    assert serve(command, num_processes=1, output=output) == [1]
    error = "error: validation after epoch 2: 4 videos of 16 have non-finite scores"
    assert error in output.read_text()
    assert newest_checkpoint(str(tmp_path / "run"))
    assert not (tmp_path / "run/best.pyth").exists()

    text = "TRAIN.ENABLE False TEST.ENABLE True TEST.ALLOW_UNSCORED True"
    assert serve([*command, *text.split()], num_processes=1, output=output) == [3]
    result = simplejson.loads((tmp_path / "run/test/metrics.json").read_text())
    assert result["num_nonfinite"] == 24 - result["num_scored"] > 0
    predictions = open_result(tmp_path / "run").predictions("status", "reason").to_pylist()
    reasons = [row["reason"] for row in predictions if row["status"] == "nonfinite"]
    assert len(reasons) == result["num_nonfinite"]
    assert reasons[0].endswith(": its scores are not finite")


def test_an_empty_or_lost_validation_record_does_not_stop_a_run(
    start: Start, finish: Finish
) -> None:
    settings: dict[str, Any] = {"TRAIN__EVAL_PERIOD": 1, "TRAIN__RESUME_WITH_CHANGES": True}
    path = finish(SOLVER__MAX_EPOCH=2, **settings) / "validation.json"
    first = simplejson.loads(path.read_text())["validations"][0]
    path.write_text("")
    status, printed = start(SOLVER__MAX_EPOCH=3, **settings)
    assert status == 0
    assert re.search(rf"{path}: is empty. The records in the checkpoint are used", printed)
    records = simplejson.loads(path.read_text())["validations"]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[0] == first


def test_training_stops_early_and_stays_stopped(start: Start, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "SOLVER__MAX_EPOCH": 20,
        "SOLVER__BASE_LR": 1e-12,  # Nothing improves.
        "SOLVER__COSINE_END_LR": 0,
        "TRAIN__EMA_DECAY": 0,
        "TRAIN__EVAL_PERIOD": 1,
        "TRAIN__EARLY_STOP_PATIENCE": 2,
        "TRAIN__CHECKPOINT_PERIOD": 10,
    }
    status, printed = start(**settings)
    assert status == 0
    assert "stopping early after epoch 3: 2 validations without a better top1" in printed
    assert epochs_in(tmp_path / "run") == [3]
    assert load_checkpoint(tmp_path / "run/best.pyth")["epoch"] == 1
    status, printed = start(**settings)
    assert status == 0
    assert ": train epoch" not in printed
    assert epochs_in(tmp_path / "run") == [3]
