"""Learning-rate schedule: warm-up, cosine and staircase."""

from collections.abc import Callable
from typing import Any

import pytest

from slowfast.config import CfgNode
from slowfast.engine.build import build_lr_schedule

CfgWith = Callable[..., CfgNode]


def test_learning_rates_equal_the_reference(
    cfg_with: CfgWith, reference: Callable[[str], Any]
) -> None:
    for case in reference("lr_schedule"):
        schedule = build_lr_schedule(cfg_with(**case["overrides"]))
        for epoch, lr in case["epoch_lr"]:
            assert schedule.lr_at(epoch) == pytest.approx(lr, rel=1e-9, abs=1e-15)


def test_steps_with_relative_learning_rates_by_hand(cfg_with: CfgWith) -> None:
    cfg = cfg_with(
        SOLVER__LR_POLICY="steps_with_relative_lrs",
        SOLVER__BASE_LR=0.2,
        SOLVER__STEPS=[0, 10, 15],
        SOLVER__LRS=[1, 0.1, 0.01],
        SOLVER__WARMUP_EPOCHS=2.0,
        SOLVER__WARMUP_START_LR=0.1,
    )
    schedule = build_lr_schedule(cfg)
    lrs = [schedule.lr_at(epoch) for epoch in (0, 1, 2, 9.99, 10, 14.9, 15, 100)]
    assert lrs == pytest.approx([0.1, 0.15, 0.2, 0.2, 0.02, 0.02, 0.002, 0.002])


def test_all_learning_rates_scale_with_the_machines(cfg_with: CfgWith) -> None:
    settings: dict[str, Any] = {
        "SOLVER__WARMUP_EPOCHS": 5.0,
        "SOLVER__WARMUP_START_LR": 1e-6,
        "SOLVER__COSINE_END_LR": 1e-6,
    }
    one = build_lr_schedule(cfg_with(**settings))
    scaled = {"NUM_SHARDS": 4, "SOLVER__BASE_LR_SCALE_NUM_SHARDS": True}
    four = build_lr_schedule(cfg_with(**settings, **scaled))
    for epoch in (0, 2.5, 5, 50, 99.9):
        assert four.lr_at(epoch) == pytest.approx(4 * one.lr_at(epoch))
