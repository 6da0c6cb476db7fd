"""Activation checkpointing: the fewest recomputed blocks that fit into memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slowfast.config import CfgNode
from slowfast.engine.build import build_activation_budget, build_state
from slowfast.engine.recompute import (
    MARGIN,
    activation_budget,
    activation_bytes,
    choose_recomputed,
    kept_tensors,
)
from slowfast.engine.train import train
from slowfast.models.uniformer import UniFormer
from tests.engine.outputs import final_state

TinyCfg = Callable[..., CfgNode]

TINY: dict[str, Any] = {
    "num_classes": 5,
    "dims": (8, 8, 16, 16),
    "depths": (2, 1, 2, 1),
    "head_dim": 8,
}

SHAPE = (2, 3, 4, 32, 32)


@pytest.mark.parametrize("recomputed", [(0, 0, 0, 0), (1, 0, 2, 0), (2, 1, 2, 1)])
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_predicted_bytes_are_those_that_a_step_keeps(
    recomputed: tuple[int, ...], amp: torch.dtype | None
) -> None:
    model = UniFormer(**TINY, drop_path=0.2).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predicted = activation_bytes(model, recomputed, shape=SHAPE, amp=amp)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    model.recomputed = recomputed
    with kept_tensors() as kept, torch.autocast("cpu", amp, enabled=amp is not None):
        model(torch.randn(SHAPE)).float().logsumexp(dim=1).mean()

    own = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in kept
    }
    measured = sum(size for storage, size in storages.items() if storage not in own)
    # A step also keeps the state of the random number generator.
    assert predicted == pytest.approx(measured, rel=0.02)


def test_as_few_blocks_as_fit_are_recomputed() -> None:
    model = UniFormer(**{**TINY, "depths": (4, 1, 2, 1)}, drop_path=0.2).train()
    shape = (8, 3, 4, 32, 32)
    largest = activation_bytes(model, (0, 0, 0, 0), shape=shape, amp=None)

    def choose(fraction: float) -> tuple[int, ...]:
        model.recomputed = (0, 0, 0, 0)
        budget = fraction * largest
        choose_recomputed(model, shape=shape, amp=None, budget=budget, remedy="more ACCUM_STEPS")
        return model.recomputed

    assert choose(1.0) == (0, 0, 0, 0)
    choices = [choose(fraction) for fraction in (0.95, 0.8, 0.7)]
    counts = [sum(choice) for choice in choices]
    assert counts == sorted(counts)
    assert 0 < counts[0] < counts[-1]
    assert choices[1][0] == 3  # The first stage has the largest activations.
    message = r"even with all blocks recomputed, .* of 8 clips take .*ACCUM_STEPS"
    with pytest.raises(ValueError, match=message):
        choose(0.01)


def test_a_run_that_recomputes_ends_in_bit_equal_weights(
    tiny_cfg: TinyCfg, trained_cfg: TinyCfg, tmp_path: Path
) -> None:
    shared = {"SOLVER__MAX_EPOCH": 1, "UNIFORMER__DEPTH": [4, 1, 1, 1]}
    plain = trained_cfg(folder="plain", **shared)
    settings = {"MODEL__CHECKPOINT_AUTO": True, "MODEL__CHECKPOINT_MEMORY": 0.0015, **shared}
    recomputed = tiny_cfg(OUTPUT_DIR=tmp_path / "recomputed", **settings)
    train(recomputed)

    assert "With MODEL.CHECKPOINT_NUM [4, " in (tmp_path / "recomputed/stdout.log").read_text()
    weights = final_state(recomputed)["model_state"]
    for name, tensor in final_state(plain)["model_state"].items():
        assert torch.equal(tensor, weights[name]), name


def test_the_budget_leaves_room_for_later_allocations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 20_000))
    model = nn.BatchNorm1d(10)  # 80 bytes of weights, 168 with the statistics and their counter
    plain: dict[str, Any] = {
        "num_moments": 2,
        "num_gradient_copies": 1.0,
        "has_ema": False,
        "input_bytes": 0,
    }
    assert activation_budget(model, **plain) == pytest.approx((1 - MARGIN) * (10_000 - 240))
    full: dict[str, Any] = {
        "num_moments": 2,
        "num_gradient_copies": 2.0,
        "has_ema": True,
        "input_bytes": 1_000,
    }
    assert activation_budget(model, **full) == pytest.approx(
        (1 - MARGIN) * (10_000 - 320 - 168 - 1_000)
    )


def test_the_budget_counts_the_ema_and_the_batches(
    tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_cfg(
        NUM_GPUS=1,
        MODEL__CHECKPOINT_AUTO=True,
        MODEL__LOSS_FUNC="soft_cross_entropy",
        TRAIN__EMA_DECAY=0.9,
        DATA__UINT8=True,
        MIXUP__ENABLE=True,
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 2 * 10**9))
    model = nn.BatchNorm1d(10)  # 80 bytes of weights, 168 with the statistics and their counter
    limit = build_activation_budget(cfg, model, shape=(2, 3, 4, 10, 10), num_micro_batches=2)
    # Gradients and two moments, the EMA, two uint8 micro-batches in each of three steps, and in
    # float32 one micro-batch after normalization and one after mixing.
    to_come = 3 * 80 + 168 + 6 * 2400 + 4 * 2400 + 4 * 2400
    assert limit == pytest.approx((1 - MARGIN) * (10**9 - to_come), rel=1e-12)


@pytest.mark.parametrize(
    ("bucket_view", "dtype", "num_copies"),
    [(True, "fp32", 1), (False, "fp32", 2), (True, "bf16", 1.5), (False, "bf16", 2.5)],
)
def test_the_budget_counts_the_gradients_that_ddp_sends(
    tiny_cfg: TinyCfg,
    monkeypatch: pytest.MonkeyPatch,
    rank_0_of_2: None,
    bucket_view: bool,
    dtype: str,
    num_copies: float,
) -> None:
    cfg = tiny_cfg(NUM_GPUS=2, TRAIN__GRADIENT_BUCKET_VIEW=bucket_view, TRAIN__GRADIENT_DTYPE=dtype)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 2 * 10**9))
    model = nn.BatchNorm1d(10)  # 80 bytes of weights
    limit = build_activation_budget(cfg, model, shape=(2, 3, 4, 10, 10), num_micro_batches=1)
    # Two moments, the copies of the gradients, and three float32 batches.
    to_come = (2 + num_copies) * 80 + 3 * 9600
    assert limit == pytest.approx((1 - MARGIN) * (10**9 - to_come), rel=1e-12)


def test_a_run_chooses_blocks_for_all_of_its_batches(
    tiny_cfg: TinyCfg, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = tiny_cfg(
        NUM_GPUS=1,
        MODEL__CHECKPOINT_AUTO=True,
        UNIFORMER__DEPTH="[0,0,0,0]",
        TRAIN__BATCH_SIZE=16,
        DATA__NUM_FRAMES=16,
        DATA__TRAIN_CROP_SIZE=224,
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 2**30, 8 * 2**30))
    with caplog.at_level("INFO"):
        build_state(cfg, num_micro_batches=2)
    # Three steps of 16 clips of 3 * 16 * 224 * 224 float32 values wait on the GPU.
    limit = (1 - MARGIN) * (8 - 3 * 16 * 3 * 16 * 224 * 224 * 4 / 2**30)
    assert "activations of 8 clips take" in caplog.text
    assert f" of {limit:.2f} GiB. With" in caplog.text
