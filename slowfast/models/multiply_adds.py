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
from slowfast.models.pruned_blocks import PrunedSABlock
from slowfast.models.uniformer import SplitSABlock, UniFormer
from slowfast.models.uniformer_config import AnyUniFormer
from slowfast.models.uniformer_light import UniFormerLight

LAYER_NORM_COST, BATCH_NORM_COST = 5, 2  # per value
_COUNTED_LAYERS = (nn.Conv3d, nn.Linear, nn.LayerNorm, _BatchNorm)
_FREE_WEIGHTS = ("cls_token", "gamma_1", "gamma_2")  # the class token, and layer scale


def count_by_shapes(model: AnyUniFormer, *, num_frames: int, size: int) -> int:
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
        for layers in _by_convolution(embed):
            thw = _output_size(layers[0], thw)
            total += sum(map(_cost_of_layer, layers)) * prod(thw)
        blocks = model.get_submodule(f"blocks{stage}").children()
        total += sum(_cost_of_block(block, thw) for block in blocks)

    total += _cost_of_layers(model.norm) * prod(thw) + _cost_of_layers(model.head)
    if isinstance(model, UniFormerLight):
        total += _cost_of_layers(model.cls_upsample)
    return total


def is_countable(model: nn.Module) -> TypeGuard[AnyUniFormer]:
    """Whether a model is a UniFormer in which all weights belong to layers of known cost.

    An attentive head does not qualify.
    """
    if type(model) not in (UniFormer, UniFormerLight):
        return False
    layers = [layer for layer in model.modules() if isinstance(layer, _COUNTED_LAYERS)]
    counted = {weight for layer in layers for weight in layer.parameters()}
    others = [name for name, weight in model.named_parameters() if weight not in counted]
    return all(name.rpartition(".")[2] in _FREE_WEIGHTS for name in others)


def _by_convolution(embed: nn.Module) -> list[list[nn.Module]]:
    """Return the layers of a patch embedding, each convolution with the norm of its output."""
    layers = [layer for layer in embed.modules() if isinstance(layer, _COUNTED_LAYERS)]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv3d)]
    norms = [layer for layer in layers if not isinstance(layer, nn.Conv3d)]
    return [list(pair) for pair in zip(convolutions, norms, strict=True)]


def _cost_of_layers(module: nn.Module) -> int:
    """Return the multiply-adds of all layers in a module for one position of their output."""
    return sum(map(_cost_of_layer, module.modules()))


def _cost_of_layer(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv3d | nn.Linear):
        return layer.weight.numel()
    if isinstance(layer, nn.LayerNorm):
        return LAYER_NORM_COST * layer.weight.numel()
    return BATCH_NORM_COST * layer.num_features if isinstance(layer, _BatchNorm) else 0


def _cost_of_block(block: nn.Module, thw: Sequence[int]) -> int:
    if isinstance(block, PrunedSABlock):
        return _cost_of_pruned_block(block, prod(thw))
    return (_cost_of_layers(block) + _cost_of_attention(block, thw)) * prod(thw)


def _cost_of_pruned_block(block: PrunedSABlock, num_tokens: int) -> int:
    num_updated = num_tokens + 1  # with the class token
    if block.keep_ratio < 1:
        num_updated = block.num_kept(num_tokens) + 2  # with the representative token as well
    position = _cost_of_layers(block.pos_embed)
    token = _cost_of_layers(block) - position + 2 * num_updated * block.attn.proj.in_features
    scores = num_updated * block.attn.proj.in_features  # of the class token once more
    return position * num_tokens + token * num_updated + scores


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
