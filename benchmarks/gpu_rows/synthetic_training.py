"""The training step of the engine on synthetic batches."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu_rows.workload import NUM_CLASSES, Workload
from slowfast.datasets.mixup import Mix
from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import Batch, Unfilled
from slowfast.distributed.collectives import use_device
from slowfast.engine.ema import ModelEma
from slowfast.engine.forward import ForwardPass
from slowfast.engine.optim import make_optimizer, parameter_groups
from slowfast.engine.skipped_steps import SkippedSteps
from slowfast.engine.state import TrainingState
from slowfast.engine.step import StepResult, TrainStep
from slowfast.engine.unreadable_videos import UnreadableVideos

MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
LR = 1e-4


class Training:
    """A model in training.

    Args:
        workload: Device and sizes.
        model: Model on the device.
        amp: Autocast dtype of the forward pass. None for float32.
        optimizer: adamw, adam or sgd.
        fused: Whether one kernel updates all weights.
        ema_decay: Decay of the EMA of the weights. 0 for no EMA.
        mixes: Whether the MixUp and CutMix of the published recipe are on.
        micro_batches: Number of micro-batches in a step.
        max_skipped: Number of skipped steps in a row that raises an error.
    """

    def __init__(
        self,
        workload: Workload,
        model: nn.Module,
        *,
        amp: torch.dtype | None = None,
        optimizer: str = "adamw",
        fused: bool = True,
        ema_decay: float = 0.0,
        mixes: bool = False,
        micro_batches: int = 1,
        max_skipped: int = 10,
    ) -> None:
        use_device(workload.device.index or 0, on_gpu=workload.is_gpu)
        self.model = model.train()
        groups = parameter_groups(model, weight_decay=0.05, norm_weight_decay=0.0, decay_1d=False)
        self.train_state = TrainingState(
            model=model,
            optimizer=make_optimizer(optimizer, groups, lr=LR, fused=fused),
            scaler=torch.amp.GradScaler(workload.device.type, enabled=amp is torch.float16),
            ema=ModelEma(model, decay=ema_decay) if ema_decay else None,
            num_micro_batches=micro_batches,
        )
        forward = ForwardPass(
            loss_fn=F.cross_entropy,
            normalize=Normalize(mean=MEAN, std=STD, erase_mode="pixel"),
            mix=published_mix() if mixes else None,
            amp=amp,
        )
        self._train_step = TrainStep(
            self.train_state,
            forward=forward,
            skipped_steps=SkippedSteps(self.train_state.streak, max_in_row=max_skipped),
            unreadable_videos=UnreadableVideos(1, max_fraction=0.0),
            max_norm=20.0,
        )

    def step(self, *batches: Batch, lr: float = LR) -> StepResult:
        """Run a step on one batch for each micro-batch."""
        return self._train_step.run(batches, lr=lr)

    def settle(self) -> None:
        """Wait for the outcome of the last step, as before a checkpoint."""
        self._train_step.settle()

    def state(self) -> dict[str, Any]:
        """Return the content of a checkpoint."""
        self.settle()
        return self.train_state.state_dict()

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from the state of another training."""
        self.train_state.load_state_dict(state, path="the state in memory")


def published_mix() -> Mix:
    """Return the MixUp and CutMix of the published recipe."""
    return Mix(
        num_classes=NUM_CLASSES,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
        probability=1.0,
        switch_probability=0.5,
        smoothing=0.1,
    )


def batch_of(frames: Tensor, label: Tensor, *, unfilled: tuple[Unfilled, ...] = ()) -> Batch:
    """Return a batch of frames (B, 3, T, H, W) and labels (B,) without unreadable videos."""
    videos = torch.arange(len(label))
    return Batch(frames, label, videos, torch.zeros_like(videos), [], unfilled)


def batch(workload: Workload, num_clips: int) -> Batch:
    """Return a synthetic batch on the device."""
    return batch_of(workload.frames(num_clips), workload.labels(num_clips))


def host_batches(
    workload: Workload, num_clips: int, *, count: int, uint8: bool = False
) -> Iterator[tuple[Batch, ...]]:
    """Iterate over steps of one synthetic batch each, in the memory of the host.

    As with a loader, each batch has new memory. For a GPU, the memory is pinned.

    Args:
        workload: Device and sizes.
        num_clips: Number of clips in a batch.
        count: Number of steps.
        uint8: Whether the frames are uint8 instead of float32.
    """
    shape = (num_clips, 3, workload.num_frames, workload.size, workload.size)
    generator = torch.Generator().manual_seed(0)
    if uint8:
        frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    else:
        frames = torch.randn(shape, generator=generator)
    label = torch.arange(num_clips) % NUM_CLASSES
    for _ in range(count):
        if workload.is_gpu:
            yield (batch_of(frames.pin_memory(), label.pin_memory()),)
        else:
            yield (batch_of(frames.clone(), label.clone()),)
