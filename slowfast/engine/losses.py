"""Losses by the names of MODEL.LOSS_FUNC."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Return the binary cross-entropy, averaged over the classes.

    Args:
        logits: Logits of shape (B, K).
        target: Class numbers of shape (B,), or soft labels of shape (B, K).
        reduction: mean: the mean over the clips. none: the loss of each clip, shape (B,).
    """
    if target.ndim == 1:
        target = F.one_hot(target, logits.shape[1])  # (B,) -> (B, K)
    target = target.to(logits.dtype)
    if reduction == "none":
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)
    return F.binary_cross_entropy_with_logits(logits, target)


# Each maps logits (B, K) and labels to the mean loss of the batch, or to the loss of each clip with
# reduction="none". Labels are class numbers (B,) or, except for the first loss, soft labels (B, K).
LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "soft_cross_entropy": F.cross_entropy,  # torch's version takes soft labels too
    "bce_logit": binary_cross_entropy,
}
