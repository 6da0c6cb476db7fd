"""Token scores of the light models: how much the class token attends to each token."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast.models.pruned_blocks import PrunedSABlock


def has_token_scores(model: nn.Module) -> bool:
    """Whether a model has blocks that score their tokens."""
    return any(isinstance(module, PrunedSABlock) for module in model.modules())


def token_scores(model: Any, frames: Tensor) -> Tensor:
    """Return the mean score of each token over all blocks that score tokens.

    The scores are those by which the model prunes. They do not depend on a class.

    Args:
        model: Model in evaluation mode with such blocks, see `has_token_scores`.
        frames: Input of the model, shape (1, C, T, H, W).

    Returns:
        Shape (T', H', W') of the first of these blocks, from 0 on.
    """
    scores: list[Tensor] = []

    def record(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        volume, _, score = output
        share = score[0] / score[0].sum().clamp_min(torch.finfo(score.dtype).tiny)
        scores.append(share.view(volume.shape[2:]))

    blocks = [module for module in model.modules() if isinstance(module, PrunedSABlock)]
    handles = [block.register_forward_hook(record) for block in blocks]
    try:
        with torch.no_grad():
            model(frames)
    finally:
        for handle in handles:
            handle.remove()

    thw = scores[0].shape
    total = torch.zeros_like(scores[0])
    for score in scores:
        # A token of a later stage shares its score among the tokens that it is made of.
        total += F.interpolate(score[None, None], size=thw)[0, 0] * (score.numel() / total.numel())
    return total / len(scores)
