"""Identity of a run: its settings, videos, start weights, videos per step and learning rates."""

from typing import Any

import simplejson
from fvcore.common.config import CfgNode

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import build_batch_sizes
from slowfast.distributed.collectives import device
from slowfast.engine.build import build_lr_schedule
from slowfast.inference.precision import amp_dtype, dtype_name

# Entries beside the settings, with the words that tell a user what differs.
_DESCRIPTIONS = {
    "num_training_videos": "number of training videos",
    "labels_sha256": "SHA-256 of their labels",
    "paths_sha256": "SHA-256 of their paths, in order",
    "videos_per_step": "videos per step (TRAIN.BATCH_SIZE * NUM_SHARDS)",
    "learning_rates": "learning rates at first and after the warm-up (SOLVER.BASE_LR, NUM_SHARDS)",
    "dtype": "dtype of the forward pass (TRAIN.AMP)",
    "start_weights_sha256": "SHA-256 of the start weights",
}


def build_identity(cfg: CfgNode, annotations: Annotations, *, start_weights: str) -> dict[str, Any]:
    """Return what makes a run the one it is, as plain data.

    Args:
        cfg: The config. The keys that it declares as identity count.
        annotations: The training videos.
        start_weights: SHA-256 of the weights file that the run starts from, "" for random weights.
    """
    lr_schedule = build_lr_schedule(cfg)
    entries = {
        "num_training_videos": len(annotations),
        "labels_sha256": annotations.hash_labels(),
        "paths_sha256": annotations.hash_paths(prefix=cfg.DATA.PATH_PREFIX),
        "videos_per_step": build_batch_sizes(cfg).videos_per_step,
        "learning_rates": [lr_schedule.lr_at(0), lr_schedule.lr_at(lr_schedule.warmup_epochs)],
        "dtype": dtype_name(amp_dtype(cfg.TRAIN.AMP, device())),
        "start_weights_sha256": start_weights,
    }

    # JSON turns the identity into what a later start reads from the record of the run.
    text = simplejson.dumps(cfg.identity_settings() | entries)
    identity: dict[str, Any] = simplejson.loads(text)
    return identity


def differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Return the differences between the identities of two runs, one line each.

    A key that only one of them has is no difference. Another version of this package wrote it.

    Args:
        here: Identity of the run to start.
        there: Identity of the run found in a folder.
    """
    return [
        f"{_DESCRIPTIONS.get(key, key)}: {there[key]!r} there, {value!r} here"
        for key, value in here.items()
        if key in there and there[key] != value
    ]
