"""Extractions of features from random weights, for the tests of features and probes."""

from pathlib import Path
from typing import Any

import torch

from slowfast.config import CfgNode
from slowfast.datasets.build import build_known_class_names
from slowfast.inference.feature_extraction import Extraction, build_features
from slowfast.inference.feature_files import StoredFeatures, open_features
from slowfast.models.build import build_model
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path


def save_random_run(cfg: CfgNode) -> Path:
    """Save random weights as the checkpoint of a run, and return its path."""
    torch.manual_seed(3)
    model = build_model(cfg)
    state = {
        "model_state": model.state_dict(),
        "class_names": build_known_class_names(cfg),
        "cfg": cfg.dump(),
    }
    path = checkpoint_path(cfg.OUTPUT_DIR, epoch=1)
    save_checkpoint(path, state)
    return path


def extract(
    cfg: CfgNode, name: str = "features", *, split: str = "test", **options: Any
) -> StoredFeatures:
    """Extract features with the checkpoint of a run to a folder in its OUTPUT_DIR."""
    weights = checkpoint_path(cfg.OUTPUT_DIR, epoch=1)
    if not weights.exists():
        save_random_run(cfg)
    folder = Path(cfg.OUTPUT_DIR, name)
    build_features(cfg, Extraction(str(weights), folder, split=split, **options))
    return open_features(folder)
