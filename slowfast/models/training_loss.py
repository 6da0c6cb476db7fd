"""Losses of models by what they return in training mode: logits, or more that their loss needs."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

LossFunction = Callable[[Tensor, Tensor], Tensor]  # logits (B, K) and labels to the mean loss


class Loss(NamedTuple):
    """Loss of a batch.

    Attributes:
        loss: Mean over the clips.
        logits: Logits (B, K) that a test of the model would use, in float32.
    """

    loss: Tensor
    logits: Tensor


# From the outputs of a model in training mode, the labels and the loss of MODEL.LOSS_FUNC.
TrainingLoss = Callable[[Any, Tensor, LossFunction], Loss]


def loss_of_logits(outputs: Tensor, targets: Tensor, loss_fn: LossFunction) -> Loss:
    """Return the loss of a model whose outputs in training mode are its logits.

    Args:
        outputs: Logits (B, K).
        targets: Labels, as `loss_fn` takes them.
        loss_fn: Function from logits (B, K) and labels to the mean loss of the batch.
    """
    logits = outputs.float()
    return Loss(loss_fn(logits, targets), logits)
