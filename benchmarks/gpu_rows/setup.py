"""The device that rows run on, and the sizes of what they run: in full on a GPU, in small on a CPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slowfast.models.uniformer import UniFormer

NUM_CLASSES = 400


@dataclass(frozen=True)
class Setup:
    """What all rows are told.

    Attributes:
        device: The device.
        models: The arguments of UniFormer-S and -B by their letter.
        clips: The number of clips of a step of each.
        num_frames: The frames of a clip.
        size: The height and width of a clip, in pixels.
        reference_shape: The shape of the frames that a CPU computes in float64, (B, 3, T, H, W).
        depthwise_shapes: The shapes of the inputs of depthwise convolutions, (B, C, T, H, W).
        seconds: The time that each measured variant gets.
        num_steps: The number of steps of a training that is compared with a CPU.
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
            drop_path: Another rate than that of the published model.
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


def gpu_setup(device: torch.device) -> Setup:
    """Return the published models and sizes."""
    return Setup(
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


def cpu_setup() -> Setup:
    """Return small models and sizes, with which a CPU runs the same code in seconds."""
    small = {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1), "head_dim": 16}
    return Setup(
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
