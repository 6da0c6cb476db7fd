"""A training: its loss, its outputs and the weights it starts from."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from slowfast.config import CfgNode
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from slowfast.models.build import build_model
from slowfast.models.weights import load_weights
from slowfast.utils.checkpoint_files import checkpoint_path
from tests.engine.outputs import final_state, json_records

TinyCfg = Callable[..., CfgNode]


def test_the_loss_falls_on_a_batch_seen_again_and_again(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(
        SOLVER__MAX_EPOCH=12,
        TRAIN__EVAL_PERIOD=12,
        TRAIN__CHECKPOINT_PERIOD=12,
        SOLVER__BASE_LR=1e-2,
        LOG_PERIOD=4,
        DATA__TRAIN_JITTER_SCALES_RELATIVE="[1.0,1.0]",
        UNIFORMER__DROP_DEPTH_RATE=0.0,
    )
    train(cfg)
    losses = [record["loss"] for record in json_records(Path(cfg.OUTPUT_DIR), "train_step")]
    assert len(losses) == 12
    assert np.mean(losses[:3]) - np.mean(losses[-3:]) > 0.3


def test_outputs_are_config_log_checkpoints_and_curves(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(TENSORBOARD__ENABLE=True)
    train(cfg)
    output = Path(cfg.OUTPUT_DIR)
    assert (output / "config.yaml").read_text() == cfg.dump()
    checkpoints = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert checkpoints == ["checkpoint_epoch_00001.pyth", "checkpoint_epoch_00002.pyth"]

    steps = json_records(output, "train_step")
    positions = [(record["epoch"], record["step"]) for record in steps]
    assert positions == [(1, 2), (1, 4), (2, 2), (2, 4)]
    numbers = {"loss", "top1", "lr", "grad_norm", "step_seconds", "data_wait_seconds"}
    assert numbers | {"eta_seconds"} <= steps[0].keys()
    assert [record["epoch"] for record in json_records(output, "val_epoch")] == [2]

    curves = EventAccumulator(str(output / "tensorboard")).Reload()
    losses = curves.Scalars("train/loss")
    assert [event.step for event in losses] == [2, 4, 6, 8]
    expected = [record["loss"] for record in steps]
    assert [event.value for event in losses] == pytest.approx(expected, rel=1e-5)
    assert [event.step for event in curves.Scalars("val/top1")] == [8]


def test_training_starts_from_given_weights_with_a_new_head(
    tiny_cfg: TinyCfg, trained_cfg: TinyCfg, tmp_path: Path
) -> None:
    first = trained_cfg(folder="first")
    weights = checkpoint_path(first.OUTPUT_DIR, epoch=2)
    second = tiny_cfg(
        OUTPUT_DIR=tmp_path / "second",
        TRAIN__CHECKPOINT_FILE_PATH=weights,
        MODEL__NUM_CLASSES=9,
        DATA__CLASS_NAMES="",
        SOLVER__BASE_LR=1e-12,
        SOLVER__WARMUP_START_LR=0,
        SOLVER__COSINE_END_LR=0,
    )
    train(second)

    old, new = final_state(first)["model_state"], final_state(second)["model_state"]
    name = "blocks3.0.attn.qkv.weight"
    torch.testing.assert_close(new[name], old[name], rtol=0, atol=1e-9)
    assert new["head.weight"].shape == (9, 16)


def test_an_attentive_head_trains_from_weights_with_a_linear_one(
    tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
    weights = build_model(tiny_cfg()).state_dict()
    torch.save(weights, tmp_path / "x.pth")
    still = {"SOLVER__BASE_LR": 1e-12, "SOLVER__COSINE_END_LR": 0, "SOLVER__MAX_EPOCH": 1}
    cfg = tiny_cfg(
        MODEL__HEAD="attentive", TRAIN__CHECKPOINT_FILE_PATH=str(tmp_path / "x.pth"), **still
    )
    train(cfg)
    log = Path(cfg.OUTPUT_DIR, "stdout.log").read_text()
    assert "x.pth has another kind of head, so the head keeps its random weights" in log

    state = final_state(cfg)
    assert state["identity"]["MODEL.HEAD"] == "attentive"
    name = "blocks3.0.attn.qkv.weight"
    torch.testing.assert_close(state["model_state"][name], weights[name], rtol=0, atol=1e-9)
    assert state["model_state"]["pool.query"].std() > 0
    assert evaluate(cfg).num_scored == 24


def test_training_from_image_weights_keeps_published_names(
    tiny_cfg: TinyCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(tiny_cfg())
    image_weights = dict(model.state_dict())
    for key, value in image_weights.items():
        if value.dim() == 5:
            image_weights[key] = value.mean(dim=2)
    image_weights |= {"head.weight": torch.zeros(1000, 16), "head.bias": torch.zeros(1000)}
    content = {"model": image_weights, "args": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "uniformer_small_in1k.pth")
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))

    still = {"SOLVER__BASE_LR": 1e-12, "SOLVER__COSINE_END_LR": 0, "SOLVER__MAX_EPOCH": 1}
    cfg = tiny_cfg(**still, UNIFORMER__PRETRAIN_NAME="uniformer_small_in1k")
    train(cfg)
    log = Path(cfg.OUTPUT_DIR, "stdout.log").read_text()
    assert re.search(
        r"uniformer_small_in1k\.pth has a head of another size, or none\W .*"
        "the head keeps its random weights",
        log,
    )

    weights = final_state(cfg)["model_state"]
    name = "patch_embed3.proj.weight"
    torch.testing.assert_close(weights[name][:, :, 0], image_weights[name], rtol=0, atol=1e-6)
    assert weights.keys() == model.state_dict().keys()
    report = load_weights(model, str(checkpoint_path(cfg.OUTPUT_DIR, epoch=1)))
    assert (report.dropped, report.missing, report.unexpected) == ({}, {}, {})
