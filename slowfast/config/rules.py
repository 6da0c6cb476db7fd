"""Rules that the values of a config satisfy on every machine and with every dataset."""

from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode

from slowfast.config.ranges import find_range_problems
from slowfast.config.tree import value_at
from slowfast.config.values import shorten

SMALLEST_ASPECT = 0.01  # width / height


def find_problems(cfg: CfgNode) -> list[str]:
    """Return every problem with the values of a config, one sentence each.

    Each sentence names the key, its value, the rule and the remedy.
    """
    rules = (
        find_range_problems,
        _find_machine_problems,
        _find_template_problems,
        _find_frame_problems,
        _find_calibration_problems,
        _find_stage_problems,
        _find_model_problems,
        _find_solver_problems,
        _find_policy_problems,
        _find_figure_problems,
    )
    problems: list[str] = []
    for rule in rules:
        problems += rule(cfg)
    return problems


def _short(value: Any) -> str:
    return shorten(str(value))


# ---- Machine and data ------------------------------------------------------------------------


def _find_machine_problems(cfg: CfgNode) -> Iterator[str]:
    if cfg.SHARD_ID >= cfg.NUM_SHARDS:
        yield f"SHARD_ID is {cfg.SHARD_ID}, but NUM_SHARDS={cfg.NUM_SHARDS} machines count from 0"

    num_processes = max(cfg.NUM_GPUS, 1)
    if cfg.TRAIN.BATCH_SIZE % num_processes:
        yield (
            f"TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}, which NUM_GPUS={cfg.NUM_GPUS} processes "
            f"cannot share equally. Use a multiple of {num_processes}"
        )


def _find_template_problems(cfg: CfgNode) -> Iterator[str]:
    template = cfg.DATA.LABEL_PATH_TEMPLATE
    if not _fill(template, "train"):
        remedy = "Use a file name, with {} for the split"
        yield f"DATA.LABEL_PATH_TEMPLATE is {template!r}. {remedy}"

    template = cfg.DATA.IMAGE_TEMPLATE
    if len(_fill(template, 1, 2)) < 2:
        remedy = "Use a file name with one number, such as {:05d}.jpg"
        yield f"DATA.IMAGE_TEMPLATE is {template!r}. {remedy}"


def _fill(template: str, *values: str | int) -> set[str]:
    """Return the file names that a template gives for some values, none if it is malformed."""
    try:
        return {template.format(value) for value in values}
    except (AttributeError, LookupError, TypeError, ValueError):
        return set()


def _find_calibration_problems(cfg: CfgNode) -> Iterator[str]:
    if cfg.TEST.CALIBRATED and cfg.DATA.ENSEMBLE_METHOD != "sum":
        yield (
            f"TEST.CALIBRATED is True, but DATA.ENSEMBLE_METHOD is {cfg.DATA.ENSEMBLE_METHOD!r}. A "
            "temperature is fitted to sums of logits. Use sum, or TEST.CALIBRATED False"
        )


def _find_frame_problems(cfg: CfgNode) -> Iterator[str]:
    for key, length in (("DATA.MEAN", 3), ("DATA.STD", 3), ("DATA.TRAIN_JITTER_SCALES", 2)):
        values = value_at(cfg, key)
        if len(values) != length:
            yield f"{key} is {_short(values)}. Use a list of {length} numbers"
    if not all(deviation > 0 for deviation in cfg.DATA.STD):
        yield f"DATA.STD is {_short(cfg.DATA.STD)}. Use numbers above 0"

    for key in (
        "DATA.TRAIN_JITTER_SCALES_RELATIVE",
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE",
        "DATA.TRAIN_JITTER_SCALES",
    ):
        values = value_at(cfg, key)
        if values and not (len(values) == 2 and 0 < values[0] <= values[1]):
            yield f"{key} is {_short(values)}. Use [smallest, largest], both above 0"

    areas = cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE
    aspects = cfg.DATA.TRAIN_JITTER_ASPECT_RELATIVE
    if aspects and 0 < min(aspects) < SMALLEST_ASPECT:
        remedy = f"Use {SMALLEST_ASPECT} or more"
        yield f"DATA.TRAIN_JITTER_ASPECT_RELATIVE is {_short(aspects)}. {remedy}"
    if bool(areas) != bool(aspects):
        yield (
            f"DATA.TRAIN_JITTER_SCALES_RELATIVE is {_short(areas)} and "
            f"DATA.TRAIN_JITTER_ASPECT_RELATIVE is {_short(aspects)}. A random resized crop needs "
            "both, a random crop of a resized frame needs neither"
        )

    short_sides, crop_size = cfg.DATA.TRAIN_JITTER_SCALES, cfg.DATA.TRAIN_CROP_SIZE
    if not areas and min(short_sides, default=0) < crop_size:
        yield (
            f"DATA.TRAIN_JITTER_SCALES is {_short(short_sides)}, smaller than "
            f"DATA.TRAIN_CROP_SIZE={crop_size}. Use larger short sides or a smaller crop"
        )
    short_side, crop_size = cfg.DATA.TEST_SHORT_SIDE, cfg.DATA.TEST_CROP_SIZE
    if 0 < short_side < crop_size:
        yield (
            f"DATA.TEST_SHORT_SIDE is {short_side}, smaller than DATA.TEST_CROP_SIZE={crop_size}. "
            "Use 0 to make them equal"
        )


# ---- Model -----------------------------------------------------------------------------------


def _find_stage_problems(cfg: CfgNode) -> Iterator[str]:
    dims, depths = cfg.UNIFORMER.EMBED_DIM, cfg.UNIFORMER.DEPTH
    recomputed = cfg.MODEL.CHECKPOINT_NUM
    for key in ("UNIFORMER.EMBED_DIM", "UNIFORMER.DEPTH", "MODEL.CHECKPOINT_NUM"):
        values = value_at(cfg, key)
        if len(values) != 4:
            yield f"{key} is {_short(values)}. Use one number for each of the 4 stages"

    if not all(dim > 0 for dim in dims):
        yield f"UNIFORMER.EMBED_DIM is {_short(dims)}. Use numbers above 0"
    for key in ("UNIFORMER.DEPTH", "MODEL.CHECKPOINT_NUM"):
        values = value_at(cfg, key)
        if not all(number >= 0 for number in values):
            yield f"{key} is {_short(values)}. Use numbers of 0 or more"

    ratio = cfg.UNIFORMER.MLP_RATIO
    ratios = ratio if isinstance(ratio, list) else [ratio] * 4
    if len(ratios) != 4 or not all(number > 0 for number in ratios):
        remedy = "Use a number above 0, or a list of one for each of the 4 stages"
        yield f"UNIFORMER.MLP_RATIO is {_short(ratio)}. {remedy}"

    head_dim = max(cfg.UNIFORMER.HEAD_DIM, 1)
    if any(dim % head_dim for dim in dims[2:]):
        remedy = f"Stages 3 and 4 need multiples of UNIFORMER.HEAD_DIM={head_dim}"
        yield f"UNIFORMER.EMBED_DIM is {_short(dims)}. {remedy}"
    if any(number > depth for number, depth in zip(recomputed, depths, strict=False)):
        yield (
            f"MODEL.CHECKPOINT_NUM is {_short(recomputed)}, more blocks than "
            f"UNIFORMER.DEPTH={_short(depths)} has. Use as many or fewer"
        )


def _find_model_problems(cfg: CfgNode) -> Iterator[str]:
    is_on_cpu = not cfg.NUM_GPUS or cfg.DIST_BACKEND == "gloo"
    if cfg.MODEL.CHECKPOINT_AUTO and not cfg.MODEL.CHECKPOINT_MEMORY and is_on_cpu:
        yield (
            "MODEL.CHECKPOINT_AUTO is True, but MODEL.CHECKPOINT_MEMORY is 0. On a CPU, set it to "
            "the available memory in GiB"
        )

    for key in ("MODEL.ALLOWED_MISMATCH", "MODEL.FREEZE"):
        patterns = value_at(cfg, key)
        if not all(isinstance(pattern, str) for pattern in patterns):
            remedy = "Use a list of patterns, such as ['head.*']"
            yield f"{key} is {_short(patterns)}. {remedy}"

    if cfg.MIXUP.ENABLE and cfg.MODEL.LOSS_FUNC == "cross_entropy":
        yield (
            "MODEL.LOSS_FUNC is 'cross_entropy', which takes one label per clip, but MIXUP.ENABLE "
            "mixes labels. Use soft_cross_entropy"
        )


# ---- Optimization ----------------------------------------------------------------------------


def _find_solver_problems(cfg: CfgNode) -> Iterator[str]:
    warmup, num_epochs = cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.MAX_EPOCH
    if warmup > num_epochs:
        yield f"SOLVER.WARMUP_EPOCHS is {warmup}, longer than SOLVER.MAX_EPOCH={num_epochs}"

    layer_decay = cfg.SOLVER.LAYER_DECAY
    if not 0 < layer_decay <= 1:
        remedy = "Use a number above 0 and up to 1, which gives all layers one rate"
        yield f"SOLVER.LAYER_DECAY is {layer_decay}. {remedy}"

    if cfg.TRAIN.EMA_DECAY == 1:
        yield "TRAIN.EMA_DECAY is 1.0, with which the EMA never changes. Use a number below 1"

    momentum = cfg.SOLVER.MOMENTUM
    if momentum >= 1:
        rule = "with which steps would only grow. Use a number below 1"
        yield f"SOLVER.MOMENTUM is {momentum}, {rule}"

    is_sgd = cfg.SOLVER.OPTIMIZING_METHOD == "sgd"
    dampening = cfg.SOLVER.DAMPENING
    if is_sgd and cfg.SOLVER.NESTEROV and momentum > 0 and dampening:
        yield (
            f"SOLVER.DAMPENING is {dampening}, but SOLVER.NESTEROV takes none. "
            "Use SOLVER.DAMPENING 0 or SOLVER.NESTEROV False"
        )


def _find_policy_problems(cfg: CfgNode) -> Iterator[str]:
    if cfg.SOLVER.LR_POLICY != "steps_with_relative_lrs":
        return

    steps, rates = cfg.SOLVER.STEPS, cfg.SOLVER.LRS
    if not steps or steps[0] != 0 or sorted(steps) != steps:
        yield f"SOLVER.STEPS is {_short(steps)}. Use ascending epochs from 0"
    if len(steps) != len(rates):
        remedy = f"Use one learning rate for each of SOLVER.STEPS={_short(steps)}"
        yield f"SOLVER.LRS is {_short(rates)}. {remedy}"
    if not all(rate >= 0 for rate in rates):
        yield f"SOLVER.LRS is {_short(rates)}. Use numbers of 0 or more"


# ---- Logging ---------------------------------------------------------------------------------


def _find_figure_problems(cfg: CfgNode) -> Iterator[str]:
    for key in ("TENSORBOARD.CONFUSION_MATRIX.FIGSIZE", "TENSORBOARD.HISTOGRAM.FIGSIZE"):
        size = value_at(cfg, key)
        if len(size) != 2 or not all(inches >= 1 for inches in size):
            yield f"{key} is {_short(size)}. Use [width, height] in inches, from 1 to 50"

    if not cfg.TRACKERS.PROJECT.strip():
        yield "TRACKERS.PROJECT is empty. Use a name"
