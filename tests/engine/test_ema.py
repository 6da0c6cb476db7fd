"""The moving average of the weights: what it is, when it is left alone, where it is used, and that it is resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.engine.build import build_state, build_train_step
from slowfast.engine.ema import ModelEma
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from slowfast.engine.unreadable_videos import UnreadableVideos
from slowfast.utils.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint

TinyCfg = Callable[..., CfgNode]


def final_state(cfg: CfgNode) -> dict[str, Any]:
    return load_checkpoint(checkpoint_path(cfg.OUTPUT_DIR, epoch=cfg.SOLVER.MAX_EPOCH))


def test_the_average_by_hand_and_left_alone_by_a_bad_step() -> None:
    model = nn.BatchNorm1d(1)
    average = ModelEma(model, decay=0.75)
    averaged = average.model.state_dict()
    with torch.no_grad():
        model.weight.fill_(5.0)
        model.state_dict()["running_mean"].fill_(8.0)
    average.update(model, is_bad=torch.tensor(False))
    assert averaged["weight"].item() == 2.0  # 0.75 * 1 + 0.25 * 5
    assert averaged["running_mean"].item() == 2.0  # 0.75 * 0 + 0.25 * 8
    average.update(model, is_bad=torch.tensor(True))
    assert averaged["weight"].item() == 2.0
    average.update(model, is_bad=torch.tensor(False))
    assert averaged["weight"].item() == 2.75  # 0.75 * 2 + 0.25 * 5


def test_a_step_that_is_not_finite_changes_neither_weights_nor_average(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(TRAIN__EMA_DECAY=0.9)
    Path(cfg.OUTPUT_DIR).mkdir()
    loader = build_loader(cfg, "train")
    run = build_state(cfg, identity={}, num_parts=1)
    taker = build_train_step(cfg, run, unreadable=UnreadableVideos(32, max_fraction=0))
    run.model.train()
    (good, *_), (bad, *_) = list(loader.steps())[:2]
    taker.take((good,), lr=0.1)
    before = {name: tensor.clone() for name, tensor in run.models[1].state_dict().items()}
    assert not torch.equal(before["head.weight"], run.model.state_dict()["head.weight"])
    taker.take((bad._replace(frames=bad.frames * np.nan),), lr=0.1)
    taker.settle()
    assert run.num_skipped_steps == 1
    for name, tensor in run.models[1].state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_average_is_validated_and_tested_unless_that_is_off(
    tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
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
            with np.load(Path(cfg.OUTPUT_DIR, "test/scores.npz")) as file:
                scores[key, name] = file["scores"]
        np.testing.assert_array_equal(scores[key, "alone"], scores[key, "in a checkpoint"])
    assert not np.array_equal(scores["ema_state", "alone"], scores["model_state", "alone"])


def test_a_run_that_is_resumed_ends_in_the_same_average_to_the_bit(
    tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
    quiet = tiny_cfg(TRAIN__EMA_DECAY=0.9, OUTPUT_DIR=tmp_path / "quiet")
    train(quiet)
    resumed = tiny_cfg(TRAIN__EMA_DECAY=0.9, OUTPUT_DIR=tmp_path / "resumed")
    first = checkpoint_path(resumed.OUTPUT_DIR, epoch=1)
    first.parent.mkdir(parents=True)
    first.write_bytes(checkpoint_path(quiet.OUTPUT_DIR, epoch=1).read_bytes())
    train(resumed)
    one, other = final_state(quiet), final_state(resumed)
    for part in ("model_state", "ema_state"):
        assert all(torch.equal(tensor, other[part][name]) for name, tensor in one[part].items())
    assert not torch.equal(one["ema_state"]["head.weight"], one["model_state"]["head.weight"])
    plain = tiny_cfg(OUTPUT_DIR=tmp_path / "resumed")
    with pytest.raises(ValueError, match=r"TRAIN\.EMA_DECAY: 0\.9 there, 0\.0 here"):
        train(plain)
