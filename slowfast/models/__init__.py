"""Which models there are, and how large they are."""

from collections.abc import Callable
from math import prod

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slowfast.models import zoo
from slowfast.models.uniformer import build_uniformer

MODELS: dict[str, Callable[[CfgNode], nn.Module]] = {"Uniformer": build_uniformer}


def find_problems(cfg: CfgNode) -> list[str]:
    """Return what is wrong with the name of the model and the weights it needs; an empty list if nothing is."""
    problems = zoo.find_problems(cfg)
    if cfg.MODEL.MODEL_NAME not in MODELS:
        problems.append(f"MODEL.MODEL_NAME is {cfg.MODEL.MODEL_NAME!r}; choose from {', '.join(MODELS)}")
    return problems


def build_model(cfg: CfgNode) -> nn.Module:
    """Return the model that a config describes, with random weights, on the default device.

    Its forward takes (B, C, T, H, W) float32 frames to (B, MODEL.NUM_CLASSES) logits.
    """
    return MODELS[cfg.MODEL.MODEL_NAME](cfg)


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
