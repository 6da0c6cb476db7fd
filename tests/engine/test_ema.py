"""The EMA of the weights: its values, where it is used, and that a resumed run continues it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.engine.build import build_state, build_train_step
from slowfast.engine.ema import ModelEma
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from slowfast.models.uniformer import UniFormer
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path
from tests.engine.equal_runs import assert_equal
from tests.engine.outputs import final_state, read_logits
from tests.engine.small_step import TINY, RecordedOperations

TinyCfg = Callable[..., CfgNode]


def test_the_ema_by_hand_without_skipped_steps() -> None:
    model = nn.BatchNorm1d(1)
    ema = ModelEma(model, decay=0.75)
    ema_state = ema.model.state_dict()
    with torch.no_grad():
        model.weight.fill_(5.0)
        model.state_dict()["running_mean"].fill_(8.0)
    ema.update(model, is_skipped=torch.tensor(False))
    assert ema_state["weight"].item() == 2.0  # 0.75 * 1 + 0.25 * 5
    assert ema_state["running_mean"].item() == 2.0  # 0.75 * 0 + 0.25 * 8
    ema.update(model, is_skipped=torch.tensor(True))
    assert ema_state["weight"].item() == 2.0
    ema.update(model, is_skipped=torch.tensor(False))
    assert ema_state["weight"].item() == 2.75  # 0.75 * 2 + 0.25 * 5


def update_by_hand(expected: dict[str, Tensor], model: nn.Module, *, weight: Tensor | None) -> None:
    """Average the floats, except in a skipped step with the weight None. Copy the counters."""
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            expected[name].copy_(value)
        elif weight is not None:
            expected[name].lerp_(value, weight)


def test_the_ema_takes_few_kernels_and_never_waits() -> None:
    model = UniFormer(**TINY, drop_path=0.0)
    ema = ModelEma(model, decay=0.999)
    expected = copy.deepcopy(model).state_dict()
    weight = 1 - torch.tensor(0.999)

    for index in range(3):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.copy_(torch.randn(value.shape))
        is_skipped = index == 1
        with RecordedOperations() as operations:
            ema.update(model, is_skipped=torch.tensor(is_skipped))

        assert len(operations.names) < 10
        assert "_local_scalar_dense" not in operations.names  # The host would wait for its device.
        update_by_hand(expected, model, weight=None if is_skipped else weight)

    for name, value in ema.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_skipped_step_changes_neither_weights_nor_ema(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(TRAIN__EMA_DECAY=0.9)
    Path(cfg.OUTPUT_DIR).mkdir()
    loader = build_loader(cfg, "train")
    state = build_state(cfg)
    train_step = build_train_step(cfg, state, num_videos=32)
    state.model.train()
    [finite], [nonfinite] = list(loader.steps())[:2]
    nonfinite = nonfinite._replace(frames=nonfinite.frames * np.nan)

    train_step.run((finite,), lr=0.1)
    before = {name: tensor.clone() for name, tensor in state.models[1].state_dict().items()}
    assert not torch.equal(before["head.weight"], state.model.state_dict()["head.weight"])
    train_step.run((nonfinite,), lr=0.1)
    train_step.settle()
    assert state.num_skipped_steps == 1
    for name, tensor in state.models[1].state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_ema_is_tested_unless_that_is_off(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    cfg = tiny_cfg(TRAIN__EMA_DECAY=0.5, SOLVER__BASE_LR=0.01)
    train(cfg)
    state = final_state(cfg)
    scores = {}

    for key, is_averaged in (("ema_state", True), ("model_state", False)):
        weights = tmp_path / f"{key}.pyth"
        save_checkpoint(weights, {"model_state": state[key], "class_names": state["class_names"]})
        ways: dict[str, dict[str, Any]] = {
            "alone": {"TEST__CHECKPOINT_FILE_PATH": weights},
            "in a checkpoint": {"TEST__EMA": is_averaged},
        }
        for name, settings in ways.items():
            evaluate(tiny_cfg(**settings))
            scores[key, name] = read_logits(Path(cfg.OUTPUT_DIR))
        np.testing.assert_array_equal(scores[key, "alone"], scores[key, "in a checkpoint"])
    assert not np.array_equal(scores["ema_state", "alone"], scores["model_state", "alone"])


def test_a_resumed_run_ends_in_the_bit_equal_ema(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    quiet = tiny_cfg(TRAIN__EMA_DECAY=0.9, OUTPUT_DIR=tmp_path / "quiet")
    train(quiet)
    resumed = tiny_cfg(TRAIN__EMA_DECAY=0.9, OUTPUT_DIR=tmp_path / "resumed")
    first = checkpoint_path(resumed.OUTPUT_DIR, epoch=1)
    first.parent.mkdir(parents=True)
    first.write_bytes(checkpoint_path(quiet.OUTPUT_DIR, epoch=1).read_bytes())
    train(resumed)

    expected, state = final_state(quiet), final_state(resumed)
    for key in ("model_state", "ema_state"):
        assert_equal(state[key], expected[key])
    assert not torch.equal(state["ema_state"]["head.weight"], state["model_state"]["head.weight"])

    plain = tiny_cfg(OUTPUT_DIR=tmp_path / "resumed")
    with pytest.raises(ValueError, match=r"TRAIN\.EMA_DECAY: 0\.9 there, 0\.0 here"):
        train(plain)
