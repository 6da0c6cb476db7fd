"""A UniFormer small enough for quick tests, and comparisons of its weights."""

from typing import Any

import torch
from torch import Tensor

from slowfast.models.uniformer import UniFormer
from slowfast.models.weights import Report


def tiny_uniformer(num_classes: int = 5, **settings: Any) -> UniFormer:
    arguments = {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "head_dim": 8, **settings}
    return UniFormer(num_classes=num_classes, **arguments)


NUM_WEIGHTS = len(tiny_uniformer().state_dict())


def copy_state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def are_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    if first.keys() != second.keys():
        return False
    return all(torch.equal(first[name], second[name]) for name in first)


def counts(report: Report) -> tuple[int, ...]:
    """The numbers of loaded, inflated, dropped, missing and unexpected weights."""
    return tuple(len(shares) for shares in report[:5])
