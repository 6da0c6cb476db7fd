"""Watching a model during a forward pass, and leaving it as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def replaced(module: nn.Module, method: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of a module by a function. After the block, it is as it was."""
    attributes = vars(module)
    had_own, own = method in attributes, attributes.get(method)
    attributes[method] = function
    try:
        yield
    finally:
        del attributes[method]
        if had_own:
            attributes[method] = own


@contextmanager
def gradients_of_activations(model: nn.Module) -> Iterator[None]:
    """Build graphs of activations alone: no weight requires a gradient within the block."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def leaf_of(frames: Tensor) -> Tensor:
    """Return frames at which a graph of activations can begin."""
    return frames.detach().clone().requires_grad_()
