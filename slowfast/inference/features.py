"""Features of views: the input of the head, or the output of any stage."""

from typing import Any

from torch import Tensor

from slowfast.models.build import require_method


def embed(model: Any, frames: Tensor, *, stage: int | None = None, tokens: bool = False) -> Tensor:
    """Return features of views.

    Args:
        model: Model with `forward_features` and `forward_head`, or `forward_stages` for a stage.
        frames: Input of the model, shape (B, C, T, H, W).
        stage: Stage from 1. None for the features before the head.
        tokens: Whether to return all tokens instead of one vector.

    Returns:
        Shape (B, C), or (B, T' * H' * W', C) for tokens.

    Raises:
        ValueError: If the model lacks the method, or there is no such stage.
    """
    require_method(model, "forward_features" if stage is None else "forward_stages")
    if stage is None:
        volume = model.forward_features(frames)
        if not tokens:
            return model.forward_head(volume, pre_logits=True)
    else:
        stages = model.forward_stages(frames)
        if not 1 <= stage <= len(stages):
            raise ValueError(f"stage is {stage}, but the model has stages 1 to {len(stages)}")
        volume = stages[stage - 1]

    flat = volume.flatten(2).transpose(1, 2)  # (B, C, T, H, W) -> (B, T*H*W, C)
    return flat if tokens else flat.mean(dim=1)
