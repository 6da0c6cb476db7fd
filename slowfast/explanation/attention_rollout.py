"""Attention rollout through global space-time blocks, weighted by gradients."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast.explanation.recording import gradients_of_activations, leaf_of, replaced
from slowfast.models.layers import Attention
from slowfast.models.uniformer import SABlock, SplitSABlock


class _Attended(NamedTuple):
    """What an attention layer computed. Each tensor has shape (B, heads, N, head_dim)."""

    q: Tensor
    k: Tensor
    v: Tensor
    output: Tensor
    scale: float


class _Block(NamedTuple):
    """What a global block computed."""

    thw: tuple[int, int, int]  # number of its tokens along T, H and W
    spatial: int  # index of its attention, over space alone in a split block
    temporal: int | None  # index of its attention over time, None without one


def has_global_attention(model: nn.Module) -> bool:
    """Whether a model has blocks whose attention can be followed."""
    return any(_global_blocks(model))


def attention_rollout(model: Any, frames: Tensor, *, target: int) -> Tensor:
    """Return how much the logit of a class draws from each token before the first global block.

    The relevance starts evenly at the tokens that the head averages, and goes back block by block.
    Half of it stays at its token, as the residual does. The other half goes to the tokens that are
    attended to, by attention times the gradient of the logit, where that is positive. A patch
    embedding between two stages shares the relevance of a token among its 1x2x2 tokens.

    No more than the attention of one head and one block is in memory at once.

    Args:
        model: Model in evaluation mode with global blocks, see `has_global_attention`.
        frames: Input of the model, shape (1, C, T, H, W).
        target: Number of the class.

    Returns:
        Shape (T', H', W'), from 0 on.

    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, arXiv:2005.00928. Chefer
    et al., Generic Attention-model Explainability, arXiv:2103.15679.
    """
    attended: list[_Attended] = []
    blocks: list[_Block] = []
    with gradients_of_activations(model), ExitStack() as stack:
        for block in _global_blocks(model):
            stack.enter_context(_recording(block, attended, blocks))
        logits = model(leaf_of(frames))
        outputs = [record.output for record in attended]
        gradients = torch.autograd.grad(logits[0, target], outputs)

    with torch.no_grad():
        return _roll_back(blocks, attended, gradients)


def _global_blocks(model: nn.Module) -> Iterator[SABlock]:
    return (module for module in model.modules() if isinstance(module, SABlock))


def _recording(block: SABlock, attended: list[_Attended], blocks: list[_Block]) -> ExitStack:
    """Return a context in which a block writes down what it computes."""

    def watch(attention: Attention, stack: ExitStack) -> None:
        attend = attention.attend
        scale = attention.head_dim**-0.5 if attention.scale is None else attention.scale

        def record(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            output = attend(q, k, v)
            attended.append(_Attended(q.detach(), k.detach(), v.detach(), output, scale))
            return output

        stack.enter_context(replaced(attention, "attend", record))

    def finish(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        T, H, W = inputs[0].shape[2:]
        last = len(attended) - 1  # The attention over time comes first.
        temporal = last - 1 if isinstance(module, SplitSABlock) else None
        blocks.append(_Block((T, H, W), last, temporal))

    stack = ExitStack()
    watch(block.attn, stack)
    if isinstance(block, SplitSABlock):
        watch(block.t_attn, stack)
    stack.callback(block.register_forward_hook(finish).remove)
    return stack


def _roll_back(
    blocks: Sequence[_Block], attended: Sequence[_Attended], gradients: Sequence[Tensor]
) -> Tensor:
    """Return the relevance (T', H', W') of the tokens before the first block."""
    thw = blocks[-1].thw
    relevance = torch.full(thw, 1 / (thw[0] * thw[1] * thw[2]), device=gradients[-1].device)

    for block in reversed(blocks):
        if block.thw != tuple(relevance.shape):
            total = relevance.sum()
            relevance = F.interpolate(relevance[None, None], size=block.thw)[0, 0]
            relevance *= total / relevance.sum()

        spatial, gradient = attended[block.spatial], gradients[block.spatial]
        if block.temporal is None:
            drawn = _draw(relevance.flatten()[None], spatial, gradient).view(block.thw)
            relevance = (relevance + drawn) / 2
            continue

        # A split block: what space draws from, time draws from in turn. See `SplitSABlock`.
        drawn = _draw(relevance.flatten(1), spatial, gradient)  # (T, H*W)
        temporal, gradient = attended[block.temporal], gradients[block.temporal]
        drawn = (drawn + _draw(drawn.t(), temporal, gradient).t()) / 2
        relevance = (relevance + drawn.view(block.thw)) / 2
    return relevance


def _draw(relevance: Tensor, attended: _Attended, gradient: Tensor) -> Tensor:
    """Return the relevance (B, N) of the tokens that others (B, N) attend to, with the same sum."""
    q, k, v = (tensor.float() for tensor in attended[:3])
    drawn = torch.zeros_like(relevance)
    for head in range(q.shape[1]):
        attention = (attended.scale * q[:, head] @ k[:, head].transpose(1, 2)).softmax(dim=-1)
        weights = gradient[:, head].float() @ v[:, head].transpose(1, 2)  # of the attention
        weights.mul_(attention).clamp_(min=0)
        drawn += (relevance[:, None] @ weights)[:, 0]

    total = drawn.sum()
    return drawn * (relevance.sum() / total) if total > 0 else relevance
