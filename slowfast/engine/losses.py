"""Losses by the names of MODEL.LOSS_FUNC."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of every class of every clip.

    Args:
        logits: Logits of shape (B, K).
        target: Class numbers of shape (B,), or soft labels of shape (B, K).
    """
    if target.ndim == 1:
        target = F.one_hot(target, logits.shape[1])  # (B,) -> (B, K)
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


# Each maps logits (B, K) and labels to the mean loss of the batch. Labels are class numbers (B,)
# or, except for the first loss, soft labels (B, K).
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "soft_cross_entropy": F.cross_entropy,  # torch's version takes soft labels too
    "bce_logit": binary_cross_entropy,
}
