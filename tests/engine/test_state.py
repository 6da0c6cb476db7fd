"""Training state: the checkpoints it can be restored from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast.config import CfgNode
from slowfast.engine.build import build_state
from slowfast.engine.optim import apply_gradients
from slowfast.engine.state import REQUIRED_KEYS, TrainingState, check_state
from slowfast.engine.train import train
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path
from tests.engine.outputs import final_state

TinyCfg = Callable[..., CfgNode]

Finish = Callable[..., Path]
Start = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(("before", "after"), [("off", "fp16"), ("fp16", "off"), ("fp16", "fp16")])
@pytest.mark.parametrize("fused", [True, False])
def test_a_run_resumes_with_the_optimizer_of_its_config(
    tiny_cfg: TinyCfg, caplog: pytest.LogCaptureFixture, before: str, after: str, fused: bool
) -> None:
    first = build_state(tiny_cfg(TRAIN__AMP=before, SOLVER__FUSED=not fused))
    settings = {"SOLVER__FUSED": fused, "SOLVER__WEIGHT_DECAY": 0.5}
    second = build_state(tiny_cfg(TRAIN__AMP=after, **settings))

    def step(state: TrainingState) -> None:
        state.optimizer.zero_grad()
        state.scaler.scale(state.model(torch.ones(2, 3, 4, 32, 32)).square().mean()).backward()
        state.scaler.unscale_(state.optimizer)
        apply_gradients(state.optimizer, state.scaler, is_skipped=torch.tensor(False))

    step(first)
    second.load_state_dict(first.state_dict(), path="a file")
    groups = second.optimizer.param_groups
    assert {group["fused"] for group in groups} == {fused}
    assert max(group["weight_decay"] for group in groups) == 0.5
    assert ("The loss scale starts afresh" in caplog.text) is ((before, after) == ("off", "fp16"))
    step(second)
    assert {moments["step"].item() for moments in second.optimizer.state.values()} == {2.0}


def test_a_run_does_not_resume_with_another_kind_of_optimizer(tiny_cfg: TinyCfg) -> None:
    first = build_state(tiny_cfg(SOLVER__OPTIMIZING_METHOD="sgd"))
    second = build_state(tiny_cfg(SOLVER__OPTIMIZING_METHOD="adamw"))
    with pytest.raises(ValueError, match="a file: was trained with another optimizer"):
        second.load_state_dict(first.state_dict(), path="a file")


def test_weights_alone_are_no_checkpoint_to_resume_from(trained_cfg: TinyCfg) -> None:
    cfg = trained_cfg()
    path = checkpoint_path(cfg.OUTPUT_DIR, epoch=2)
    torch.save({"model_state": final_state(cfg)["model_state"]}, path)
    message = r"cannot be resumed: it has no format, run_id, .*, optimizer_state"
    with pytest.raises(ValueError, match=message):
        train(cfg)


@pytest.mark.parametrize("key", REQUIRED_KEYS)
def test_a_checkpoint_without_a_required_key_is_refused(tiny_cfg: TinyCfg, key: str) -> None:
    state = build_state(tiny_cfg()).state_dict()
    del state[key]
    with pytest.raises(ValueError, match=rf"^a file: cannot be resumed: it has no {key}\."):
        check_state(state, path="a file")


def test_a_checkpoint_in_another_format_is_refused(tiny_cfg: TinyCfg) -> None:
    state = build_state(tiny_cfg()).state_dict() | {"format": 99}
    message = "^a file: has checkpoint format 99, but this version reads format 1"
    with pytest.raises(ValueError, match=message):
        check_state(state, path="a file")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"counters": None}, "cannot be resumed: it has no counters"),
        ({"format": 99}, "has checkpoint format 99, but this version reads format 1"),
    ],
)
def test_a_checkpoint_that_cannot_be_resumed_ends_the_run(
    start: Start, finish: Finish, change: dict[str, Any], problem: str
) -> None:
    path = checkpoint_path(str(finish()), epoch=1)
    state = load_checkpoint(path) | change
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    status, printed = start()
    assert status == 1
    assert f"{path}: {problem}" in printed
