"""Numbers that are not finite, and processes that fail: what the run does, and what it says."""

import copy
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejson
import torch

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.distributed.collectives import rank, world_size
from slowfast.distributed.launch import launch
from slowfast.engine.build import build_state, build_train_step
from slowfast.engine.skipped_steps import SkippedStepsError
from slowfast.engine.state import TrainingState
from slowfast.engine.step import TrainStep
from slowfast.engine.unreadable_videos import UnreadableVideos
from slowfast.utils.checkpoint import (
    checkpoint_path,
    checkpoints_of,
    load_checkpoint,
    newest_checkpoint,
)

Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]


def faulty(
    arguments: Arguments,
    tmp_path: Path,
    folder: str = "run",
    *,
    num_processes: int = 1,
    **fault: Any,
) -> list[str]:
    """A run of two epochs of a model with a fault."""
    settings = {f"FAULTY__{name.upper()}": value for name, value in fault.items()}
    settings |= {"MODEL__MODEL_NAME": "Faulty", "FAULTY__FOLDER": tmp_path, "SOLVER__MAX_EPOCH": 2}
    return ["--import", "faulty_model", *arguments(folder, num_processes, **settings)]


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_checkpoint(str(newest_checkpoint(str(folder))))[
        "model_state"
    ]
    return weights


def test_a_nan_in_one_process_is_left_out_by_both_and_written_down(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    assert serve(
        faulty(arguments, tmp_path, num_processes=2, rank=1, first=3, last=3), num_processes=2
    ) == [0, 0]
    # Each process has written a checksum of its weights in the last validation.
    assert (tmp_path / "rank_0").read_text() == (tmp_path / "rank_1").read_text()
    assert all(value.isfinite().all() for value in final_weights(tmp_path / "run").values())
    (dump,) = (tmp_path / "run/skipped_steps").iterdir()
    assert dump.name == "epoch_00001_step_0000004.json"
    found = simplejson.loads(dump.read_text())
    assert found["grad_norm"] == "nan"
    assert found["lr"] > 0
    good, bad = found["processes"]
    assert np.isfinite(good["loss"])
    assert bad["loss"] == "nan"
    assert bad["first_module_not_finite"] == "the model"
    assert "in this process" in good["first_module_not_finite"]
    assert [len(one["videos"]) for one in (good, bad)] == [1, 1]
    assert good["videos"] != bad["videos"]
    assert (
        f"epoch 1, step 4: numbers that are not finite; the step is skipped, see {dump}"
        in (tmp_path / "run/stdout.log").read_text()
    )


@pytest.mark.parametrize("method", ["adamw", "sgd"])
def test_a_step_that_is_left_out_changes_nothing(
    tiny_cfg: Callable[..., CfgNode], method: str
) -> None:
    cfg = tiny_cfg(SOLVER__OPTIMIZING_METHOD=method)
    loader = build_loader(cfg, "train")
    run = build_state(cfg, identity={}, num_parts=1)
    taker = build_train_step(cfg, run, unreadable=UnreadableVideos(32, max_fraction=0))
    loader.set_epoch(0)
    for number, parts in enumerate(loader.steps()):
        before = copy.deepcopy(run.state())
        if number in (0, 2):
            parts[0].frames[0, 0, 0, 0, 0] = torch.nan
        taker.take(parts, lr=0.1)
        after = run.state()
        same = [
            torch.equal(after["model_state"][name], value)
            for name, value in before["model_state"].items()
        ]
        assert all(same) if number in (0, 2) else not all(same)
        if number == 2:
            for entry, old in zip(
                *(one["optimizer_state"]["state"].values() for one in (after, before)), strict=True
            ):
                assert all(torch.equal(entry[name], value) for name, value in old.items())
    taker.settle()
    assert run.num_skipped_steps == 2
    assert all(value.isfinite().all() for value in run.model.state_dict().values())


def test_skipped_steps_in_a_row_end_the_run_before_them(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    settings = [
        "SOLVER.MAX_BAD_STEPS",
        "4",
        "TRAIN.CHECKPOINT_MINUTES",
        "0.0001",
        "TRAIN.KEEP_LAST",
        "1",
    ]
    command = [*faulty(arguments, tmp_path, first=8, last=15), *settings]
    assert serve(command, num_processes=1, output=said) == [1]
    message = said.read_text().splitlines()[-1]
    assert message.startswith(
        "error: 4 steps in a row up to epoch 1, step 12 had numbers that are not finite"
    )
    assert (
        f"To resume from {checkpoint_path(str(tmp_path / 'run'), epoch=0, step=8)}, before them"
        in message
    )
    assert "TRAIN.RESUME_WITH_CHANGES True SOLVER.BASE_LR 0.0005 TRAIN.AMP off" in message

    names = [path.name for path in sorted((tmp_path / "run/skipped_steps").iterdir())]
    assert "epoch_00001_step_0000009.json" in names
    assert any(name.startswith("checkpoint_") for name in names), (
        "what was saved among them is kept as evidence"
    )
    mended = [
        *faulty(arguments, tmp_path, kind="none"),
        *settings,
        "TRAIN.RESUME_WITH_CHANGES",
        "True",
    ]
    assert serve(mended, num_processes=1, output=said) == [0]
    assert "resuming at epoch 1, step 9" in said.read_text()


def test_skipped_steps_are_counted_on_after_a_restart(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg(SOLVER__MAX_BAD_STEPS=4)
    loader = build_loader(cfg, "train")
    (parts, *_) = list(loader.steps())
    parts[0].frames[:] = torch.nan

    def taker_of(run: TrainingState) -> TrainStep:
        return build_train_step(cfg, run, unreadable=UnreadableVideos(32, max_fraction=0))

    first, second = (build_state(cfg, identity={}, num_parts=1) for _ in range(2))
    taker = taker_of(first)
    for _ in range(3):
        taker.take(parts, lr=0.1)
    taker.settle()
    second.load(copy.deepcopy(first.state()), path="a checkpoint")
    taker = taker_of(second)
    taker.take(parts, lr=0.1)
    with pytest.raises(SkippedStepsError, match="4 steps in a row up to epoch 1, step 4"):
        taker.settle()
    assert (second.streak.epoch, second.streak.step) == (0, 0)


def test_counters_of_batches_count_the_steps_that_were_taken(
    tiny_cfg: Callable[..., CfgNode],
) -> None:
    cfg = tiny_cfg()
    loader = build_loader(cfg, "train", parts_per_step=2)
    run = build_state(cfg, identity={}, num_parts=2)
    taker = build_train_step(cfg, run, unreadable=UnreadableVideos(32, max_fraction=0))
    for number, parts in enumerate(loader.steps()):
        if number == 1:
            parts[1].frames[:] = torch.nan
        taker.take(parts, lr=0.1)
    taker.settle()
    counters = {
        value.item()
        for name, value in run.model.state_dict().items()
        if name.endswith("batches_tracked")
    }
    assert counters == {3}  # 4 steps in 2 parts, of which one step was skipped


def test_a_score_that_is_not_finite_is_never_counted(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    command = faulty(arguments, tmp_path, kind="nan_in_evaluation")
    assert serve(command, num_processes=1, output=said) == [1]
    assert (
        "error: validation after epoch 2: 4 videos of 16 have scores that are not finite"
        in said.read_text()
    )
    assert newest_checkpoint(str(tmp_path / "run"))
    assert not (tmp_path / "run/best.pyth").exists()

    test = [*command, "TRAIN.ENABLE", "False", "TEST.ENABLE", "True", "TEST.ALLOW_UNSCORED", "True"]
    assert serve(test, num_processes=1, output=said) == [3]
    result = simplejson.loads((tmp_path / "run/test/result.json").read_text())
    assert result["num_not_finite"] == len(result["unscored"]) == 24 - result["num_scored"] > 0
    assert result["unscored"][0]["reason"].endswith(": its scores are not finite")


@pytest.mark.parametrize("kind", ["nan_in_evaluation", "nan"])
def test_a_rehearsal_with_numbers_that_are_not_finite_fails(
    serve: Serve, arguments: Arguments, tmp_path: Path, kind: str
) -> None:
    said = tmp_path / "said"
    command = [*faulty(arguments, tmp_path, kind=kind, first=0, last=0), "TRAIN.REHEARSE", "True"]
    assert serve(command, num_processes=1, output=said) == [1]
    assert re.search(
        r"error: .* is not finite in the rehearsal, before anything was trained", said.read_text()
    )
    assert not checkpoints_of(str(tmp_path / "run"))
    assert not (tmp_path / "run/rehearsal").exists()


def test_unreadable_videos_are_counted_without_a_log_line(
    serve: Serve, arguments: Arguments, tmp_path: Path, broken_folder: Path
) -> None:
    # 5 of 20 videos are broken, 2 are allowed. Each start takes some steps and is stopped.
    settings: dict[str, Any] = {
        "LOG_PERIOD": 1000,
        "DATA__MAX_BAD_FRACTION": 0.1,
        "DATA__PATH_TO_DATA_DIR": broken_folder,
        "DATA__PATH_PREFIX": broken_folder,
        "DATA__CLASS_NAMES": broken_folder / "classes.txt",
    }
    said = tmp_path / "said"
    statuses: list[int] = []
    while statuses[-1:] in ([], [75]) and len(statuses) < 12:
        statuses += serve(
            arguments("run", 1, **settings),
            num_processes=1,
            output=said,
            signal="SIGTERM",
            when="training",
        )
    assert statuses[-1] == 1
    assert re.search(
        r"error: 3 of 20 training videos could not be read in this epoch", said.read_text()
    )


def test_memory_that_cannot_be_had_is_explained(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    assert serve(faulty(arguments, tmp_path, kind="memory"), num_processes=1, output=said) == [1]
    message = said.read_text().splitlines()[-1]
    assert re.match(r"error: rank 0 on cpu is out of memory, its peak was \d+\.\d GiB", message)
    for key in ("MODEL.CHECKPOINT_NUM", "SOLVER.ACCUM_STEPS", "TRAIN.BATCH_SIZE"):
        assert key in message


def test_a_worker_that_is_killed_ends_the_run_with_the_cause(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    assert serve(faulty(arguments, tmp_path, kind="kill_worker"), num_processes=1, output=said) == [
        1
    ]
    message = said.read_text().splitlines()[-1]
    assert message.startswith("error: rank 0: DataLoader worker")
    assert "run out of memory: lower DATA_LOADER.NUM_WORKERS" in message


def test_a_sample_that_is_stuck_ends_the_run_in_time_with_its_name(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes requests and never answers
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        said = tmp_path / "said"
        settings = {
            "DATA__PATH_PREFIX": address,
            "DATA_LOADER__TIMEOUT": 3,
            "TRAIN__REHEARSE": True,
        }
        start = time.monotonic()
        assert serve(arguments("run", 1, **settings), num_processes=1, output=said) == [1]
        assert time.monotonic() - start < 30
    message = said.read_text().splitlines()[-1]
    assert message.startswith("error: rank 0: no batch came within 3 s; worker 0 at ")
    assert "DATA_LOADER.TIMEOUT" in message


def test_an_output_folder_that_cannot_be_is_named_at_once(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    said = tmp_path / "said"
    assert serve(arguments("file/run", 1), num_processes=1, output=said) == [1]
    assert f"OUTPUT_DIR is '{tmp_path}/file/run', but {tmp_path}/file is a file" in said.read_text()


# ---- The gradient of a step, however it is divided -------------------------------------------------------------------


def gradient_of_a_step(cfg: CfgNode, parts_per_step: int) -> torch.Tensor:
    """The gradient of the first step over all parts of all processes, with BatchNorm as it is in evaluation."""
    loader = build_loader(cfg, "train", parts_per_step=parts_per_step)
    run = build_state(cfg, identity={}, num_parts=parts_per_step * world_size())
    run.model.eval()
    loader.set_epoch(0)
    unreadable = UnreadableVideos(32, max_fraction=0)
    build_train_step(cfg, run, unreadable=unreadable).take(next(loader.steps()), lr=0.0)
    return torch.cat(
        [
            parameter.grad.flatten()
            for parameter in run.model.parameters()
            if parameter.grad is not None
        ]
    )


def save_gradients(cfg: CfgNode, path: str) -> int:
    gradients = [gradient_of_a_step(cfg, parts_per_step) for parts_per_step in (1, 2)]
    if rank() == 0:
        torch.save(gradients, path)
    return 0


@pytest.fixture
def smooth_cfg(tiny_cfg: Callable[..., CfgNode]) -> CfgNode:
    """A step of 8 videos without anything that is random within the model."""
    return tiny_cfg(UNIFORMER__DROP_DEPTH_RATE=0.0, SOLVER__CLIP_GRADIENT=0, TRAIN__AMP="off")


@pytest.mark.parametrize("parts_per_step", [2, 4, 8])
def test_a_step_in_parts_has_the_gradient_of_the_whole(
    smooth_cfg: CfgNode, parts_per_step: int
) -> None:
    whole = gradient_of_a_step(smooth_cfg, 1)
    assert whole.norm() > 0.1
    torch.testing.assert_close(
        gradient_of_a_step(smooth_cfg, parts_per_step), whole, atol=1e-6, rtol=0
    )


def test_a_step_of_two_processes_has_the_gradient_of_one(
    smooth_cfg: CfgNode, tmp_path: Path
) -> None:
    path = tmp_path / "gradients.pt"
    assert launch(save_gradients, smooth_cfg, str(path), num_processes=2, backend="gloo") == 0
    whole = gradient_of_a_step(smooth_cfg, 1)
    for gradient in torch.load(path, weights_only=True):
        torch.testing.assert_close(gradient, whole, atol=1e-6, rtol=0)
