"""Range of every config key by itself: its choices, or the bounds of its numbers."""

from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode

from slowfast.config.defaults import default_cfg
from slowfast.config.tree import leaf_keys, value_at
from slowfast.config.values import as_list, shorten

CHOICES = {
    "DIST_BACKEND": ("nccl", "gloo"),
    "TRAIN.AMP": ("auto", "off", "bf16", "fp16"),
    "TRAIN.SAMPLING": ("uniform", "balanced"),
    "TRAIN.GRADIENT_DTYPE": ("fp32", "bf16"),
    "TRAIN.BEST_METRIC": ("top1", "loss"),
    "TEST.NUM_SPATIAL_CROPS": (1, 3),
    "DATA.SHORT_CLIP": ("repeat_last", "loop", "error"),
    "DATA.ENSEMBLE_METHOD": ("sum", "probabilities", "max"),
    "AUG.INTERPOLATION": ("nearest", "bilinear", "bicubic"),
    "AUG.RE_MODE": ("pixel", "rand", "const"),
    "MODEL.HEAD": ("linear", "mlp", "attentive"),
    "MODEL.LOSS_FUNC": ("cross_entropy", "soft_cross_entropy", "bce_logit"),
    "SOLVER.OPTIMIZING_METHOD": ("adamw", "adam", "sgd"),
    "SOLVER.LR_POLICY": ("cosine", "steps_with_relative_lrs"),
}
POSITIVE = (
    "NUM_SHARDS",
    "DIST_TIMEOUT",
    "LOG_PERIOD",
    "TRAIN.BATCH_SIZE",
    "TRAIN.EVAL_PERIOD",
    "TRAIN.CHECKPOINT_PERIOD",
    "TEST.BATCH_SIZE",
    "TEST.VIEWS_PER_FORWARD",
    "TEST.NUM_ENSEMBLE_VIEWS",
    "DATA.NUM_FRAMES",
    "DATA.SAMPLING_RATE",
    "DATA.MAX_FRAME_PIXELS",
    "DATA.TRAIN_CROP_SIZE",
    "DATA.TEST_CROP_SIZE",
    "AUG.NUM_SAMPLE",
    "AUG.RE_COUNT",
    "MODEL.NUM_CLASSES",
    "UNIFORMER.HEAD_DIM",
    "SOLVER.BASE_LR",
    "SOLVER.MAX_BAD_STEPS",
    "SOLVER.MAX_EPOCH",
    "BN.NUM_BATCHES_PRECISE",
    "TENSORBOARD.HISTOGRAM.TOPK",
)
NOT_NEGATIVE = (
    "NUM_GPUS",
    "SHARD_ID",
    "RNG_SEED",
    "MODEL.CHECKPOINT_MEMORY",
    "TRAIN.CHECKPOINT_MINUTES",
    "TRAIN.EARLY_STOP_PATIENCE",
    "TRAIN.KEEP_EVERY",
    "TRAIN.KEEP_LAST",
    "DATA.TARGET_FPS",
    "DATA.TEST_SHORT_SIDE",
    "DATA_LOADER.NUM_WORKERS",
    "DATA_LOADER.TIMEOUT",
    "MIXUP.ALPHA",
    "MIXUP.CUTMIX_ALPHA",
    "SOLVER.ACCUM_STEPS",
    "SOLVER.COSINE_END_LR",
    "SOLVER.WARMUP_EPOCHS",
    "SOLVER.WARMUP_START_LR",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.CLIP_GRADIENT",
    "SOLVER.MOMENTUM",
    "BN.WEIGHT_DECAY",
    "TENSORBOARD.TRAIN_CLIPS",
)
PROBABILITIES = (
    "TRAIN.EMA_DECAY",
    "DATA.MAX_BAD_FRACTION",
    "AUG.RE_PROB",
    "MIXUP.PROB",
    "MIXUP.SWITCH_PROB",
    "MIXUP.LABEL_SMOOTH_VALUE",
    "SOLVER.DAMPENING",
    "UNIFORMER.DROPOUT_RATE",
    "UNIFORMER.ATTENTION_DROPOUT_RATE",
    "UNIFORMER.HEAD_DROPOUT_RATE",
    "UNIFORMER.DROP_DEPTH_RATE",
)

# The largest number that a key, or the list of a key, may hold. A larger one is a typo that would
# overflow or exhaust the memory.
LARGEST = {
    "NUM_GPUS": 1024,
    "NUM_SHARDS": 100_000,
    "DIST_TIMEOUT": 1e6,
    "RNG_SEED": 2**63 - 1,
    "TRAIN.BATCH_SIZE": 1_000_000,
    "TEST.BATCH_SIZE": 1_000_000,
    "TEST.VIEWS_PER_FORWARD": 1_000_000,
    "TEST.NUM_ENSEMBLE_VIEWS": 10_000,
    "DATA.NUM_FRAMES": 10_000,
    "DATA.SAMPLING_RATE": 1_000_000,
    "DATA.TARGET_FPS": 1000.0,
    "DATA.TRAIN_CROP_SIZE": 10_000,
    "DATA.TRAIN_JITTER_SCALES": 10_000,
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": 100.0,
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": 100.0,
    "DATA.TEST_CROP_SIZE": 10_000,
    "DATA.TEST_SHORT_SIDE": 10_000,
    "DATA_LOADER.NUM_WORKERS": 1024,
    "DATA_LOADER.TIMEOUT": 1e6,
    "AUG.NUM_SAMPLE": 1000,
    "AUG.RE_COUNT": 1000,
    "MODEL.NUM_CLASSES": 10_000_000,
    "UNIFORMER.EMBED_DIM": 65_536,
    "UNIFORMER.DEPTH": 1000,
    "UNIFORMER.HEAD_DIM": 65_536,
    "UNIFORMER.MLP_RATIO": 1000.0,
    "SOLVER.ACCUM_STEPS": 1_000_000,
    "SOLVER.WEIGHT_DECAY": 1000.0,
    "BN.WEIGHT_DECAY": 1000.0,
    "TENSORBOARD.TRAIN_CLIPS": 64,
    "TENSORBOARD.HISTOGRAM.TOPK": 100,
    "TENSORBOARD.CONFUSION_MATRIX.FIGSIZE": 50,
    "TENSORBOARD.HISTOGRAM.FIGSIZE": 50,
}
LARGEST_INTEGER = 2**31 - 1  # default for keys that LARGEST does not list
LARGEST_FLOAT = 1e9

OWN_KEYS = tuple(leaf_keys(default_cfg()))  # keys of this package, without added sections


def find_range_problems(cfg: CfgNode) -> list[str]:
    """Return the keys with values out of range, one sentence each."""
    return [*_find_choice_problems(cfg), *_find_sign_problems(cfg), *_find_size_problems(cfg)]


def _find_choice_problems(cfg: CfgNode) -> Iterator[str]:
    for key, choices in CHOICES.items():
        if value_at(cfg, key) not in choices:
            names = ", ".join(map(str, choices))
            yield f"{key} is {value_at(cfg, key)!r}. Choose from {names}"


def _find_sign_problems(cfg: CfgNode) -> Iterator[str]:
    for key in POSITIVE:
        if not value_at(cfg, key) > 0:
            yield f"{key} is {value_at(cfg, key)}. Use a number above 0"

    for key in NOT_NEGATIVE:
        if not value_at(cfg, key) >= 0:
            yield f"{key} is {value_at(cfg, key)}. Use 0 or more"

    for key in PROBABILITIES:
        if not 0 <= value_at(cfg, key) <= 1:
            yield f"{key} is {value_at(cfg, key)}. Use a number from 0 to 1"


def _find_size_problems(cfg: CfgNode) -> Iterator[str]:
    for key in OWN_KEYS:
        value = value_at(cfg, key)
        numbers = [item for item in as_list(value) if _is_number(item)]

        is_whole = all(isinstance(number, int) for number in numbers)
        limit = LARGEST.get(key, LARGEST_INTEGER if is_whole else LARGEST_FLOAT)
        if any(abs(number) > limit for number in numbers):
            text = str(limit) if isinstance(limit, int) else f"{limit:g}"
            yield f"{key} is {shorten(str(value))}. Use at most {text}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
