"""BatchNorm statistics: undoing what a forward pass changed, and precise statistics."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from slowfast.distributed.collectives import copy_buffers_from_main, device
from slowfast.inference.precision import autocast


class BufferSnapshot:
    """A copy of the buffers of a model, such as BatchNorm statistics and their counters.

    A forward pass changes the buffers before anyone knows whether the step is skipped.

    Args:
        model: Model on its device.
    """

    def __init__(self, model: nn.Module) -> None:
        by_dtype: dict[torch.dtype, list[Tensor]] = {}  # one kernel copies tensors of one dtype
        for buffer in model.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._groups = [
            (buffers, [buffer.clone() for buffer in buffers]) for buffers in by_dtype.values()
        ]

    def save(self) -> None:
        """Save the current buffers."""
        for buffers, saved in self._groups:
            torch._foreach_copy_(saved, buffers)

    def restore(self) -> None:
        """Restore the saved buffers."""
        for buffers, saved in self._groups:
            torch._foreach_copy_(buffers, saved)

    def restore_where(self, condition: Tensor) -> None:
        """Restore the saved buffers if a condition holds, without waiting for the device.

        Args:
            condition: One bool on the device.
        """
        for buffers, saved in self._groups:
            for buffer, value in zip(buffers, saved, strict=True):
                buffer.copy_(torch.where(condition, value, buffer))


def recompute_statistics(
    model: nn.Module, frames: Iterable[Tensor], *, num_batches: int, amp: torch.dtype | None
) -> None:
    """Replace the running BatchNorm statistics by their means over training batches.

    All processes end up with the statistics of rank 0.

    Args:
        model: Model on its device.
        frames: Normalized frames of training batches, shape (B, C, T, H, W) each.
        num_batches: Number of batches to use.
        amp: Autocast dtype of the training, whose statistics these stand for.

    Source: Wu and Johnson, Rethinking "Batch" in BatchNorm, arXiv:2105.07576, sec. 3.
    """
    from fvcore.nn.precise_bn import update_bn_stats

    was_training = model.training
    with autocast(amp, device()):
        update_bn_stats(model.train(), frames, num_batches, progress=None)
    model.train(was_training)
    copy_buffers_from_main(model)
