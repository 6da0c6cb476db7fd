"""A small classifier, its batches, its training step, and a record of what it computes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slowfast.datasets.mixup import Mix
from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import Batch
from slowfast.engine.ema import ModelEma
from slowfast.engine.forward import ForwardPass
from slowfast.engine.losses import LOSSES
from slowfast.engine.skipped_steps import SkippedSteps
from slowfast.engine.state import TrainingState
from slowfast.engine.step import TrainStep
from slowfast.engine.unreadable_videos import UnreadableVideos

# Arguments of a small UniFormer.
TINY: dict[str, Any] = {
    "num_classes": 3,
    "dims": (8, 8, 16, 16),
    "depths": (1, 1, 1, 1),
    "head_dim": 8,
}


class Block(nn.Module):
    """A block to compile. Torch would notice new hooks in a plain sequence of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(192, 4)

    def forward(self, frames: Tensor) -> Tensor:
        return self.linear(self.flatten(frames))


class Small(nn.Module):
    """A classifier of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.head = nn.Linear(4, 3)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.block(frames))


def small_train_step(
    model: nn.Module, *, mix: Mix | None = None, ema: ModelEma | None = None
) -> TrainStep:
    """Return a training step without clipping."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    state = TrainingState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), ema=ema)
    forward = ForwardPass(
        loss_fn=LOSSES["soft_cross_entropy"],
        normalize=Normalize(mean=[0.0] * 3, std=[1.0] * 3, erase_mode="const"),
        mix=mix,
    )
    return TrainStep(
        state,
        forward=forward,
        skipped_steps=SkippedSteps(state.streak, max_in_row=3),
        unreadable_videos=UnreadableVideos(4, max_fraction=0),
    )


def small_batch(*, is_finite: bool) -> Batch:
    """Return four clips, one of which has a NaN if they are not all finite."""
    frames, rows = torch.randn(4, 3, 1, 8, 8), torch.arange(4)
    if not is_finite:
        frames[1, 0, 0, 0, 0] = torch.nan
    return Batch(frames, rows % 3, rows, torch.zeros_like(rows), unreadable=())


class RecordedOperations(TorchDispatchMode):
    """Records the names of all operations except views."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
