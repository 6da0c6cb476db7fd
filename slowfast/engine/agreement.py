"""Agreement of all processes after each step: was it skipped, and does the run save or stop."""

from typing import NamedTuple

import torch
from torch import Tensor

from slowfast.distributed.collectives import device, sum_over_ranks


class StepFlags(NamedTuple):
    """What happened in a step in any process. It is the same in all processes."""

    is_skipped: bool  # a gradient was not finite
    has_nonfinite_loss: bool
    stop_requested: bool
    save_requested: bool
    num_unreadable: int  # unreadable videos of the step, summed over all processes


class FlagAllReduce:
    """An all-reduce of the flags of a step, which is read one step later.

    By then the device has finished the step long ago, so no process waits for its device. All
    processes read the same flags after the same step.
    """

    def __init__(self) -> None:
        is_gpu = device().type == "cuda"
        self._host = torch.zeros(len(StepFlags._fields), pin_memory=is_gpu)
        # Waiting for an event that is not blocking would keep a core busy.
        self._copied = torch.cuda.Event(blocking=True) if is_gpu else None

    def start(
        self,
        *,
        is_skipped: Tensor,
        loss: Tensor,
        stop_requested: bool,
        save_requested: bool,
        num_unreadable: int,
    ) -> None:
        """Start to reduce the flags of the step that has just run in this process."""
        host_flags = [stop_requested, save_requested, num_unreadable]
        from_host = torch.tensor(host_flags, dtype=torch.float32).to(device(), non_blocking=True)
        from_device = torch.stack([is_skipped.float(), (~loss.isfinite()).float()])

        total = sum_over_ranks(torch.cat([from_device, from_host]))
        self._host.copy_(total, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def result(self) -> StepFlags:
        """Return the flags of the last step passed to `start`."""
        if self._copied is not None:
            self._copied.synchronize()
        *flags, num_unreadable = self._host.tolist()
        is_skipped, has_nonfinite_loss, stop_requested, save_requested = (
            flag > 0 for flag in flags
        )
        return StepFlags(
            is_skipped, has_nonfinite_loss, stop_requested, save_requested, int(num_unreadable)
        )
