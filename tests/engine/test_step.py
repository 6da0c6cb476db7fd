"""One training step: its gradient, clipping, counters, and the device it never waits for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.datasets.records import Batch
from slowfast.engine.build import build_state, build_train_step
from slowfast.engine.ema import ModelEma
from slowfast.engine.train import train
from slowfast.models.build import build_model
from slowfast.models.uniformer import UniFormer
from tests.engine.first_gradient import first_gradient
from tests.engine.outputs import final_state
from tests.engine.small_step import TINY, RecordedOperations, small_train_step

TinyCfg = Callable[..., CfgNode]


@pytest.mark.parametrize("num_micro_batches", [2, 4, 8])
def test_micro_batches_have_the_gradient_of_the_whole_batch(
    smooth_cfg: CfgNode, num_micro_batches: int
) -> None:
    whole = first_gradient(smooth_cfg, num_micro_batches=1)
    assert whole.norm() > 0.1
    divided = first_gradient(smooth_cfg, num_micro_batches=num_micro_batches)
    torch.testing.assert_close(divided, whole, atol=1e-6, rtol=0)


def test_gradients_are_clipped_to_the_given_norm(tiny_cfg: TinyCfg) -> None:
    # One step of plain SGD with rate 1 moves the weights by the clipped gradient, whose norm is
    # the limit.
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

    moves = [after[name] - parameter.detach() for name, parameter in before.items()]
    moved = torch.cat([move.flatten() for move in moves])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_batch_counters_leave_out_skipped_steps(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg()
    loader = build_loader(cfg, "train", micro_batches_per_step=2)
    state = build_state(cfg, num_micro_batches=2)
    train_step = build_train_step(cfg, state, num_videos=32)
    for index, micro_batches in enumerate(loader.steps()):
        if index == 1:
            micro_batches[1].frames[:] = torch.nan
        train_step.run(micro_batches, lr=0.1)
    train_step.settle()

    buffers = state.model.named_buffers()
    counts = {value.item() for name, value in buffers if name.endswith("batches_tracked")}
    assert counts == {3}  # 4 steps of 2 micro-batches, minus one skipped step


def test_a_step_does_not_wait_for_the_device() -> None:
    model = UniFormer(**TINY, drop_path=0.2)
    train_step = small_train_step(model, ema=ModelEma(model, decay=0.9))
    frames, rows = torch.randn(4, 3, 4, 32, 32), torch.arange(4)
    batch = Batch(frames, rows % 3, rows, torch.zeros_like(rows), unreadable=())
    with RecordedOperations() as operations:
        for _ in range(3):
            train_step.run((batch, batch), lr=0.1)
    assert "_fused_adamw_" in operations.names
    assert not {"_local_scalar_dense", "nonzero", "equal"} & {*operations.names}
