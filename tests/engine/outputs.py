"""What a run wrote: its checkpoints, its JSON records and its scores."""

from pathlib import Path
from typing import Any

import numpy as np
import simplejson

from slowfast.config import CfgNode
from slowfast.engine.evaluate import evaluate
from slowfast.evaluation.metrics import Metrics
from slowfast.evaluation.result import open_result
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path, list_checkpoints


def evaluate_labeled(cfg: CfgNode) -> Metrics:
    """Test on a list with labels, and return the metrics."""
    metrics = evaluate(cfg)
    assert isinstance(metrics, Metrics)
    return metrics


def final_state(cfg: CfgNode) -> dict[str, Any]:
    """Return the checkpoint of the last epoch."""
    return load_checkpoint(checkpoint_path(cfg.OUTPUT_DIR, epoch=cfg.SOLVER.MAX_EPOCH))


def epochs_in(folder: Path) -> list[int]:
    """Return the numbers of finished epochs of all checkpoints, newest first."""
    return [load_checkpoint(path)["epoch"] for path in list_checkpoints(str(folder))]


def json_records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the JSON records of a kind in the log, such as `train_step`."""
    lines = (folder / "stdout.log").read_text().splitlines()
    texts = [line.split("json_stats: ")[1] for line in lines if "json_stats: " in line]
    records = [simplejson.loads(text) for text in texts]
    return [record for record in records if record["_type"] == kind]


def read_logits(folder: Path) -> np.ndarray:
    """Return the logits of all views of the last test of a run, shape (N, V, K)."""
    result = open_result(folder)
    records = result.record.shards(result.folder).read()
    return np.concatenate([scores.logits for scores in records])
