"""Multiply-adds of one view: from the shapes of a UniFormer, or by tracing any model.

A matrix product or convolution counts one per multiply-add. Like in fvcore, a LayerNorm counts 5
per value and a BatchNorm 2.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeGuard

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from slowfast.models.layers import Attention
from slowfast.models.uniformer import SplitSABlock, UniFormer

LAYER_NORM_COST, BATCH_NORM_COST = 5, 2  # per value
_COUNTED_LAYERS = (nn.Conv3d, nn.Linear, nn.LayerNorm, _BatchNorm)


def count_by_shapes(model: UniFormer, *, num_frames: int, size: int) -> int:
    """Return the multiply-adds of one view of a UniFormer that `is_countable`.

    Args:
        model: The model.
        num_frames: Number of frames in the view.
        size: Height and width of the view in pixels.
    """
    total = 0
    thw: Sequence[int] = (num_frames, size, size)
    for stage in range(1, 5):
        embed = model.get_submodule(f"patch_embed{stage}")
        blocks = model.get_submodule(f"blocks{stage}")
        thw = _output_size(embed.get_submodule("proj"), thw)
        cost = _cost_of_layers(embed) + _cost_of_layers(blocks)
        cost += sum(_cost_of_attention(block, thw) for block in blocks.children())
        total += cost * prod(thw)

    total += _cost_of_layers(model.norm) * prod(thw)
    return total + _cost_of_layers(model.head)


def is_countable(model: nn.Module) -> TypeGuard[UniFormer]:
    """Whether a model is a UniFormer in which all weights belong to layers of known cost.

    An attentive head does not qualify.
    """
    if type(model) is not UniFormer:
        return False
    layers = [layer for layer in model.modules() if isinstance(layer, _COUNTED_LAYERS)]
    num_weights = sum(len([*layer.parameters()]) for layer in layers)
    return num_weights == len([*model.parameters()])


def _cost_of_layers(module: nn.Module) -> int:
    """Return the multiply-adds of all layers in a module for one position of their output."""
    cost = 0
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.Linear):
            cost += layer.weight.numel()
        elif isinstance(layer, nn.LayerNorm):
            cost += LAYER_NORM_COST * layer.weight.numel()
        elif isinstance(layer, _BatchNorm):
            cost += BATCH_NORM_COST * layer.num_features
    return cost


def _cost_of_attention(block: nn.Module, thw: Sequence[int]) -> int:
    """Return the multiply-adds of one token with the keys, and of its weights with the values."""
    num_keys = {"attn": prod(thw)}
    if isinstance(block, SplitSABlock):
        num_keys = {"t_attn": thw[0], "attn": thw[1] * thw[2]}
    return sum(
        2 * num_keys[name] * layer.proj.in_features
        for name, layer in block.named_children()
        if isinstance(layer, Attention)
    )


def _output_size(conv: nn.Module, thw: Sequence[int]) -> list[int]:
    assert isinstance(conv, nn.Conv3d)
    assert not isinstance(conv.padding, str)
    axes = zip(thw, conv.kernel_size, conv.stride, conv.padding, strict=True)
    return [(size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in axes]


def count_by_tracing(model: nn.Module, *, num_frames: int, size: int) -> int:
    """Return the multiply-adds of one view of any model on the meta device.

    This imports all of torch's compiler, which takes about a second.

    Args:
        model: The model, in evaluation mode.
        num_frames: Number of frames in the view.
        size: Height and width of the view in pixels.
    """
    from torch.utils.flop_counter import FlopCounterMode

    norms = {
        torch.ops.aten.native_layer_norm: _count_per_value(LAYER_NORM_COST),
        torch.ops.aten.native_batch_norm: _count_per_value(BATCH_NORM_COST),
        torch.ops.aten.cudnn_batch_norm: _count_per_value(BATCH_NORM_COST),
        torch.ops.aten._native_batch_norm_legit_no_training: _count_per_value(BATCH_NORM_COST),
    }
    with FlopCounterMode(display=False, custom_mapping=norms) as counter:
        model(torch.empty(1, 3, num_frames, size, size, device="meta"))
    return counter.get_total_flops() // 2  # torch counts a multiply-add as two.


def _count_per_value(multiply_adds: int) -> Callable[..., int]:
    def flops(input_shape: torch.Size, *args: object, **kwargs: object) -> int:
        return 2 * multiply_adds * prod(input_shape)

    return flops
