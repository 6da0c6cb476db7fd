"""Fixtures of the tests of inference: finished tests of random weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast.config import CfgNode
from slowfast.datasets.build import build_known_class_names
from slowfast.engine.evaluate import evaluate
from slowfast.models.build import build_model
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path

Run = Callable[..., Path]


def save_random_checkpoint(
    cfg: CfgNode, path: Path | None = None, *, entries: Mapping[str, Any] | None = None
) -> Path:
    """Save random weights as the first checkpoint of a run, or to a path.

    `entries` replace those of the checkpoint. None removes one.
    """
    torch.manual_seed(3)
    path = path or checkpoint_path(cfg.OUTPUT_DIR, epoch=1)
    content = {
        "model_state": build_model(cfg).state_dict(),
        "class_names": build_known_class_names(cfg),
        "cfg": cfg.dump(),
        **(entries or {}),
    }
    save_checkpoint(path, {key: value for key, value in content.items() if value is not None})
    return path


@pytest.fixture
def new_run(tiny_cfg: Callable[..., CfgNode]) -> Run:
    """Function that makes the directory of a run with random weights, and returns it."""

    def make(**settings: Any) -> Path:
        cfg = tiny_cfg(**settings)
        save_random_checkpoint(cfg)
        return Path(cfg.OUTPUT_DIR)

    return make


@pytest.fixture
def tested_run(tiny_cfg: Callable[..., CfgNode]) -> Run:
    """Function that tests random weights, and returns the directory of the run."""

    def make(**settings: Any) -> Path:
        cfg = tiny_cfg(**settings)
        save_random_checkpoint(cfg)
        evaluate(cfg)
        return Path(cfg.OUTPUT_DIR)

    return make
