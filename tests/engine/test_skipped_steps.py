"""Skipped steps: they change nothing, their cause is written down, and too many end the run."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejson
import torch
from torch import Tensor

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.datasets.mixup import Mix
from slowfast.engine.build import build_state, build_train_step
from slowfast.engine.checkpoints import CheckpointSaver, Retention
from slowfast.engine.skipped_steps import SkippedStepsError
from slowfast.engine.train import train
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path, list_checkpoints, newest_checkpoint
from tests.engine.small_step import Small, small_batch, small_train_step

TinyCfg = Callable[..., CfgNode]
Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]


def newest_weights(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(str(newest_checkpoint(str(folder))))["model_state"]


def test_both_processes_skip_a_step_that_is_nan_in_one(
    serve: Serve, faulty_arguments: Arguments, tmp_path: Path
) -> None:
    command = faulty_arguments(num_processes=2, rank=1, first=3, last=3)
    command += ["TEST.VIEWS_PER_FORWARD", "8"]  # so that both processes validate
    assert serve(command, num_processes=2) == [0, 0]

    # Each process wrote a checksum of its weights during the last validation.
    assert (tmp_path / "rank_0").read_text() == (tmp_path / "rank_1").read_text()
    assert all(value.isfinite().all() for value in newest_weights(tmp_path / "run").values())

    [dump] = (tmp_path / "run/skipped_steps").iterdir()
    assert dump.name == "epoch_00001_step_0000004.json"
    found = simplejson.loads(dump.read_text())
    assert found["grad_norm"] == "nan"
    assert found["lr"] > 0
    finite, nonfinite = found["processes"]
    assert np.isfinite(finite["loss"])
    assert nonfinite["loss"] == "nan"
    assert nonfinite["first_nonfinite_module"] == "the model"
    assert "in this process" in finite["first_nonfinite_module"]
    assert [len(process["videos"]) for process in (finite, nonfinite)] == [1, 1]
    assert finite["videos"] != nonfinite["videos"]
    line = f"epoch 1, step 4: non-finite numbers, the step is skipped, see {dump}"
    assert line in (tmp_path / "run/stdout.log").read_text()


def are_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], value) for name, value in second.items())


@pytest.mark.parametrize("method", ["adamw", "sgd"])
def test_a_skipped_step_changes_nothing(tiny_cfg: TinyCfg, method: str) -> None:
    cfg = tiny_cfg(SOLVER__OPTIMIZING_METHOD=method)
    loader = build_loader(cfg, "train")
    state = build_state(cfg)
    train_step = build_train_step(cfg, state, num_videos=32)
    loader.set_epoch(0)

    for index, micro_batches in enumerate(loader.steps()):
        is_skipped = index in (0, 2)
        if is_skipped:
            micro_batches[0].frames[0, 0, 0, 0, 0] = torch.nan
        before = copy.deepcopy(state.state_dict())
        train_step.run(micro_batches, lr=0.1)
        after = state.state_dict()

        assert are_equal(after["model_state"], before["model_state"]) is is_skipped
        moments = [saved["optimizer_state"]["state"] for saved in (before, after)]
        if index == 2:
            assert moments[0].keys() == moments[1].keys()
            assert all(are_equal(moments[1][key], moments[0][key]) for key in moments[0])

    train_step.settle()
    assert state.num_skipped_steps == 2
    assert all(value.isfinite().all() for value in state.model.state_dict().values())


def test_skipped_steps_in_a_row_end_the_run_at_their_start(
    serve: Serve, faulty_arguments: Arguments, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    text = "SOLVER.MAX_BAD_STEPS 4 TRAIN.CHECKPOINT_MINUTES 0.0001 TRAIN.KEEP_LAST 1"
    settings = text.split()
    command = [*faulty_arguments(first=8, last=15), *settings]
    assert serve(command, num_processes=1, output=output) == [1]

    message = output.read_text().splitlines()[-1]
    assert message.startswith(
        "error: 4 steps in a row up to epoch 1, step 12 had non-finite numbers"
    )
    before = checkpoint_path(str(tmp_path / "run"), epoch=0, step=8)
    assert f"To resume from {before}, before them" in message
    assert "TRAIN.RESUME_WITH_CHANGES True SOLVER.BASE_LR 0.0005 TRAIN.AMP off" in message

    names = [path.name for path in sorted((tmp_path / "run/skipped_steps").iterdir())]
    assert "epoch_00001_step_0000009.json" in names
    # Checkpoints within the streak are kept as evidence.
    assert any(name.startswith("checkpoint_") for name in names)

    mended = [*faulty_arguments(kind="none"), *settings, "TRAIN.RESUME_WITH_CHANGES", "True"]
    assert serve(mended, num_processes=1, output=output) == [0]
    assert "resuming at epoch 1, step 9" in output.read_text()


def test_a_diverged_run_stops_and_names_a_module(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(
        SOLVER__BASE_LR=1e9,
        SOLVER__CLIP_GRADIENT=0,
        SOLVER__OPTIMIZING_METHOD="sgd",
        SOLVER__MAX_BAD_STEPS=3,
    )
    message = (
        r"3 steps in a row up to epoch 1, step \d had .* with a lower learning rate: "
        r".* SOLVER\.BASE_LR"
    )
    with pytest.raises(SkippedStepsError, match=message):
        train(cfg)

    dumps = sorted(Path(cfg.OUTPUT_DIR, "skipped_steps").iterdir())
    assert len(dumps) == 3
    found = simplejson.loads(dumps[0].read_text())
    assert found["step"] == 2
    assert found["lr"] == pytest.approx(1e9, rel=0.3)
    assert len(found["processes"][0]["videos"]) == 8
    assert found["processes"][0]["first_nonfinite_module"].startswith("patch_embed")


def test_a_streak_of_skipped_steps_survives_a_restart(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(SOLVER__MAX_BAD_STEPS=4)
    loader = build_loader(cfg, "train")
    micro_batches, *_ = list(loader.steps())
    micro_batches[0].frames[:] = torch.nan

    first, second = (build_state(cfg) for _ in range(2))
    train_step = build_train_step(cfg, first, num_videos=32)
    for _ in range(3):
        train_step.run(micro_batches, lr=0.1)
    train_step.settle()

    second.load_state_dict(copy.deepcopy(first.state_dict()), path="a checkpoint")
    train_step = build_train_step(cfg, second, num_videos=32)
    train_step.run(micro_batches, lr=0.1)
    with pytest.raises(SkippedStepsError, match="4 steps in a row up to epoch 1, step 4"):
        train_step.settle()
    assert (second.streak.epoch, second.streak.step) == (0, 0)


def test_the_checkpoint_before_skipped_steps_is_never_pruned(
    tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
    state = build_state(tiny_cfg(), run_id="a run")
    retention = Retention(keep_last=1, keep_every=0)
    saver = CheckpointSaver(str(tmp_path), lock=None, minutes=0, retention=retention)

    def save(*steps: int) -> list[Path]:
        for state.step in steps:
            saver.save(state)
        return [checkpoint_path(str(tmp_path), epoch=0, step=step) for step in steps]

    *_, before = save(2, 4, 6)
    state.streak.length, state.streak.step = 1, 6
    *_, last_but_one, last = save(8, 10, 12, 14)
    assert list_checkpoints(str(tmp_path)) == [last, last_but_one, before]
    assert saver.set_streak_aside(state) == before
    assert list_checkpoints(str(tmp_path)) == [before]
    aside = {path.name for path in (tmp_path / "skipped_steps").iterdir()}
    assert aside == {last_but_one.name, last.name}


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_a_skipped_step_is_repeated_on_the_same_clips(mixup: float, cutmix: float) -> None:
    model = Small()
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    mix = Mix(
        num_classes=3,
        mixup_alpha=mixup,
        cutmix_alpha=cutmix,
        probability=1.0,
        switch_probability=0.5,
        smoothing=0.0,
    )
    batch = small_batch(is_finite=False)
    train_step = small_train_step(model, mix=mix)
    train_step.run((batch,), lr=0.1)
    train_step.settle()
    first, again = seen
    torch.testing.assert_close(again, first, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(first.nan_to_num(), batch.frames.nan_to_num())


def test_a_skipped_step_of_compiled_blocks_names_the_module(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Small()
    model.block.compile(backend="eager")
    train_step = small_train_step(model)
    for is_finite in (True, False):
        train_step.run((small_batch(is_finite=is_finite),), lr=0.1)
    train_step.settle()
    assert "step 2: non-finite numbers, the step is skipped, first in block.flatten," in caplog.text
