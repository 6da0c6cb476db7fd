"""Forward pass of a training step: from one micro-batch to its loss."""

import numpy as np
import torch
from torch import Tensor, nn

from slowfast.datasets.mixup import Mix
from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import Batch
from slowfast.distributed.collectives import device, rank
from slowfast.inference.precision import autocast
from slowfast.models.training_loss import LossFunction, TrainingLoss, loss_of_logits
from slowfast.runs.position import Position
from slowfast.utils.metrics import hits_at


class ForwardPass:
    """Normalizes and mixes a micro-batch, runs a model on it, and computes the loss.

    Everything random in it is a function of the seed and of the position of the micro-batch, never
    of what ran before. A resumed run repeats it, and so does a run on another number of processes
    that divides its steps into the same micro-batches.

    Args:
        loss_fn: Function from logits (B, K) and labels to the mean loss of the batch.
        normalize: Function that turns the frames of a batch into the input of the model.
        training_loss: Function from the outputs of the model, labels and `loss_fn` to the loss, see
            `slowfast.models.training_loss`.
        mix: MixUp and CutMix, or None for neither.
        amp: Autocast dtype, or None for float32.
        seed: Seed of the run.
    """

    def __init__(
        self,
        *,
        loss_fn: LossFunction,
        normalize: Normalize,
        training_loss: TrainingLoss = loss_of_logits,
        mix: Mix | None = None,
        amp: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        self._loss_fn = loss_fn
        self._normalize = normalize
        self._training_loss = training_loss
        self._mix = mix
        self._amp = amp
        self._seed = seed

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        position: Position,
        index: int,
        num_micro_batches: int,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss and the accuracy of a micro-batch.

        Args:
            model: Model to run.
            batch: The micro-batch.
            position: Position of its step.
            index: Index of the micro-batch among those of this process in the step.
            num_micro_batches: Number of micro-batches of this process in the step.
        """
        global_index = rank() * num_micro_batches + index
        seed = (self._seed, *position, global_index)
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))

        frames = batch.frames.to(device(), non_blocking=True)
        labels = batch.labels.to(device(), non_blocking=True)
        frames, targets = self._normalize(frames, batch.unfilled), labels
        if self._mix is not None:
            frames, targets = self._mix(frames, labels, np.random.default_rng(seed))

        with autocast(self._amp, device()):
            loss, logits = self._training_loss(model(frames), targets, self._loss_fn)
        return loss, hits_at(logits.detach(), labels, k=1).float().mean()
