"""What all processes must agree on after each step: whether it was skipped, and whether the run saves or stops."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from slowfast.distributed.collectives import device, sum_over_ranks


class Verdict(NamedTuple):
    """On one step; the same in all processes."""

    is_bad: bool  # a gradient was not finite: the step was skipped
    has_bad_loss: bool  # in some process
    shall_stop: bool  # some process was asked to
    shall_save: bool  # some process was asked to
    num_unreadable: int  # videos of the step that could not be read, over all processes


class Agreement:
    """Collects what each process has to say after a step, and tells it one step later.

    By then the device has long done that step: reading the verdict makes no process wait for its device, as an
    immediate answer would. All processes read the same verdict at the same step.
    """

    def __init__(self) -> None:
        self._host = torch.zeros(len(Verdict._fields), pin_memory=device().type == "cuda")
        # To wait for an event that is not blocking keeps a core busy.
        self._copied = torch.cuda.Event(blocking=True) if device().type == "cuda" else None

    def ask(
        self,
        *,
        is_bad: Tensor,
        loss: Tensor,
        shall_stop: bool,
        shall_save: bool,
        num_unreadable: int,
    ) -> None:
        """Bring together what the processes have to say on the step that was just taken."""
        of_host = torch.tensor([shall_stop, shall_save, num_unreadable], dtype=torch.float32).to(
            device(), non_blocking=True
        )
        of_device = torch.stack([is_bad.float(), (~loss.isfinite()).float()])
        self._host.copy_(sum_over_ranks(torch.cat([of_device, of_host])), non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def answer(self) -> Verdict:
        """Return the verdict on the last step that was asked about."""
        if self._copied is not None:
            self._copied.synchronize()
        *flags, num_unreadable = self._host.tolist()
        is_bad, has_bad_loss, shall_stop, shall_save = (flag > 0 for flag in flags)
        return Verdict(is_bad, has_bad_loss, shall_stop, shall_save, int(num_unreadable))


class BufferSnapshot:
    """The buffers of a model, such as BatchNorm statistics and their counters, which a forward pass changes.

    A step changes them before it is known whether it is skipped.

    Args:
        model: The model, on its device.
    """

    def __init__(self, model: nn.Module) -> None:
        by_dtype: dict[torch.dtype, list[Tensor]] = {}  # one kernel copies tensors of one type
        for buffer in model.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._groups = [
            (buffers, [buffer.clone() for buffer in buffers]) for buffers in by_dtype.values()
        ]

    def take(self) -> None:
        """Remember what the buffers are now."""
        for buffers, remembered in self._groups:
            torch._foreach_copy_(remembered, buffers)

    def restore(self) -> None:
        """Bring back what was remembered."""
        for buffers, remembered in self._groups:
            torch._foreach_copy_(buffers, remembered)

    def restore_where(self, condition: Tensor) -> None:
        """Bring back what was remembered if the condition, one bool on the device, holds; the host does not wait."""
        for buffers, remembered in self._groups:
            for buffer, value in zip(buffers, remembered, strict=True):
                buffer.copy_(torch.where(condition, value, buffer))
