"""Relative error of results against a reference of higher precision."""

from collections.abc import Iterable

import torch
from torch import Tensor


def relative_error(result: Tensor, reference: Tensor) -> float:
    """Return the norm of the difference over that of the reference, infinite for NaN results."""
    result = result.detach().double()
    reference = reference.detach().to(result)
    error = float((result - reference).norm() / reference.norm())
    return error if torch.isfinite(result).all() else float("inf")


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Return the values of all tensors as one vector, in float64 on the CPU."""
    return torch.cat([tensor.detach().double().cpu().flatten() for tensor in tensors])
