"""The engine's own training step on synthetic batches, as the rows use it."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_rows.setup import NUM_CLASSES, Setup
from slowfast.datasets.mixup import Mix
from slowfast.datasets.records import Batch, Unfilled
from slowfast.datasets.transforms import Normalize
from slowfast.distributed.collectives import use_device
from slowfast.engine.ema import ModelEma
from slowfast.engine.optim import make_optimizer, parameter_groups
from slowfast.engine.skipped_steps import SkippedSteps
from slowfast.engine.state import TrainingState
from slowfast.engine.step import Outcome, TrainStep
from slowfast.engine.unreadable_videos import UnreadableVideos

MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
LR = 1e-4


class Training:
    """A model in training.

    Args:
        setup: The device.
        model: The model, on the device.
        amp: The number format of the forward pass; None for float32.
        optimizer: adamw | adam | sgd.
        fused: Whether one kernel updates all weights.
        ema_decay: The decay of the moving average of the weights; 0 for none.
        mixes: Whether MixUp and CutMix are on, as in the published recipe.
        micro_batches: The number of batches of a step.
        most_skipped: The number of skipped steps in a row that is too many.
    """

    def __init__(
        self,
        setup: Setup,
        model: nn.Module,
        *,
        amp: torch.dtype | None = None,
        optimizer: str = "adamw",
        fused: bool = True,
        ema_decay: float = 0.0,
        mixes: bool = False,
        micro_batches: int = 1,
        most_skipped: int = 10,
    ) -> None:
        use_device(setup.device.index or 0, on_gpu=setup.is_gpu)
        self.model = model.train()
        groups = parameter_groups(model, weight_decay=0.05, norm_weight_decay=0.0, decay_1d=False)
        self.run = TrainingState(
            model=model,
            optimizer=make_optimizer(optimizer, groups, lr=LR, fused=fused),
            scaler=torch.amp.GradScaler(setup.device.type, enabled=amp is torch.float16),
            ema=ModelEma(model, decay=ema_decay) if ema_decay else None,
            num_parts=micro_batches,
        )
        self._taker = TrainStep(
            self.run,
            loss=F.cross_entropy,
            normalize=Normalize(mean=MEAN, std=STD, erase_mode="pixel"),
            skipped_steps=SkippedSteps(self.run.streak, max_in_row=most_skipped),
            unreadable=UnreadableVideos(1, max_fraction=0.0),
            mix=published_mix() if mixes else None,
            amp=amp,
            max_norm=20.0,
        )

    def step(self, *batches: Batch, lr: float = LR) -> Outcome:
        """Take a step."""
        return self._taker.take(batches, lr=lr)

    def settle(self) -> None:
        """Judge the last step, as before a checkpoint."""
        self._taker.settle()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        self.settle()
        return self.run.state()

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what another training has returned as its state."""
        self.run.load(state, path="the state in memory")


def published_mix() -> Mix:
    """Return MixUp and CutMix of the published recipe."""
    return Mix(
        num_classes=NUM_CLASSES,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
        probability=1.0,
        switch_probability=0.5,
        smoothing=0.1,
    )


def batch_of(frames: Tensor, label: Tensor, *, unfilled: tuple[Unfilled, ...] = ()) -> Batch:
    """Return a batch of frames (B, 3, T, H, W) and labels (B,), of videos that could be read."""
    numbers = torch.arange(len(label))
    return Batch(frames, label, numbers, torch.zeros_like(numbers), [], unfilled)


def batch(setup: Setup, num_clips: int) -> Batch:
    """Return a synthetic batch that lies on the device."""
    return batch_of(setup.frames(num_clips), setup.labels(num_clips))


def host_batches(
    setup: Setup, num_clips: int, *, count: int, uint8: bool = False
) -> Iterator[tuple[Batch, ...]]:
    """Iterate over steps of one synthetic batch each, in the memory of the host, pinned where there is a GPU.

    As from a loader, each is new memory.

    Args:
        setup: The sizes.
        num_clips: The clips of a batch.
        count: The number of steps.
        uint8: Whether the frames are bytes.
    """
    shape = (num_clips, 3, setup.num_frames, setup.size, setup.size)
    generator = torch.Generator().manual_seed(0)
    if uint8:
        frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    else:
        frames = torch.randn(shape, generator=generator)
    label = torch.arange(num_clips) % NUM_CLASSES
    for _ in range(count):
        if setup.is_gpu:
            yield (batch_of(frames.pin_memory(), label.pin_memory()),)
        else:
            yield (batch_of(frames.clone(), label.clone()),)
