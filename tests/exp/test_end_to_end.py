"""Experiments from end to end, with their scripts."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from slowfast.evaluation.result import open_result
from slowfast.models.zoo import published
from slowfast.utils.text import count
from tests.engine.equal_runs import assert_equal_ends
from tests.engine.outputs import read_logits
from tests.exp.experiments import EXPERIMENTS, LIGHT_TABLE
from tests.exp.small_run import SmallRun

Serve = Callable[..., list[int]]

# Experiments of every test run, and whether their weights are named instead of found.
SAMPLE = (
    ("uniformer_s8x8_k400", False),
    ("uniformer_s16x4_hmdb51_prek400", True),
    ("uniformer_xxs4_128_k400", False),
)


def read_scores(output: Path) -> NDArray[np.float32]:
    result = open_result(output)
    assert result.metrics["num_scored"] == 4
    return read_logits(output)


def check_training(run: SmallRun, *, names_weights: bool) -> Path:
    """Train and test with run.sh, and return the last checkpoint."""
    experiment = EXPERIMENTS[run.exp]
    weights = published()[experiment.start_weights].file
    named = {}
    if names_weights:
        named = {"WEIGHTS": str(Path(run.environment["WEIGHTS_DIR"], weights)), "WEIGHTS_DIR": ""}
    trained = run.script("run.sh", **named)
    check_printed(run, trained)

    checkpoint = max((run.output / "checkpoints").glob("*epoch*.pyth"))
    state = torch.load(checkpoint, weights_only=True)
    steps = {int(moments["step"]) for moments in state["optimizer_state"]["state"].values()}
    assert (state["epoch"], steps) == (1, {2})
    assert len(state["model_state"]["head.bias"]) == experiment.num_classes
    return checkpoint


def check_test(run: SmallRun, checkpoint: Path, *, names_weights: bool) -> None:
    """Test a checkpoint with test.sh, and compare the scores with those of the training."""
    expected = read_scores(run.output)
    output, named = run.output, {}
    if names_weights:
        output = run.output.with_name("again")
        named = {"WEIGHTS": str(checkpoint), "OUTPUT_DIR": str(output)}
    tested = run.script("test.sh", **named)
    check_printed(run, tested)
    np.testing.assert_array_equal(read_scores(output), expected)


def check_printed(run: SmallRun, done: "subprocess.CompletedProcess[str]") -> None:
    experiment = EXPERIMENTS[run.exp]
    num_views = f"{count(experiment.num_clips, 'clip')} x {count(experiment.num_crops, 'crop')}"
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"test, {num_views}\n" in done.stdout
    assert "scored 4/4" in done.stdout


@pytest.mark.zoo
@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_an_experiment_runs_from_end_to_end(
    exp: str, small_run: Callable[..., SmallRun], serve: Serve
) -> None:
    # The first one starts Python as a user does. The others save the time of the imports.
    is_first = exp == next(iter(EXPERIMENTS))
    run = small_run(exp) if is_first else small_run(exp, serve=serve)
    checkpoint = check_training(run, names_weights=False)
    check_test(run, checkpoint, names_weights=False)


@pytest.mark.zoo
@pytest.mark.parametrize("exp", LIGHT_TABLE)
def test_a_light_experiment_resumes_bit_equal(
    exp: str, small_run: Callable[..., SmallRun], serve: Serve
) -> None:
    run = small_run(exp, serve=serve)
    words = ["SOLVER.MAX_EPOCH", "2", "TRAIN.CHECKPOINT_PERIOD", "1", "TRAIN.EVAL_PERIOD", "1"]
    words += ["TRAIN.EMA_DECAY", "0.9", "TEST.ENABLE", "False"]
    quiet, resumed = run.output.with_name("quiet"), run.output.with_name("resumed")
    check_done(run.script("run.sh", *words, OUTPUT_DIR=str(quiet)))

    first = "checkpoints/checkpoint_epoch_00001.pyth"
    (resumed / "checkpoints").mkdir(parents=True)
    shutil.copyfile(quiet / first, resumed / first)
    check_done(run.script("run.sh", *words, OUTPUT_DIR=str(resumed)))
    assert "resuming at epoch 2" in (resumed / "stdout.log").read_text()
    assert_equal_ends(quiet, resumed)


def check_done(done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("exp", "names_weights"), SAMPLE)
def test_a_sample_of_experiments_runs_from_end_to_end(
    exp: str, names_weights: bool, small_run: Callable[..., SmallRun], serve: Serve
) -> None:
    run = small_run(exp, serve=serve)
    checkpoint = check_training(run, names_weights=names_weights)
    check_test(run, checkpoint, names_weights=names_weights)
