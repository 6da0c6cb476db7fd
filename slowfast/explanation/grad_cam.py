"""Grad-CAM: the evidence for a class at each position of a stage."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slowfast.explanation.recording import gradients_of_activations, leaf_of, replaced
from slowfast.models.build import require_method

# Rows and columns of the stage that is taken by default. A coarser map says little.
MIN_SIDE = 4


def grad_cam(
    model: Any, frames: Tensor, *, target: int, stage: int | None = None
) -> tuple[Tensor, int]:
    """Return where a stage holds evidence for a class, and the number of the stage.

    The gradient of the logit weighs the channels at each position by itself. Behind the last stage
    of a network that averages over all positions, this is Grad-CAM. Before it, the mean gradient of
    Grad-CAM would mix what moves one way with what moves the other way.

    Args:
        model: Model in evaluation mode with `forward_stages`, `forward_features` and
            `forward_head`.
        frames: Input of the model, shape (1, C, T, H, W).
        target: Number of the class.
        stage: Stage from 1. None for the last one that the logits depend on and that has at least
            `MIN_SIDE` rows and columns.

    Returns:
        Shape (T', H', W'), from 0 on.

    Raises:
        ValueError: If the model lacks a method, there is no such stage, or the logits do not depend
            on it.

    Source: Selvaraju et al., Grad-CAM, arXiv:1610.02391. Draelos and Carin, Use HiResCAM instead of
    Grad-CAM for faithful explanations of convolutional neural networks, arXiv:2011.08891.
    """
    for method in ("forward_stages", "forward_features", "forward_head"):
        require_method(model, method)

    with gradients_of_activations(model):
        volumes, logits = _forward(model, leaf_of(frames))
        gradients = torch.autograd.grad(logits[0, target], volumes, allow_unused=True)

    # The gradient of a volume that is in the graph but not used is 0.
    is_used = [gradient is not None and bool(gradient.any()) for gradient in gradients]
    index = _choose_stage(model, volumes, is_used=is_used, stage=stage)
    if not is_used[index]:
        return torch.zeros_like(volumes[index][0, 0]), index + 1
    evidence = (gradients[index] * volumes[index].detach()).sum(dim=1)
    return evidence[0].float().relu(), index + 1


def _forward(model: Any, frames: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the output of each stage and the logits that are computed from it."""
    volumes: list[Tensor] = []
    forward_stages = model.forward_stages

    def record(x: Tensor) -> list[Tensor]:
        volumes[:] = forward_stages(x)
        return list(volumes)

    with replaced(model, "forward_stages", record):
        logits = model.forward_head(model.forward_features(frames))
    if not volumes:
        raise ValueError(
            f"forward_features of {type(model).__name__} does not call forward_stages, so the "
            "logits have no gradient there. Let it go on from the last stage, as docs/extend.md "
            "describes"
        )
    return volumes, logits


def _choose_stage(
    model: Any, volumes: Sequence[Tensor], *, is_used: Sequence[bool], stage: int | None
) -> int:
    """Return the index of the stage."""
    if stage is not None:
        if not 1 <= stage <= len(volumes):
            raise ValueError(f"stage is {stage}, but the model has stages 1 to {len(volumes)}")
        if any(is_used) and not is_used[stage - 1]:
            raise ValueError(
                f"the logits of {type(model).__name__} do not depend on stage {stage} at its "
                "positions. Choose an earlier stage"
            )
        return stage - 1

    used = [index for index, is_one in enumerate(is_used) if is_one] or list(range(len(volumes)))
    fine = [index for index in used if min(volumes[index].shape[-2:]) >= MIN_SIDE]
    return fine[-1] if fine else used[0]
