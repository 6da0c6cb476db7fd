"""Device and sizes of the rows: the published ones on a GPU, small ones on a CPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slowfast.models.uniformer import UniFormer

NUM_CLASSES = 400


@dataclass(frozen=True)
class Workload:
    """Device, models and sizes that all rows share.

    Attributes:
        device: Device the rows run on.
        models: Arguments of UniFormer-S and -B by letter.
        clips: Number of clips in a step of each model by letter.
        num_frames: Number of frames in a clip.
        size: Height and width of a clip in pixels.
        reference_shape: Shape (B, 3, T, H, W) of the frames for the float64 reference on a CPU.
        depthwise_shapes: Shapes (B, C, T, H, W) of the inputs of depthwise convolutions.
        seconds: Measuring time of each variant.
        num_steps: Number of steps of the training that is compared with a CPU.
    """

    device: torch.device
    models: dict[str, dict[str, Any]]
    clips: dict[str, int]
    num_frames: int
    size: int
    reference_shape: tuple[int, int, int, int, int]
    depthwise_shapes: Sequence[tuple[int, int, int, int, int]]
    seconds: float
    num_steps: int

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def model(self, letter: str, *, drop_path: float | None = None) -> UniFormer:
        """Return UniFormer-S or -B with random weights on the device.

        Args:
            letter: S or B.
            drop_path: Drop path rate. None for the published one.
        """
        arguments = dict(self.models[letter])
        if drop_path is not None:
            arguments["drop_path"] = drop_path
        torch.manual_seed(0)
        return UniFormer(num_classes=NUM_CLASSES, **arguments).to(self.device)

    def frames(self, num_clips: int) -> Tensor:
        """Return synthetic normalized frames (B, 3, T, H, W) on the device."""
        generator = torch.Generator(self.device).manual_seed(1)
        shape = (num_clips, 3, self.num_frames, self.size, self.size)
        return torch.randn(shape, generator=generator, device=self.device)

    def labels(self, num_clips: int) -> Tensor:
        """Return synthetic labels (B,) on the device."""
        return torch.arange(num_clips, device=self.device) % NUM_CLASSES


def gpu_workload(device: torch.device) -> Workload:
    """Return the published models and sizes for a GPU."""
    return Workload(
        device=device,
        models={"S": {}, "B": {"depths": (5, 8, 20, 7), "drop_path": 0.3}},
        clips={"S": 32, "B": 16},
        num_frames=16,
        size=224,
        reference_shape=(2, 3, 8, 64, 64),
        depthwise_shapes=(
            (16, 64, 8, 56, 56),
            (16, 128, 8, 28, 28),
            (16, 320, 8, 14, 14),
            (16, 512, 8, 7, 7),
        ),
        seconds=1.0,
        num_steps=30,
    )


def cpu_workload() -> Workload:
    """Return small models and sizes, so that a CPU runs the same code in seconds."""
    small = {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1), "head_dim": 16}
    return Workload(
        device=torch.device("cpu"),
        models={"S": small, "B": {**small, "depths": (1, 1, 2, 1), "drop_path": 0.3}},
        clips={"S": 4, "B": 2},
        num_frames=4,
        size=32,
        reference_shape=(2, 3, 4, 32, 32),
        depthwise_shapes=((2, 8, 4, 8, 8),),
        seconds=0.0,
        num_steps=30,
    )
