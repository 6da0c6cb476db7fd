"""Extractions of features from random weights, for the tests of features and probes."""

from pathlib import Path
from typing import Any

from slowfast.config import CfgNode
from slowfast.inference.feature_extraction import build_features
from slowfast.inference.feature_files import StoredFeatures, open_features
from slowfast.inference.feature_plan import Extraction
from slowfast.utils.checkpoint_files import checkpoint_path
from tests.inference.conftest import save_random_checkpoint


def extract(
    cfg: CfgNode, name: str = "features", *, split: str = "test", **options: Any
) -> StoredFeatures:
    """Extract features with the checkpoint of a run to a folder in its OUTPUT_DIR."""
    weights = checkpoint_path(cfg.OUTPUT_DIR, epoch=1)
    if not weights.exists():
        save_random_checkpoint(cfg)
    folder = Path(cfg.OUTPUT_DIR, name)
    build_features(cfg, Extraction(str(weights), folder, split=split, **options))
    return open_features(folder)
