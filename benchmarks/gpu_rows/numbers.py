"""Differences between results and a reference of higher precision."""

from collections.abc import Iterable

import torch
from torch import Tensor


def relative_error(result: Tensor, reference: Tensor) -> float:
    """Return the norm of the difference over the norm of the reference; infinite if not finite."""
    result = result.detach().double()
    reference = reference.detach().to(result)
    error = float((result - reference).norm() / reference.norm())
    return error if torch.isfinite(result).all() else float("inf")


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return all numbers of several tensors in one row, in float64 on the CPU."""
    return torch.cat([tensor.detach().double().cpu().flatten() for tensor in tensors])
