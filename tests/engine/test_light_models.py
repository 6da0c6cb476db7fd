"""A light model trains, stops, resumes and is tested as any other model is."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slowfast.config import CfgNode
from slowfast.engine.compile import compile_blocks, compile_for_inference
from slowfast.engine.recompute import activation_bytes
from slowfast.engine.train import train
from slowfast.models.uniformer_light import UniFormerLight, light_loss
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path
from tests.alone import run_alone
from tests.engine.equal_runs import assert_equal_ends
from tests.engine.outputs import json_records, read_logits
from tests.models.light_models import TINY

TinyCfg = Callable[..., CfgNode]
Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]

# All that a training of a light model combines: pruning in both stages, layer scale, two augmented
# copies of each clip, MixUp, accumulation, EMA and recomputation.
SETTINGS: dict[str, Any] = {
    "MODEL__MODEL_NAME": "Uniformer_light_ls_fp32",
    "UNIFORMER__DEPTH": "[1,1,2,1]",
    "DATA__TRAIN_CROP_SIZE": 64,
    "DATA__TEST_CROP_SIZE": 64,
    "TRAIN__DATASET": "kinetics_sparse",
    "TEST__DATASET": "kinetics_sparse",
    "TEST__NUM_ENSEMBLE_VIEWS": 1,
    "TEST__ENABLE": True,
    "TRAIN__EMA_DECAY": 0.9,
    "TRAIN__REHEARSE": True,
    "AUG__NUM_SAMPLE": 2,
    "MIXUP__ENABLE": True,
    "MODEL__LOSS_FUNC": "soft_cross_entropy",
    "SOLVER__ACCUM_STEPS": 2,
    "MODEL__USE_CHECKPOINT": True,
    "MODEL__CHECKPOINT_NUM": "[0,0,2,1]",
    "LOG_PERIOD": 1,
}


def losses_in(folder: Path) -> list[float]:
    return [record["loss"] for record in json_records(folder, "train_step")]


def test_a_killed_training_ends_bit_equal(
    serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "TRAIN__CHECKPOINT_MINUTES": 0.001}
    command = arguments("hit", 1, **settings)
    statuses = serve(command, num_processes=1, signal="SIGKILL", when="training")
    assert statuses == [-signal.SIGKILL]
    assert serve(command, num_processes=1) == [0]
    assert serve(arguments("quiet", 1, **settings), num_processes=1) == [0]

    quiet, hit = tmp_path / "quiet", tmp_path / "hit"
    assert_equal_ends(quiet, hit)
    assert np.array_equal(read_logits(quiet), read_logits(hit))
    weights = load_checkpoint(checkpoint_path(str(quiet), epoch=2))["model_state"]
    assert {"cls_token", "head_cls.weight", "blocks3.1.gamma_2"} <= weights.keys()


@pytest.mark.parametrize("is_static", [False, True])
def test_two_processes_train_as_one_does(
    is_static: bool, serve: Serve, arguments: Arguments, tmp_path: Path
) -> None:
    settings = {
        **SETTINGS,
        "SOLVER__MAX_EPOCH": 1,
        "TRAIN__REHEARSE": False,
        "UNIFORMER__DROP_DEPTH_RATE": 0.0,
    }
    alone = {**settings, "SOLVER__ACCUM_STEPS": 2}
    shared = {**settings, "SOLVER__ACCUM_STEPS": 1, "TRAIN__STATIC_GRAPH": is_static}
    assert serve(arguments("alone", 1, **alone), num_processes=1) == [0]
    assert serve(arguments("shared", 2, **shared), num_processes=2) == [0, 0]
    losses = losses_in(tmp_path / "alone")
    assert len(losses) >= 4
    assert losses_in(tmp_path / "shared") == pytest.approx(losses, abs=1e-4)


def test_blocks_are_recomputed_until_activations_fit(tiny_cfg: TinyCfg) -> None:
    model = UniFormerLight(**TINY)
    shape = (2, 3, 8, 64, 64)
    counted = [
        activation_bytes(model, recomputed, shape=shape, training_loss=light_loss, amp=None)
        for recomputed in ((0, 0, 0, 0), (0, 0, 3, 0), (1, 1, 3, 1))
    ]
    assert counted == sorted(counted, reverse=True)

    cfg = tiny_cfg(
        **{**SETTINGS, "MODEL__USE_CHECKPOINT": False, "SOLVER__MAX_EPOCH": 1},
        MODEL__CHECKPOINT_AUTO=True,
        MODEL__CHECKPOINT_MEMORY=0.012,
    )
    run_alone(train, cfg)
    assert "With MODEL.CHECKPOINT_NUM [" in (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()


@pytest.mark.soak
def test_compiled_blocks_train_as_plain_ones() -> None:
    run_alone(check_compiled_blocks)


def check_compiled_blocks() -> None:
    torch.manual_seed(0)
    settings = {**TINY, "depths": (0, 0, 2, 1), "recomputed": (0, 0, 2, 0)}  # Few compile sooner.
    plain, compiled = (UniFormerLight(**settings, init_value=0.1).train() for _ in range(2))
    compiled.load_state_dict(plain.state_dict())
    compile_blocks(compiled)
    frames, labels = torch.randn(2, 3, 4, 64, 64), torch.tensor([0, 1])
    results = []
    for model in (plain, compiled):
        loss = light_loss(model(frames), labels, F.cross_entropy).loss
        loss.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        results.append((loss, dict(model.named_buffers()), gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)


@pytest.mark.soak
def test_a_compiled_light_model_keeps_its_logits() -> None:
    run_alone(check_compiled_logits)


def check_compiled_logits() -> None:
    torch.manual_seed(0)
    model = UniFormerLight(**TINY).eval()
    frames = torch.randn(2, 3, 8, 64, 64)
    with torch.inference_mode():
        expected = model(frames)
        compile_for_inference(model)
        torch.testing.assert_close(model(frames), expected, rtol=1e-4, atol=1e-5)
