"""UniFormers from a config: builders, and checks of the keys that each model reads."""

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

from slowfast.models.uniformer import MIN_FRAME_SIDE, UniFormer
from slowfast.models.uniformer_light import UniFormerLight, find_pruning_problems

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

FULL_MODELS = ("Uniformer",)
# Attention is computed in float32 in all but the first one, and the last one has layer scale.
LIGHT_MODELS = ("Uniformer_light", "Uniformer_light_fp32", "Uniformer_light_ls_fp32")
SCALED_MODELS = LIGHT_MODELS[2:]
UNIFORMERS = (*FULL_MODELS, *LIGHT_MODELS)
AnyUniFormer = UniFormer | UniFormerLight


class _Setting(NamedTuple):
    """A config key that only UniFormers read."""

    key: str
    value: Any
    argument: str = ""  # Argument of the model that takes the value. Empty for none.
    default: Any = None  # Default of the key, unless `argument` has one.
    models: Sequence[str] = UNIFORMERS  # Models that read the key.


def _build_settings(cfg: "CfgNode") -> list[_Setting]:
    return [
        _Setting("UNIFORMER.EMBED_DIM", cfg.UNIFORMER.EMBED_DIM, "dims"),
        _Setting("UNIFORMER.DEPTH", cfg.UNIFORMER.DEPTH, "depths"),
        _Setting("UNIFORMER.HEAD_DIM", cfg.UNIFORMER.HEAD_DIM, "head_dim"),
        _Setting("UNIFORMER.MLP_RATIO", cfg.UNIFORMER.MLP_RATIO, "mlp_ratio"),
        _Setting("UNIFORMER.QKV_BIAS", cfg.UNIFORMER.QKV_BIAS, "qkv_bias"),
        _Setting("UNIFORMER.QKV_SCALE", cfg.UNIFORMER.QKV_SCALE, "qkv_scale"),
        _Setting("UNIFORMER.DROPOUT_RATE", cfg.UNIFORMER.DROPOUT_RATE, "dropout"),
        _Setting(
            "UNIFORMER.ATTENTION_DROPOUT_RATE",
            cfg.UNIFORMER.ATTENTION_DROPOUT_RATE,
            "attention_dropout",
        ),
        _Setting(
            "UNIFORMER.HEAD_DROPOUT_RATE",
            cfg.UNIFORMER.HEAD_DROPOUT_RATE,
            "head_dropout",
            models=FULL_MODELS,
        ),
        _Setting("UNIFORMER.DROP_DEPTH_RATE", cfg.UNIFORMER.DROP_DEPTH_RATE, "drop_path"),
        _Setting("UNIFORMER.SPLIT", cfg.UNIFORMER.SPLIT, "split", models=FULL_MODELS),
        _Setting("UNIFORMER.STD", cfg.UNIFORMER.STD, "overlap_time", models=FULL_MODELS),
        _Setting(
            "UNIFORMER.PRUNE_RATIO", cfg.UNIFORMER.PRUNE_RATIO, "keep_ratios", models=LIGHT_MODELS
        ),
        _Setting("UNIFORMER.TRADE_OFF", cfg.UNIFORMER.TRADE_OFF, "trade_offs", models=LIGHT_MODELS),
        _Setting(
            "UNIFORMER.INIT_VALUE",
            cfg.UNIFORMER.INIT_VALUE,
            "init_value",
            default=0.1,
            models=SCALED_MODELS,
        ),
        _Setting("UNIFORMER.PRETRAIN_NAME", cfg.UNIFORMER.PRETRAIN_NAME, default=""),
        _Setting("MODEL.USE_CHECKPOINT", cfg.MODEL.USE_CHECKPOINT, default=False),
        _Setting("MODEL.CHECKPOINT_AUTO", cfg.MODEL.CHECKPOINT_AUTO, default=False),
        _Setting("MODEL.CHECKPOINT_NUM", cfg.MODEL.CHECKPOINT_NUM, default=(0, 0, 0, 0)),
    ]


def build_uniformer(cfg: "CfgNode", *, in_chans: int = 3) -> UniFormer:
    """Return the UniFormer of a config with random weights."""
    arguments = _build_arguments(cfg, "Uniformer", in_chans=in_chans)
    return UniFormer(head=cfg.MODEL.HEAD, **arguments)


def build_uniformer_light(cfg: "CfgNode", *, in_chans: int = 3) -> UniFormerLight:
    """Return the light UniFormer of a config with random weights."""
    name = cfg.MODEL.MODEL_NAME
    arguments = _build_arguments(cfg, name, in_chans=in_chans)
    return UniFormerLight(in_float32=name != "Uniformer_light", **arguments)


def _build_arguments(cfg: "CfgNode", model_name: str, *, in_chans: int) -> dict[str, Any]:
    arguments = {
        setting.argument: setting.value
        for setting in _build_settings(cfg)
        if setting.argument and model_name in setting.models
    }
    if cfg.MODEL.USE_CHECKPOINT:
        arguments["recomputed"] = cfg.MODEL.CHECKPOINT_NUM
    return arguments | {"num_classes": cfg.MODEL.NUM_CLASSES, "in_chans": in_chans}


# ---- Checks ----------------------------------------------------------------------------------


def find_problems(cfg: "CfgNode") -> list[str]:
    """Return one sentence for each key that the UniFormer of a config cannot use."""
    sizes = {
        "DATA.TRAIN_CROP_SIZE": cfg.DATA.TRAIN_CROP_SIZE,
        "DATA.TEST_CROP_SIZE": cfg.DATA.TEST_CROP_SIZE,
    }
    problems = [
        f"{key} is {size}, but {cfg.MODEL.MODEL_NAME} takes {MIN_FRAME_SIDE} or more"
        for key, size in sizes.items()
        if size < MIN_FRAME_SIDE
    ]
    is_light = cfg.MODEL.MODEL_NAME in LIGHT_MODELS
    if is_light and len(cfg.UNIFORMER.DEPTH) == 4:  # All models need four stages.
        problems += find_pruning_problems(
            cfg.UNIFORMER.DEPTH, cfg.UNIFORMER.PRUNE_RATIO, cfg.UNIFORMER.TRADE_OFF
        )
    return problems + find_problems_of_unread_keys(cfg)


def find_problems_of_unread_keys(cfg: "CfgNode") -> list[str]:
    """Return one sentence for each key of UniFormers that is set, but not read by the model."""
    name = cfg.MODEL.MODEL_NAME
    defaults = {
        argument: parameter.default
        for model in (UniFormerLight, UniFormer)
        for argument, parameter in signature(model).parameters.items()
    }
    problems = []
    for key, value, argument, default, models in _build_settings(cfg):
        expected = defaults[argument] if argument and default is None else default
        if name not in models and _as_tuple(value) != _as_tuple(expected):
            problems.append(
                f"{key} is {value}, which {name} does not read. Remove the key, or set "
                f"MODEL.MODEL_NAME to {models[0]}."
            )
    return problems


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value
