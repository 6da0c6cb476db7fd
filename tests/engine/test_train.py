import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejson
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from slowfast.config import CfgNode
from slowfast.engine.skipped_steps import SkippedStepsError
from slowfast.engine.train import train
from slowfast.models.build import build_model
from slowfast.models.weights import load_weights
from slowfast.utils.checkpoint import checkpoint_path, load_checkpoint

TinyCfg = Callable[..., CfgNode]


def final_state(cfg: CfgNode) -> dict[str, Any]:
    return load_checkpoint(checkpoint_path(cfg.OUTPUT_DIR, epoch=cfg.SOLVER.MAX_EPOCH))


def records_of(cfg: CfgNode) -> list[dict[str, Any]]:
    lines = Path(cfg.OUTPUT_DIR, "stdout.log").read_text().splitlines()
    return [
        simplejson.loads(line.split("json_stats: ")[1]) for line in lines if "json_stats: " in line
    ]


def test_a_finished_run_trains_no_further(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg()
    train(cfg)
    before = checkpoint_path(cfg.OUTPUT_DIR, epoch=2).stat().st_mtime_ns
    train(cfg)
    assert checkpoint_path(cfg.OUTPUT_DIR, epoch=2).stat().st_mtime_ns == before


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
    losses = [record["loss"] for record in records_of(cfg) if record["_type"] == "train_step"]
    assert len(losses) == 12
    assert np.mean(losses[:3]) - np.mean(losses[-3:]) > 0.3


def test_outputs_are_config_log_checkpoints_and_curves(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(TENSORBOARD__ENABLE=True)
    train(cfg)
    output = Path(cfg.OUTPUT_DIR)
    assert (output / "config.yaml").read_text() == cfg.dump()
    assert [path.name for path in sorted((output / "checkpoints").iterdir())] == [
        "checkpoint_epoch_00001.pyth",
        "checkpoint_epoch_00002.pyth",
    ]
    steps = [record for record in records_of(cfg) if record["_type"] == "train_step"]
    assert [(record["epoch"], record["step"]) for record in steps] == [
        (1, 2),
        (1, 4),
        (2, 2),
        (2, 4),
    ]
    assert {
        "loss",
        "top1",
        "lr",
        "grad_norm",
        "step_seconds",
        "data_wait_seconds",
        "eta_seconds",
    } <= steps[0].keys()
    assert [record["epoch"] for record in records_of(cfg) if record["_type"] == "val_epoch"] == [2]
    curves = EventAccumulator(str(output / "tensorboard")).Reload()
    losses = curves.Scalars("train/loss")
    assert [event.step for event in losses] == [2, 4, 6, 8]
    assert [event.value for event in losses] == pytest.approx(
        [record["loss"] for record in steps], rel=1e-5
    )
    assert [event.step for event in curves.Scalars("val/top1")] == [2]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains_close_to_full_precision(
    tiny_cfg: TinyCfg, tmp_path: Path, amp: str
) -> None:
    losses = {}
    for name in ("off", amp):
        cfg = tiny_cfg(
            TRAIN__AMP=name, OUTPUT_DIR=tmp_path / name, SOLVER__MAX_EPOCH=1, LOG_PERIOD=1
        )
        train(cfg)
        losses[name] = [
            record["loss"] for record in records_of(cfg) if record["_type"] == "train_step"
        ]
    assert losses[amp] == pytest.approx(losses["off"], abs=0.05)
    assert losses[amp] != losses["off"]
    assert all(
        tensor.dtype != torch.bfloat16 for tensor in final_state(cfg)["model_state"].values()
    )


def test_gradients_are_clipped_to_the_given_norm(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    # One step of plain SGD with rate 1 moves the weights by the clipped gradient: its norm is the limit.
    settings: dict[str, Any] = {
        "SOLVER__OPTIMIZING_METHOD": "sgd",
        "SOLVER__MOMENTUM": 0.0,
        "SOLVER__NESTEROV": False,
        "SOLVER__WEIGHT_DECAY": 0.0,
        "SOLVER__BASE_LR": 1.0,
        "SOLVER__LR_POLICY": "steps_with_relative_lrs",
        "SOLVER__STEPS": "[0]",
        "SOLVER__LRS": "[1]",
        "SOLVER__MAX_EPOCH": 1,
        "TRAIN__BATCH_SIZE": 32,
        "SOLVER__CLIP_GRADIENT": 1e-3,
    }
    cfg = tiny_cfg(**settings)
    torch.manual_seed(cfg.RNG_SEED)
    before = dict(build_model(cfg).named_parameters())
    train(cfg)
    after = final_state(cfg)["model_state"]
    moved = torch.cat(
        [(after[name] - parameter.detach()).flatten() for name, parameter in before.items()]
    )
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_steps_that_are_not_finite_in_a_row_stop_the_run(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(
        SOLVER__BASE_LR=1e9,
        SOLVER__CLIP_GRADIENT=0,
        SOLVER__OPTIMIZING_METHOD="sgd",
        SOLVER__MAX_BAD_STEPS=3,
    )
    with pytest.raises(
        SkippedStepsError,
        match=r"3 steps in a row up to epoch 1, step \d had .* with a lower learning rate: .* SOLVER\.BASE_LR",
    ):
        train(cfg)
    dumps = sorted(Path(cfg.OUTPUT_DIR, "skipped_steps").iterdir())
    assert len(dumps) == 3
    found = simplejson.loads(dumps[0].read_text())
    assert found["step"] == 2
    assert found["lr"] == pytest.approx(1e9, rel=0.3)
    assert len(found["processes"][0]["videos"]) == 8
    assert found["processes"][0]["first_module_not_finite"].startswith("patch_embed")


def test_training_starts_from_given_weights_with_a_new_head(
    tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
    first = tiny_cfg(OUTPUT_DIR=tmp_path / "first")
    train(first)
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
    torch.testing.assert_close(
        new["blocks3.0.attn.qkv.weight"], old["blocks3.0.attn.qkv.weight"], rtol=0, atol=1e-9
    )
    assert new["head.weight"].shape == (9, 16)


def test_training_starts_from_published_image_weights_and_ends_in_published_names(
    tiny_cfg: TinyCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(tiny_cfg())
    flat = {
        name: value.mean(dim=2) if value.dim() == 5 else value
        for name, value in model.state_dict().items()
    }
    flat |= {"head.weight": torch.zeros(1000, 16), "head.bias": torch.zeros(1000)}
    torch.save(
        {"model": flat, "args": argparse.Namespace(lr=1)}, tmp_path / "uniformer_small_in1k.pth"
    )
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    still = {"SOLVER__BASE_LR": 1e-12, "SOLVER__COSINE_END_LR": 0, "SOLVER__MAX_EPOCH": 1}
    cfg = tiny_cfg(**still, UNIFORMER__PRETRAIN_NAME="uniformer_small_in1k")
    train(cfg)
    log = Path(cfg.OUTPUT_DIR, "stdout.log").read_text()
    assert (
        "uniformer_small_in1k.pth has a head of another size, or none; the head keeps its random weights"
        in log
    )
    name = "patch_embed3.proj.weight"
    torch.testing.assert_close(
        final_state(cfg)["model_state"][name][:, :, 0], flat[name], rtol=0, atol=1e-6
    )
    assert final_state(cfg)["model_state"].keys() == model.state_dict().keys()
    report = load_weights(model, str(checkpoint_path(cfg.OUTPUT_DIR, epoch=1)))
    assert (report.dropped, report.missing, report.unexpected) == ({}, {}, {})


def test_a_checkpoint_of_another_model_is_refused(tiny_cfg: TinyCfg) -> None:
    train(tiny_cfg())
    with pytest.raises(
        ValueError, match=r"holds another run .*\n.*UNIFORMER\.EMBED_DIM: \[8, 8, 16, 16\] there"
    ):
        train(tiny_cfg(UNIFORMER__EMBED_DIM="[8,8,16,32]"))


def test_weights_alone_are_no_checkpoint_to_resume_from(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg()
    train(cfg)
    path = checkpoint_path(cfg.OUTPUT_DIR, epoch=2)
    torch.save({"model_state": final_state(cfg)["model_state"]}, path)
    with pytest.raises(
        ValueError, match=r"cannot be resumed: it has no format, run_id, .*, optimizer_state"
    ):
        train(cfg)


def test_precise_statistics_are_means_over_training_batches(
    tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
    states = {}
    for precise in (False, True):
        cfg = tiny_cfg(
            BN__USE_PRECISE_STATS=precise, OUTPUT_DIR=tmp_path / str(precise), SOLVER__MAX_EPOCH=1
        )
        train(cfg)
        states[precise] = final_state(cfg)["model_state"]
    name = "blocks1.0.norm1.running_mean"
    assert torch.equal(
        states[False]["blocks1.0.norm1.weight"], states[True]["blocks1.0.norm1.weight"]
    )
    # Four steps with momentum 0.1 are far from the mean that they approach: 1 - 0.9 ** 4 = 0.34 of it.
    ratio = (states[True][name].norm() / states[False][name].norm()).item()
    assert ratio == pytest.approx(1 / (1 - 0.9**4), rel=0.25)
