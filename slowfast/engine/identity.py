"""What makes a run the one it is: its settings, its videos, the weights it starts from, its batch and its rates."""

from typing import Any

import simplejson
from fvcore.common.config import CfgNode

from slowfast.datasets.annotations import Annotations
from slowfast.distributed.collectives import device
from slowfast.engine.optim import amp_dtype, dtype_name, lr_at

START_WEIGHTS = "sha256 of the weights it started from"  # "": random ones

# Keys that say where and how fast a run computes, what it shows and when it saves: not what it is.
FREE_KEYS = (
    *("NUM_GPUS", "SHARD_ID", "DIST_BACKEND", "DIST_TIMEOUT", "OUTPUT_DIR", "LOG_PERIOD"),
    *(
        "TRAIN.ENABLE",
        "TRAIN.EVAL_PERIOD",
        "TRAIN.AUTO_RESUME",
        "TRAIN.REHEARSE",
        "TRAIN.RESUME_WITH_CHANGES",
    ),
    *(
        "TRAIN.STATIC_GRAPH",
        "TRAIN.GRADIENT_BUCKET_VIEW",
        "TRAIN.PREFETCH",
        "TRAIN.EARLY_STOP_PATIENCE",
    ),
    *(
        "TRAIN.CHECKPOINT_",
        "TRAIN.SAVE_LATEST",
        "TRAIN.KEEP_",
        "TEST.",
        "TENSORBOARD.",
        "DATA_LOADER.",
    ),
    *(
        "DATA.PATH_",
        "DATA.LABEL_PATH_TEMPLATE",
        "DATA.CLASS_NAMES",
        "DATA.TEST_",
        "DATA.ENSEMBLE_METHOD",
    ),
    "DATA.MAX_FRAME_PIXELS",
    *("DATA.MANIFEST", "DATA.MAX_BAD_FRACTION"),  # what the manifest leaves out shows in the videos
    *("MODEL.USE_CHECKPOINT", "MODEL.CHECKPOINT_", "MODEL.WEIGHTS_DIR", "MODEL.ALLOWED_MISMATCH"),
    *("UNIFORMER.PRETRAIN_NAME", "SOLVER.ACCUM_STEPS", "SOLVER.MAX_BAD_STEPS", "SOLVER.FUSED"),
    *("TRAIN.BEST_METRIC",),
    "TRAIN.AMP",  # the number format that it means on the device is compared instead
    # What these make together, the batch of a step and its learning rate, is compared instead.
    *("NUM_SHARDS", "TRAIN.BATCH_SIZE", "SOLVER.BASE_LR"),
)


def identity_of(cfg: CfgNode, annotations: Annotations, *, start_weights: str) -> dict[str, Any]:
    """Return what makes a run the one it is, as plain data.

    Args:
        cfg: The config; all of its keys count but FREE_KEYS.
        annotations: The training videos.
        start_weights: The sha256 of the file of weights that the run starts from; "" for random weights.
    """
    settings = {key: value for key, value in _flatten(cfg) if not key.startswith(FREE_KEYS)}
    identity = settings | {
        "training videos": len(annotations),
        "checksum of their labels": annotations.checksum_of_labels(),
        "checksum of their paths, in order": annotations.checksum_of_paths(
            prefix=cfg.DATA.PATH_PREFIX
        ),
        "videos per step (TRAIN.BATCH_SIZE * NUM_SHARDS)": cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS,
        "learning rate at first and after the warm-up (SOLVER.BASE_LR, NUM_SHARDS)": [
            lr_at(cfg, epoch) for epoch in (0, cfg.SOLVER.WARMUP_EPOCHS)
        ],
        "number format (TRAIN.AMP)": dtype_name(amp_dtype(cfg.TRAIN.AMP, device())),
        START_WEIGHTS: start_weights,
    }
    plain: dict[str, Any] = simplejson.loads(
        simplejson.dumps(identity)
    )  # as it is read again from a file
    return plain


def differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Return what differs between the identity of a run and that of a run found in a folder, one line each.

    A key that only one of them has is no difference: another version of this package has written it.
    """
    return [
        f"{key}: {there[key]!r} there, {value!r} here"
        for key, value in here.items()
        if key in there and there[key] != value
    ]


def _flatten(tree: CfgNode, prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in tree.items():
        pairs += (
            _flatten(value, f"{prefix}{name}.")
            if isinstance(value, CfgNode)
            else [(f"{prefix}{name}", value)]
        )
    return pairs
