"""What all processes must agree on after each step: whether its numbers were bad, and whether the run shall stop."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from slowfast.utils.distributed import device, max_over_ranks


class Verdict(NamedTuple):
    """On one step; the same in all processes."""

    is_bad: bool  # a gradient was not finite: the step was left out
    has_bad_loss: bool  # in some process
    shall_stop: bool  # some process was asked to


class Agreement:
    """Collects what each process has to say after a step, and tells it one step later.

    By then the device has long done that step: reading the verdict makes no process wait for its device, as an
    immediate answer would. All processes read the same verdict at the same step.
    """

    def __init__(self) -> None:
        self._host = torch.zeros(3, pin_memory=device().type == "cuda")
        self._copied = torch.cuda.Event() if device().type == "cuda" else None

    def ask(self, *, is_bad: Tensor, loss: Tensor, shall_stop: bool) -> None:
        """Bring together what the processes have to say on the step that was just taken."""
        stop = torch.full((), float(shall_stop), device=device())
        flags = max_over_ranks(torch.stack([is_bad.float(), (~loss.isfinite()).float(), stop]))
        self._host.copy_(flags, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def answer(self) -> Verdict:
        """Return the verdict on the last step that was asked about."""
        if self._copied is not None:
            self._copied.synchronize()
        return Verdict(*(bool(flag) for flag in self._host.tolist()))


class BatchStatistics:
    """The running BatchNorm statistics of a model, which a step changes before it is known whether it is good.

    Args:
        model: on its device.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._buffers = [buffer for norm in norms for buffer in norm.buffers() if buffer.is_floating_point()]
        self._remembered = [buffer.clone() for buffer in self._buffers]

    def remember(self) -> None:
        """Keep a copy of what they are now."""
        if self._buffers:
            torch._foreach_copy_(self._remembered, self._buffers)

    def go_back(self) -> None:
        """Make them what was remembered."""
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._remembered)

    def go_back_where(self, condition: Tensor) -> None:
        """Make them what was remembered if the condition, one bool on the device, is true; the host does not wait."""
        for buffer, remembered in zip(self._buffers, self._remembered, strict=True):
            buffer.copy_(torch.where(condition, remembered, buffer))
