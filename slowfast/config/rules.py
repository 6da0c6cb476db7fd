"""What a config must satisfy whatever the machine and the data are. Each rule says key, value, rule and remedy."""

from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode

from slowfast.config.defaults import default_cfg
from slowfast.config.values import shorten

CHOICES = {
    "DIST_BACKEND": ("nccl", "gloo"),
    "TRAIN.AMP": ("auto", "off", "bf16", "fp16"),
    "TRAIN.SAMPLING": ("uniform", "balanced"),
    "TRAIN.GRADIENT_DTYPE": ("fp32", "bf16"),
    "TRAIN.BEST_METRIC": ("top1", "loss"),
    "TEST.NUM_SPATIAL_CROPS": (1, 3),
    "DATA.SHORT_CLIP": ("repeat_last", "loop", "error"),
    "DATA.ENSEMBLE_METHOD": ("sum", "probabilities"),
    "AUG.INTERPOLATION": ("nearest", "bilinear", "bicubic"),
    "AUG.RE_MODE": ("pixel", "rand", "const"),
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

# The largest number of a key, or of the list of a key. Larger ones are slips of the keyboard, which would end in an
# overflow or take all memory.
LARGEST = {
    "NUM_GPUS": 1024,
    "NUM_SHARDS": 100_000,
    "DIST_TIMEOUT": 1e6,
    "RNG_SEED": 2**63 - 1,
    "TRAIN.BATCH_SIZE": 1_000_000,
    "TEST.BATCH_SIZE": 1_000_000,
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
}
LARGEST_INTEGER = 2**31 - 1  # of all other keys
LARGEST_FLOAT = 1e9
SMALLEST_ASPECT = 0.01  # width / height


def _keys_of(section: CfgNode, *, prefix: str = "") -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, CfgNode):
            yield from _keys_of(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


OWN_KEYS = tuple(_keys_of(default_cfg()))  # without those of sections that a user adds


def find_problems(cfg: CfgNode) -> list[str]:
    """Return everything that is wrong with the values of a config, one sentence each; an empty list if nothing is."""
    rules = (_range_problems, _machine_problems, _data_problems, _model_problems, _solver_problems)
    return [problem for rule in rules for problem in rule(cfg)]


def _value(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _range_problems(cfg: CfgNode) -> Iterator[str]:
    for key, choices in CHOICES.items():
        if _value(cfg, key) not in choices:
            yield f"{key} is {_value(cfg, key)!r}; choose from {', '.join(map(str, choices))}"
    for key in POSITIVE:
        if not _value(cfg, key) > 0:
            yield f"{key} is {_value(cfg, key)}; use a number above 0"
    for key in NOT_NEGATIVE:
        if not _value(cfg, key) >= 0:
            yield f"{key} is {_value(cfg, key)}; use 0 or more"
    for key in PROBABILITIES:
        if not 0 <= _value(cfg, key) <= 1:
            yield f"{key} is {_value(cfg, key)}; use a number from 0 to 1"
    for key in OWN_KEYS:
        value = _value(cfg, key)
        numbers = [
            number
            for number in (value if isinstance(value, list) else [value])
            if _is_number(number)
        ]
        default_limit = (
            LARGEST_INTEGER if all(isinstance(number, int) for number in numbers) else LARGEST_FLOAT
        )
        limit = LARGEST.get(key, default_limit)
        if any(abs(number) > limit for number in numbers):
            yield f"{key} is {_short(value)}; use at most {limit if isinstance(limit, int) else f'{limit:g}'}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return shorten(str(value))


def _machine_problems(cfg: CfgNode) -> Iterator[str]:
    if cfg.SHARD_ID >= cfg.NUM_SHARDS:
        yield f"SHARD_ID is {cfg.SHARD_ID}, but NUM_SHARDS={cfg.NUM_SHARDS} machines count from 0"
    processes = max(cfg.NUM_GPUS, 1)
    for key, size in (
        ("TRAIN.BATCH_SIZE", cfg.TRAIN.BATCH_SIZE),
        ("TEST.BATCH_SIZE", cfg.TEST.BATCH_SIZE),
    ):
        if size % processes:
            yield (
                f"{key} is {size}, which NUM_GPUS={cfg.NUM_GPUS} processes cannot share equally; "
                f"use a multiple of {processes}"
            )


def _data_problems(cfg: CfgNode) -> Iterator[str]:
    if not _names(cfg.DATA.LABEL_PATH_TEMPLATE, "train"):
        yield f"DATA.LABEL_PATH_TEMPLATE is {cfg.DATA.LABEL_PATH_TEMPLATE!r}; use a file name, with {{}} for the split"
    if len(_names(cfg.DATA.IMAGE_TEMPLATE, 1, 2)) < 2:
        yield (
            f"DATA.IMAGE_TEMPLATE is {cfg.DATA.IMAGE_TEMPLATE!r}; use a file name with one number, such as {{:05d}}.jpg"
        )
    for key, values, length in (
        ("DATA.MEAN", cfg.DATA.MEAN, 3),
        ("DATA.STD", cfg.DATA.STD, 3),
        ("DATA.TRAIN_JITTER_SCALES", cfg.DATA.TRAIN_JITTER_SCALES, 2),
    ):
        if len(values) != length:
            yield f"{key} is {_short(values)}; use a list of {length} numbers"
    if not all(deviation > 0 for deviation in cfg.DATA.STD):
        yield f"DATA.STD is {_short(cfg.DATA.STD)}; use numbers above 0"
    scales, ratios = cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE, cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE
    for key, values in (
        ("DATA.TRAIN_JITTER_SCALES_RELATIVE", scales),
        ("DATA.TRAIN_JITTER_ASPECT_RELATIVE", ratios),
        ("DATA.TRAIN_JITTER_SCALES", cfg.DATA.TRAIN_JITTER_SCALES),
    ):
        if values and not (len(values) == 2 and 0 < values[0] <= values[1]):
            yield f"{key} is {_short(values)}; use [smallest, largest], both above 0"
    if ratios and 0 < min(ratios) < SMALLEST_ASPECT:
        yield f"DATA.TRAIN_JITTER_ASPECT_RELATIVE is {_short(ratios)}; use {SMALLEST_ASPECT} or more"
    if bool(scales) != bool(ratios):
        yield (
            f"DATA.TRAIN_JITTER_SCALES_RELATIVE is {_short(scales)} and "
            f"DATA.TRAIN_JITTER_ASPECT_RELATIVE is {_short(ratios)}; "
            "a random resized crop needs both, a random crop of a resized frame needs neither"
        )
    if not scales and min(cfg.DATA.TRAIN_JITTER_SCALES, default=0) < cfg.DATA.TRAIN_CROP_SIZE:
        yield (
            f"DATA.TRAIN_JITTER_SCALES is {_short(cfg.DATA.TRAIN_JITTER_SCALES)}, smaller than "
            f"DATA.TRAIN_CROP_SIZE={cfg.DATA.TRAIN_CROP_SIZE}; use larger short sides or a smaller crop"
        )
    if 0 < cfg.DATA.TEST_SHORT_SIDE < cfg.DATA.TEST_CROP_SIZE:
        yield (
            f"DATA.TEST_SHORT_SIDE is {cfg.DATA.TEST_SHORT_SIDE}, smaller than "
            f"DATA.TEST_CROP_SIZE={cfg.DATA.TEST_CROP_SIZE}; use 0 for the same"
        )


def _names(template: str, *values: str | int) -> set[str]:
    """The file names that a template gives for some values; none if it cannot be filled in."""
    try:
        return {template.format(value) for value in values}
    except (AttributeError, LookupError, TypeError, ValueError):
        return set()


def _model_problems(cfg: CfgNode) -> Iterator[str]:
    dims, depths, recomputed = (
        cfg.UNIFORMER.EMBED_DIM,
        cfg.UNIFORMER.DEPTH,
        cfg.MODEL.CHECKPOINT_NUM,
    )
    for key, values in (
        ("UNIFORMER.EMBED_DIM", dims),
        ("UNIFORMER.DEPTH", depths),
        ("MODEL.CHECKPOINT_NUM", recomputed),
    ):
        if len(values) != 4:
            yield f"{key} is {_short(values)}; use one number for each of the 4 stages"
    if not all(dim > 0 for dim in dims):
        yield f"UNIFORMER.EMBED_DIM is {_short(dims)}; use numbers above 0"
    for key, values in (("UNIFORMER.DEPTH", depths), ("MODEL.CHECKPOINT_NUM", recomputed)):
        if not all(number >= 0 for number in values):
            yield f"{key} is {_short(values)}; use numbers of 0 or more"
    ratios = (
        cfg.UNIFORMER.MLP_RATIO
        if isinstance(cfg.UNIFORMER.MLP_RATIO, list)
        else [cfg.UNIFORMER.MLP_RATIO] * 4
    )
    if len(ratios) != 4 or not all(ratio > 0 for ratio in ratios):
        yield (
            f"UNIFORMER.MLP_RATIO is {_short(cfg.UNIFORMER.MLP_RATIO)}; use a number above 0, or a list of one for "
            "each of the 4 stages"
        )
    head_dim = max(cfg.UNIFORMER.HEAD_DIM, 1)
    if any(dim % head_dim for dim in dims[2:]):
        yield f"UNIFORMER.EMBED_DIM is {_short(dims)}; stages 3 and 4 need multiples of UNIFORMER.HEAD_DIM={head_dim}"
    if any(number > depth for number, depth in zip(recomputed, depths, strict=False)):
        yield (
            f"MODEL.CHECKPOINT_NUM is {_short(recomputed)}, more blocks than UNIFORMER.DEPTH={_short(depths)} has; "
            "use as many or fewer"
        )
    if (
        cfg.MODEL.CHECKPOINT_AUTO
        and not cfg.MODEL.CHECKPOINT_MEMORY
        and (not cfg.NUM_GPUS or cfg.DIST_BACKEND == "gloo")
    ):
        yield "MODEL.CHECKPOINT_AUTO is True, but MODEL.CHECKPOINT_MEMORY is 0; on a CPU, say how many GiB there are"
    if not all(isinstance(pattern, str) for pattern in cfg.MODEL.ALLOWED_MISMATCH):
        yield f"MODEL.ALLOWED_MISMATCH is {_short(cfg.MODEL.ALLOWED_MISMATCH)}; use a list of patterns, like ['head.*']"
    if cfg.MIXUP.ENABLE and cfg.MODEL.LOSS_FUNC == "cross_entropy":
        yield (
            "MODEL.LOSS_FUNC is 'cross_entropy', which takes one label per clip, but MIXUP.ENABLE mixes labels; "
            "use soft_cross_entropy"
        )


def _solver_problems(cfg: CfgNode) -> Iterator[str]:
    if cfg.SOLVER.WARMUP_EPOCHS > cfg.SOLVER.MAX_EPOCH:
        yield f"SOLVER.WARMUP_EPOCHS is {cfg.SOLVER.WARMUP_EPOCHS}, longer than SOLVER.MAX_EPOCH={cfg.SOLVER.MAX_EPOCH}"
    if not 0 < cfg.SOLVER.LAYER_DECAY <= 1:
        yield f"SOLVER.LAYER_DECAY is {cfg.SOLVER.LAYER_DECAY}; use a number above 0, up to 1 for one rate"
    if cfg.TRAIN.EMA_DECAY == 1:
        yield "TRAIN.EMA_DECAY is 1.0, an average that no step would change; use a number below 1"
    if cfg.SOLVER.MOMENTUM >= 1:
        yield f"SOLVER.MOMENTUM is {cfg.SOLVER.MOMENTUM}, with which steps would only grow; use a number below 1"
    is_nesterov = (
        cfg.SOLVER.OPTIMIZING_METHOD == "sgd" and cfg.SOLVER.NESTEROV and cfg.SOLVER.MOMENTUM > 0
    )
    if is_nesterov and cfg.SOLVER.DAMPENING:
        yield (
            f"SOLVER.DAMPENING is {cfg.SOLVER.DAMPENING}, but SOLVER.NESTEROV takes none; "
            "use SOLVER.DAMPENING 0 or SOLVER.NESTEROV False"
        )
    if cfg.SOLVER.LR_POLICY == "steps_with_relative_lrs":
        steps, rates = cfg.SOLVER.STEPS, cfg.SOLVER.LRS
        if not steps or steps[0] != 0 or sorted(steps) != steps:
            yield f"SOLVER.STEPS is {_short(steps)}; use ascending epochs from 0"
        if len(steps) != len(rates):
            yield f"SOLVER.LRS is {_short(rates)}; use one learning rate for each of SOLVER.STEPS={_short(steps)}"
        if not all(rate >= 0 for rate in rates):
            yield f"SOLVER.LRS is {_short(rates)}; use numbers of 0 or more"
