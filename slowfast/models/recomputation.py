"""Activation checkpointing of the blocks of a model."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_block(block: nn.Module, *inputs: Tensor, is_recomputed: bool) -> Any:
    """Return the output of a block.

    Args:
        block: The block.
        inputs: Inputs of the block.
        is_recomputed: Whether the block recomputes its activations in the backward pass, if there
            is one, instead of keeping them.
    """
    if not (is_recomputed and _builds_graph(block, inputs)):
        return block(*inputs)
    contexts = partial(_update_statistics_once, block)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


def _builds_graph(block: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a backward pass reaches a block. It stops above frozen blocks at the input."""
    tensors = (*inputs, *block.parameters())
    return any(tensor.requires_grad for tensor in tensors)


def _update_statistics_once(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return contexts in which only the first of two forward passes updates the BatchNorms."""
    return nullcontext(), _restore_buffers(block)


@contextmanager
def _restore_buffers(module: nn.Module) -> Iterator[None]:
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
