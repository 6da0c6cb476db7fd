"""Forward pass of views: normalized, in the precision of the evaluation, with float32 output."""

from collections.abc import Callable

import torch
from torch import Tensor

from slowfast.datasets.normalization import Normalize
from slowfast.inference.precision import autocast


def forward_views(
    forward: Callable[[Tensor], Tensor],
    frames: Tensor,
    *,
    normalize: Normalize,
    amp: torch.dtype | None,
    device: torch.device,
) -> Tensor:
    """Return what a model computes from views, in one forward pass.

    Tests, validations, predictions and features all take this path, so that the same frames in the
    same number give the same bits.

    Args:
        forward: The model, or a part of it.
        frames: Views as a batch holds them, shape (B, C, T, H, W), on any device.
        normalize: Function that turns the frames into the input of the model.
        amp: Autocast dtype, or None for float32.
        device: Device of the model.

    Returns:
        Float32 output on the device.
    """
    frames = frames.to(device, non_blocking=True)
    with autocast(amp, device):
        return forward(normalize(frames)).float()
