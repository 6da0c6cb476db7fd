"""One step of training: forward and backward for each part of the batch, clipping, and the update of the weights."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from slowfast.datasets.mixup import Mix
from slowfast.datasets.records import Batch
from slowfast.datasets.transforms import Normalize
from slowfast.distributed.collectives import device, rank
from slowfast.engine.agreement import Agreement, BufferSnapshot
from slowfast.engine.optim import apply_gradients, autocast, set_lr
from slowfast.engine.skipped_steps import SkippedSteps, Step, first_module_not_finite
from slowfast.engine.state import TrainingState
from slowfast.engine.unreadable_videos import UnreadableVideos
from slowfast.utils.metrics import hits_at


class Outcome(NamedTuple):
    """What a step gave in this process; on the device, so that nothing waits for it."""

    loss: Tensor  # mean over the clips
    top1: Tensor  # share of the clips
    grad_norm: Tensor  # over all processes, before clipping
    is_bad: (
        Tensor  # bool: a gradient was not finite, nothing was changed; the same in all processes
    )


class TrainStep:
    """Takes the steps of a run, all processes together.

    The gradient is the mean over the clips of all parts in all processes, however they are divided. BatchNorm sees one
    part at a time; its running statistics are those of the first part, as they are those of rank 0 among processes.

    Nothing in a step waits for the device, so that the host runs ahead of it: what is read of a step is read by
    `settle` one step later, when the device has long done it; whether a step is skipped, the device decides. Two things
    wait: a step that was skipped, to find out why, and an optimizer that is not fused, see `apply_gradients`.

    Args:
        run: The model, its optimizer and how far they have come; changed by each step.
        loss: Function from logits (B, K) and labels, mixed or not, to the mean loss of the batch.
        normalize: What turns the frames of a batch into what the model sees.
        skipped_steps: The skipped steps, told apart and counted.
        unreadable: The videos that could not be read, counted.
        mix: MixUp and CutMix of each part; None for none.
        amp: Number format of the forward pass; None for float32.
        max_norm: Largest norm of all gradients together; 0 for no clipping.
        seed: Seed of all that is random in a step.
        parallel: What brings the gradients of all processes together; None: the model itself.
    """

    def __init__(
        self,
        run: TrainingState,
        *,
        loss: Callable[[Tensor, Tensor], Tensor],
        normalize: Normalize,
        skipped_steps: SkippedSteps,
        unreadable: UnreadableVideos,
        mix: Mix | None = None,
        amp: torch.dtype | None = None,
        max_norm: float = 0.0,
        seed: int = 0,
        parallel: nn.Module | None = None,
    ) -> None:
        self.shall_stop = (
            False  # some process was asked to stop; all get to know it after the same step
        )
        self.shall_save = False  # the same, to save
        self._run = run
        self._mix = mix
        self._normalize = normalize
        self._seed = seed
        self._loss_of = loss
        self._max_norm = max_norm
        self._amp = amp
        self._parallel = run.model if parallel is None else parallel
        self._before_step = BufferSnapshot(run.model)
        self._after_first_part = BufferSnapshot(run.model)
        self._agreement = Agreement()
        self._unreadable = unreadable
        self._bad_steps = skipped_steps
        self._last: Step | None = None  # taken, and not judged yet

    def take(
        self,
        parts: tuple[Batch, ...],
        *,
        lr: float,
        is_interrupted: bool = False,
        save_is_due: bool = False,
    ) -> Outcome:
        """Take the next step of the run, and judge the one before.

        Args:
            parts: the batches that this process takes for it.
            lr: learning rate.
            is_interrupted: whether this process was asked to stop.
            save_is_due: whether this process wants a checkpoint.

        Raises:
            SkippedStepsError: too many steps in a row were skipped.
            DecodeError: too many videos could not be read.
        """
        place = (self._run.epoch, self._run.step)
        set_lr(self._run.optimizer, lr)
        outcome = self._update(parts)
        self.settle()

        unreadable = [video for batch in parts for video in batch.unreadable]
        self._unreadable.add(unreadable)
        self._agreement.ask(
            is_bad=outcome.is_bad,
            loss=outcome.loss,
            shall_stop=is_interrupted,
            shall_save=save_is_due,
            num_unreadable=len(unreadable),
        )
        self._last = Step(*place, parts, lr, outcome.loss, outcome.grad_norm)
        return outcome

    def settle(self) -> None:
        """Judge the last step, unless that was done; all processes call it together.

        Everything that decides about the run is then counted up to its last step, as a checkpoint needs it.

        Raises:
            SkippedStepsError: too many steps in a row were skipped.
            DecodeError: too many videos could not be read.
        """
        last, self._last = self._last, None
        if last is None:
            return
        verdict = self._agreement.answer()
        self.shall_stop |= verdict.shall_stop
        self.shall_save |= verdict.shall_save
        if verdict.num_unreadable:
            self._unreadable.report(self._run.unreadable)

        if not verdict.is_bad:
            self._bad_steps.note_good()
            return
        self._run.num_skipped_steps += 1
        is_normal = self._run.scaler.is_enabled() and not verdict.has_bad_loss
        self._bad_steps.note_bad(
            last,
            loss_scale=self._run.scaler.get_scale(),
            is_normal=is_normal,
            find_module=self._find_module,
        )

    def _find_module(self, step: Step) -> str:
        buffers = BufferSnapshot(self._run.model)
        with torch.compiler.set_stance("force_eager"):  # compiled code would not call the hooks
            name = first_module_not_finite(self._run.model, lambda: self._losses(step))
        buffers.restore()
        return name

    def _losses(self, step: Step) -> list[Tensor]:
        """The losses of a step that was taken before, in this process alone, with the weights of now, a step later."""
        return [
            self._forward(
                self._run.model, batch, place=(step.epoch, step.step, number), of=len(step.parts)
            )[0]
            for number, batch in enumerate(step.parts)
        ]

    def _update(self, parts: Sequence[Batch]) -> Outcome:
        run = self._run
        self._before_step.take()
        run.optimizer.zero_grad(set_to_none=True)
        losses, shares = [], []
        for number, batch in enumerate(parts):
            is_last = number == len(parts) - 1
            with self._synchronized(is_last):
                loss, share = self._forward(
                    self._parallel, batch, place=(run.epoch, run.step, number), of=len(parts)
                )
                run.scaler.scale(loss / len(parts)).backward()
            losses.append(loss.detach())
            shares.append(share)
            if number == 0 and not is_last:
                self._after_first_part.take()
        if len(parts) > 1:
            self._after_first_part.restore()
        run.scaler.unscale_(run.optimizer)
        # Gradients are sums over all processes, so that a bad number in one of them is bad in all.
        grad_norm = nn.utils.clip_grad_norm_(run.model.parameters(), self._max_norm or float("inf"))
        is_bad = ~grad_norm.isfinite()
        apply_gradients(run.optimizer, run.scaler, is_bad=is_bad)
        self._before_step.restore_where(is_bad)
        if run.ema is not None:
            run.ema.update(run.model, is_bad=is_bad)
        run.step += 1
        return Outcome(torch.stack(losses).mean(), torch.stack(shares).mean(), grad_norm, is_bad)

    def _forward(
        self, model: nn.Module, batch: Batch, *, place: tuple[int, int, int], of: int
    ) -> tuple[Tensor, Tensor]:
        """The loss and the share of right clips of one part; place: epoch, step and number of the part in `of`."""
        epoch, step, number = place
        # Whatever is random in a step is a function of its place, never of what ran before: a resumed run repeats it,
        # and so does one on another number of processes that divides the step into the same parts.
        seed = (self._seed, epoch, step, rank() * of + number)
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        frames, label = (
            tensor.to(device(), non_blocking=True) for tensor in (batch.frames, batch.label)
        )
        frames = self._normalize(frames, batch.unfilled)
        target = label
        if self._mix is not None:
            frames, target = self._mix(frames, label, np.random.default_rng(seed))
        with autocast(self._amp, device()):
            logits = model(frames)
            loss = self._loss_of(logits.float(), target)
        return loss, hits_at(logits.detach(), label, k=1).float().mean()

    def _synchronized(self, is_last: bool) -> AbstractContextManager[object]:
        """Gradients go over the network once per step, with its last part."""
        if is_last or not isinstance(self._parallel, DistributedDataParallel):
            return nullcontext()
        return self._parallel.no_sync()
