"""Models by name: building one from a config, checking its keys and counting its cost."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from slowfast.models import torchvision_video, uniformer_config
from slowfast.models.heads import HEADS
from slowfast.models.multiply_adds import count_by_shapes, count_by_tracing, is_countable
from slowfast.models.training_loss import TrainingLoss, loss_of_logits
from slowfast.models.uniformer import layer_numbers
from slowfast.models.uniformer_config import build_uniformer, build_uniformer_light
from slowfast.models.uniformer_light import light_loss
from slowfast.models.weights import Report, allocate, fill_weights, fills

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def _find_no_problems(cfg: "CfgNode") -> list[str]:
    return []


class Model(NamedTuple):
    """A model that MODEL.MODEL_NAME can name.

    Attributes:
        build: Function that returns the model of a config with random weights. It may take the
            argument `in_chans`, the number of channels of the frames.
        find_problems: Function that returns one sentence for each key the model cannot use.
        layer_numbers: Function that returns the layer of each parameter by name, counted from the
            input. None if the model does not support SOLVER.LAYER_DECAY.
        heads: Kinds of head that the model has (MODEL.HEAD).
        training_loss: Function from what the model returns in training mode, the labels and the
            loss that MODEL.LOSS_FUNC names to the loss, see `slowfast.models.training_loss`. The
            default takes logits. In evaluation mode, every model returns logits.
        is_fast_on_meta: Whether it costs next to nothing to build the model on torch's meta device,
            which saves the initialization if a file fills all weights.
    """

    build: Callable[..., nn.Module]
    find_problems: Callable[["CfgNode"], list[str]] = _find_no_problems
    layer_numbers: Callable[[nn.Module], dict[str, int]] | None = None
    heads: Sequence[str] = ("linear",)
    training_loss: TrainingLoss = loss_of_logits
    is_fast_on_meta: bool = False


_UNIFORMER = Model(
    build_uniformer,
    uniformer_config.find_problems,
    layer_numbers,
    heads=HEADS,
    is_fast_on_meta=True,
)
_LIGHT_UNIFORMER = _UNIFORMER._replace(
    build=build_uniformer_light, heads=("linear",), training_loss=light_loss
)
_TORCHVISION = Model(torchvision_video.build_torchvision_model, torchvision_video.find_problems)
MODELS = {
    **dict.fromkeys(uniformer_config.FULL_MODELS, _UNIFORMER),
    **dict.fromkeys(uniformer_config.LIGHT_MODELS, _LIGHT_UNIFORMER),
    **dict.fromkeys(torchvision_video.NAMES, _TORCHVISION),
}


def add_model(name: str, model: Model) -> None:
    """Add a model of your own that MODEL.MODEL_NAME can name.

    Raises:
        ValueError: If the name is taken.
    """
    if name in MODELS:
        raise ValueError(f"a model {name!r} already exists. Choose another name.")
    MODELS[name] = model


def find_problems(cfg: "CfgNode") -> list[str]:
    """Return one sentence for each problem with the name or the keys of the model of a config."""
    name = cfg.MODEL.MODEL_NAME
    if name not in MODELS:
        return [f"MODEL.MODEL_NAME is {name!r}. Choose one of: {', '.join(MODELS)}."]

    model = MODELS[name]
    problems = model.find_problems(cfg)
    if cfg.SOLVER.LAYER_DECAY != 1 and model.layer_numbers is None:
        supported = [other for other in MODELS if MODELS[other].layer_numbers is not None]
        problems = [
            f"SOLVER.LAYER_DECAY is {cfg.SOLVER.LAYER_DECAY}, but the order of the layers of "
            f"{name} is unknown. Use 1.0, or set MODEL.MODEL_NAME to {' or '.join(supported)}.",
            *problems,
        ]
    if cfg.MODEL.HEAD not in model.heads:
        others = [other for other in MODELS if cfg.MODEL.HEAD in MODELS[other].heads]
        problems = [
            f"MODEL.HEAD is {cfg.MODEL.HEAD!r}, which {name} does not have. Use "
            f"{' or '.join(model.heads)}, or set MODEL.MODEL_NAME to {' or '.join(others)}.",
            *problems,
        ]
    return problems


def build_model(cfg: "CfgNode", *, in_chans: int = 3) -> nn.Module:
    """Return the model of a config with random weights, on the default device.

    Its forward pass takes float32 frames (B, C, T, H, W) to logits (B, MODEL.NUM_CLASSES). In
    training mode, it may return more, see `Model`.

    Args:
        cfg: The config.
        in_chans: Number of channels C of the frames.

    Raises:
        ValueError: If `in_chans` is not 3, and the builder of the model does not take it.
    """
    name = cfg.MODEL.MODEL_NAME
    build = MODELS[name].build
    if in_chans == 3:
        return build(cfg)
    if "in_chans" not in signature(build).parameters:
        raise ValueError(
            f"in_chans is {in_chans}, but {name} takes frames with 3 channels: its build function "
            "has no argument in_chans. Add it, or use 3"
        )
    return build(cfg, in_chans=in_chans)


def build_filled_model(
    cfg: "CfgNode",
    state: Mapping[str, Any],
    *,
    path: str,
    in_chans: int = 3,
    may_replace_head: bool = False,
    allowed: Sequence[str] = (),
) -> tuple[nn.Module, Report]:
    """Return the model of a config with the weights of a checkpoint, on the CPU.

    If the checkpoint fills all weights, nothing is initialized, which saves most of the time.

    Args:
        cfg: The config.
        state: Content of the checkpoint, see `fill_weights`.
        path: Path of the file, for messages.
        in_chans: Number of channels of the frames.
        may_replace_head: Whether the head may stay random, see `fill_weights`.
        allowed: Shell patterns of weights that may differ.

    Raises:
        ValueError: If `build_model` or `fill_weights` raises it.
    """
    model = None
    if MODELS[cfg.MODEL.MODEL_NAME].is_fast_on_meta:
        with torch.device("meta"):
            model = build_model(cfg, in_chans=in_chans)
    if model is not None and fills(state, model):
        allocate(model)
    else:
        model = build_model(cfg, in_chans=in_chans)

    report = fill_weights(
        model, state, path=path, may_replace_head=may_replace_head, allowed=allowed
    )
    return model, report


def require_method(model: nn.Module, method: str) -> None:
    """Raise ValueError if a model lacks a method that its user needs, such as forward_features."""
    if not callable(getattr(model, method, None)):
        raise ValueError(
            f"the model {type(model).__name__} has no method {method}. Add it as docs/extend.md "
            "describes"
        )


def lr_scales(model: nn.Module, *, model_name: str, layer_decay: float) -> dict[str, float]:
    """Return the learning rate of each parameter relative to the top layer, by name.

    Args:
        model: Model to scale the learning rates of.
        model_name: Name of the model, a key of `MODELS`.
        layer_decay: Factor from each layer to the one below it.

    Returns:
        Factors by parameter name. Empty if all of them are 1.
    """
    layer_numbers = MODELS[model_name].layer_numbers
    if layer_decay == 1 or layer_numbers is None:
        return {}

    numbers = layer_numbers(model)
    top = max(numbers.values())
    return {name: layer_decay ** (top - number) for name, number in numbers.items()}


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable values in a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_adds(build: Callable[[], nn.Module], *, num_frames: int, size: int) -> int:
    """Return the number of multiply-adds of one view as published tables count them.

    The model is built on the meta device, so nothing is computed. See
    `slowfast.models.multiply_adds`.

    Args:
        build: Function that returns the model.
        num_frames: Number of frames in the view.
        size: Height and width of the view in pixels.
    """
    with torch.device("meta"), torch.no_grad():
        model = build().eval()
        if is_countable(model):
            return count_by_shapes(model, num_frames=num_frames, size=size)
        return count_by_tracing(model, num_frames=num_frames, size=size)
