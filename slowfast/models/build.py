"""Which models there are, and how large they are."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slowfast.models import torchvision_video, zoo
from slowfast.models.uniformer import build_uniformer, find_uniformer_problems, layer_numbers


def _nothing_wrong(cfg: CfgNode) -> list[str]:
    return []


class Model(NamedTuple):
    """What MODEL.MODEL_NAME can name."""

    build: Callable[[CfgNode], nn.Module]  # with random weights
    find_problems: Callable[[CfgNode], list[str]] = (
        _nothing_wrong  # with its keys, one sentence each
    )
    layer_numbers: Callable[[nn.Module], dict[str, int]] | None = (
        None  # of its parameters by name, the lowest first
    )


MODELS = {
    "Uniformer": Model(build_uniformer, find_uniformer_problems, layer_numbers),
    **dict.fromkeys(
        torchvision_video.NAMES,
        Model(torchvision_video.build_torchvision_model, torchvision_video.find_problems),
    ),
}

LIGHT_MODELS = (
    "Uniformer_light",
    "Uniformer_light_fp32",
    "Uniformer_light_ls_fp32",
)  # another architecture: XS, XXS


def add_model(name: str, model: Model) -> None:
    """Make a model of one's own known to MODEL.MODEL_NAME.

    Raises:
        ValueError: the name is taken.
    """
    if name in MODELS:
        raise ValueError(f"there is a model {name!r} already; choose another name")
    MODELS[name] = model


def find_problems(cfg: CfgNode) -> list[str]:
    """Return what is wrong with the model of a config: its name, keys or weights; an empty list if nothing is."""
    problems = zoo.find_problems(cfg)
    if cfg.MODEL.MODEL_NAME not in MODELS:
        what = (
            "; the light models (UniFormer-XS, -XXS) are not available"
            if cfg.MODEL.MODEL_NAME in LIGHT_MODELS
            else ""
        )
        return [
            *problems,
            f"MODEL.MODEL_NAME is {cfg.MODEL.MODEL_NAME!r}{what}; choose from {', '.join(MODELS)}",
        ]
    model = MODELS[cfg.MODEL.MODEL_NAME]
    if cfg.SOLVER.LAYER_DECAY != 1 and model.layer_numbers is None:
        numbered = [name for name, other in MODELS.items() if other.layer_numbers is not None]
        problems.append(
            f"SOLVER.LAYER_DECAY is {cfg.SOLVER.LAYER_DECAY}, but which layer of {cfg.MODEL.MODEL_NAME} lies above "
            f"which is not known; use 1.0, or MODEL.MODEL_NAME {' or '.join(numbered)}"
        )
    return problems + model.find_problems(cfg)


def build_model(cfg: CfgNode) -> nn.Module:
    """Return the model that a config describes, with random weights, on the default device.

    Its forward takes (B, C, T, H, W) float32 frames to (B, MODEL.NUM_CLASSES) logits.
    """
    return MODELS[cfg.MODEL.MODEL_NAME].build(cfg)


def lr_scales(cfg: CfgNode, model: nn.Module) -> dict[str, float]:
    """Return the learning rate of each parameter, by name, over that of the top layer: SOLVER.LAYER_DECAY per layer."""
    numbers_of = MODELS[cfg.MODEL.MODEL_NAME].layer_numbers
    if cfg.SOLVER.LAYER_DECAY == 1 or numbers_of is None:
        return {}
    numbers = numbers_of(model)
    top = max(numbers.values())
    return {name: cfg.SOLVER.LAYER_DECAY ** (top - number) for name, number in numbers.items()}


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable numbers."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_adds(cfg: CfgNode, *, num_frames: int, size: int) -> int:
    """Return the multiply-adds of one view, by the convention of the published tables, without computing anything.

    Products of matrices and convolutions count one per multiply-add; a LayerNorm counts 5 and a BatchNorm 2 per
    number, as in fvcore.

    Args:
        cfg: names the model.
        num_frames: of the view.
        size: pixels, height and width of the view.
    """
    with torch.device("meta"), torch.no_grad():
        model = build_model(cfg).eval()
        norms = {
            torch.ops.aten.native_layer_norm: _cost_per_number(5),
            torch.ops.aten.native_batch_norm: _cost_per_number(2),
            torch.ops.aten.cudnn_batch_norm: _cost_per_number(2),
            torch.ops.aten._native_batch_norm_legit_no_training: _cost_per_number(2),
        }
        with FlopCounterMode(display=False, custom_mapping=norms) as counter:
            model(torch.empty(1, 3, num_frames, size, size))
    return counter.get_total_flops() // 2  # torch counts a multiply-add as two


def _cost_per_number(cost: int) -> Callable[..., int]:
    def flops(input_shape: torch.Size, *args: object, **kwargs: object) -> int:
        return 2 * cost * prod(input_shape)

    return flops
