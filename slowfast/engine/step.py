"""One training step: forward and backward per micro-batch, clipping, and the weight update."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from slowfast.datasets.records import Batch
from slowfast.engine.agreement import FlagAllReduce
from slowfast.engine.batch_norm import BufferSnapshot
from slowfast.engine.forward import ForwardPass
from slowfast.engine.optim import apply_gradients, set_lr
from slowfast.engine.skipped_steps import SkippedSteps, StepRecord, first_nonfinite_module
from slowfast.engine.state import TrainingState
from slowfast.engine.unreadable_videos import UnreadableVideos


class StepResult(NamedTuple):
    """Numbers of a step in this process. They stay on the device, so that nothing waits for it."""

    loss: Tensor  # mean over the clips
    top1: Tensor  # accuracy, from 0 to 1
    grad_norm: Tensor  # over all processes, before clipping
    is_skipped: Tensor  # one bool: a gradient was not finite in some process


class TrainStep:
    """Runs the steps of a training, in all processes together.

    The gradient is the mean over the clips of all micro-batches in all processes, however they are
    divided. BatchNorm sees one micro-batch at a time. Its running statistics are those of the first
    micro-batch, just as they are those of rank 0 among processes.

    Nothing in a step waits for the device, so the host runs ahead of it. The device decides whether
    a step is skipped, and `settle` reads the flags of a step one step later, when they have long
    arrived. Two things do wait: a skipped step, to find its cause, and an optimizer that is not
    fused, see `apply_gradients`.

    Args:
        state: Training state. Every step changes it.
        forward: Function that computes the loss of a micro-batch.
        skipped_steps: Counter of skipped steps.
        unreadable_videos: Counter of unreadable videos.
        max_norm: Norm that the gradients are clipped to. 0 turns clipping off.
        ddp: The model wrapped in DDP, or None for the model itself.
    """

    def __init__(
        self,
        state: TrainingState,
        *,
        forward: ForwardPass,
        skipped_steps: SkippedSteps,
        unreadable_videos: UnreadableVideos,
        max_norm: float = 0.0,
        ddp: nn.Module | None = None,
    ) -> None:
        self.stop_requested = False  # in some process, known to all after the same step
        self.save_requested = False
        self._state = state
        self._forward = forward
        self._skipped_steps = skipped_steps
        self._unreadable_videos = unreadable_videos
        self._max_norm = max_norm or float("inf")
        self._ddp = state.model if ddp is None else ddp
        self._before_step = BufferSnapshot(state.model)
        self._after_first = BufferSnapshot(state.model)
        self._flags = FlagAllReduce()
        self._unsettled: StepRecord | None = None

    def run(
        self,
        micro_batches: tuple[Batch, ...],
        *,
        lr: float,
        stop_requested: bool = False,
        save_requested: bool = False,
    ) -> StepResult:
        """Run the next step, and settle the one before it.

        Args:
            micro_batches: Micro-batches of this process.
            lr: Learning rate.
            stop_requested: Whether this process was asked to stop.
            save_requested: Whether this process wants a checkpoint.

        Raises:
            SkippedStepsError: If too many steps in a row were skipped.
            DecodeError: If too many videos could not be read.
        """
        position = self._state.position
        result = self._update(micro_batches, lr=lr)
        self.settle()

        unreadable = [video for batch in micro_batches for video in batch.unreadable]
        self._unreadable_videos.add(unreadable)
        self._flags.start(
            is_skipped=result.is_skipped,
            loss=result.loss,
            stop_requested=stop_requested,
            save_requested=save_requested,
            num_unreadable=len(unreadable),
        )
        self._unsettled = StepRecord(position, micro_batches, lr, result.loss, result.grad_norm)
        return result

    def settle(self) -> None:
        """Read the flags of the last step, if that is still to do. All processes call it together.

        Afterward, the state counts everything up to its last step, as a checkpoint needs it.

        Raises:
            SkippedStepsError: If too many steps in a row were skipped.
            DecodeError: If too many videos could not be read.
        """
        step, self._unsettled = self._unsettled, None
        if step is None:
            return

        flags = self._flags.result()
        self.stop_requested |= flags.stop_requested
        self.save_requested |= flags.save_requested
        if flags.num_unreadable:
            self._unreadable_videos.report(self._state.unreadable)

        if not flags.is_skipped:
            self._skipped_steps.end_streak()
            return

        scaler = self._state.scaler
        self._state.num_skipped_steps += 1
        self._skipped_steps.add(
            step,
            loss_scale=scaler.get_scale(),
            is_expected=scaler.is_enabled() and not flags.has_nonfinite_loss,
            find_module=self._find_nonfinite_module,
        )

    def _update(self, micro_batches: Sequence[Batch], *, lr: float) -> StepResult:
        state, num_micro_batches = self._state, len(micro_batches)
        set_lr(state.optimizer, lr)
        state.optimizer.zero_grad(set_to_none=True)
        self._before_step.save()

        losses, accuracies = [], []
        for index, batch in enumerate(micro_batches):
            is_last = index == num_micro_batches - 1
            with self._gradient_sync(is_last):
                loss, accuracy = self._forward(
                    self._ddp,
                    batch,
                    position=state.position,
                    index=index,
                    num_micro_batches=num_micro_batches,
                )
                state.scaler.scale(loss / num_micro_batches).backward()

            losses.append(loss.detach())
            accuracies.append(accuracy)
            if index == 0 and not is_last:
                self._after_first.save()
        if num_micro_batches > 1:
            self._after_first.restore()

        # Gradients are sums over all processes, so a non-finite number in one of them is in all.
        state.scaler.unscale_(state.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(state.model.parameters(), self._max_norm)
        is_skipped = ~grad_norm.isfinite()

        apply_gradients(state.optimizer, state.scaler, is_skipped=is_skipped)
        self._before_step.restore_where(is_skipped)
        if state.ema is not None:
            state.ema.update(state.model, is_skipped=is_skipped)
        state.step += 1
        return StepResult(
            torch.stack(losses).mean(), torch.stack(accuracies).mean(), grad_norm, is_skipped
        )

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager[object]:
        """Let DDP send gradients once per step, with the last micro-batch."""
        if is_last or not isinstance(self._ddp, DistributedDataParallel):
            return nullcontext()
        return self._ddp.no_sync()

    def _find_nonfinite_module(self, step: StepRecord) -> str:
        """Repeat a step in this process, with the weights of one step later."""
        model = self._state.model

        def losses() -> list[Tensor]:
            return [
                self._forward(
                    model,
                    batch,
                    position=step.position,
                    index=index,
                    num_micro_batches=len(step.micro_batches),
                )[0]
                for index, batch in enumerate(step.micro_batches)
            ]

        buffers = BufferSnapshot(model)
        with torch.compiler.set_stance("force_eager"):  # compiled code would not call the hooks
            name = first_nonfinite_module(model, losses)
        buffers.restore()
        return name
