"""Fixtures of the tests of sharing: runs, and the command that exports them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slowfast import load
from slowfast.commands import export_weights
from slowfast.config import CfgNode
from slowfast.engine.evaluate import evaluate
from tests.inference.conftest import save_random_checkpoint

Export = Callable[..., int]
Run = Callable[..., Path]

CLIP = np.random.default_rng(3).integers(0, 256, (12, 48, 64, 3), np.uint8)

# A training run writes these to its checkpoints.
TRAINED = {"run_id": "20260131-093000-abcdef", "epoch": 2, "identity": {"num_training_videos": 32}}


def logits_of(source: object) -> np.ndarray:
    return load(str(source)).predict(CLIP).logits


@pytest.fixture
def export() -> Export:
    """Run `slowfast export-weights` in this process."""
    return lambda *arguments: export_weights.main([*map(str, arguments)])


@pytest.fixture
def new_run(tiny_cfg: Callable[..., CfgNode]) -> Run:
    """Function that makes the folder of a run, which was tested if `is_tested`."""

    def make(
        *, is_tested: bool = False, entries: Mapping[str, Any] | None = None, **settings: Any
    ) -> Path:
        cfg = tiny_cfg(**settings)
        save_random_checkpoint(cfg, entries=TRAINED if entries is None else entries)
        if is_tested:
            evaluate(cfg)
        return Path(cfg.OUTPUT_DIR)

    return make
