"""Normalization of clips, in the loader workers (float32) or on the device (uint8, DATA.UINT8).

This module holds everything that depends on DATA.UINT8. A clip format tells the workers how to
store clips. `Normalize` does on the device what is left to do there.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.boxes import Box
from slowfast.datasets.random_erasing import erase
from slowfast.datasets.records import Unfilled
from slowfast.datasets.resize import PixelScaling

NUM_CHANNELS = 3


class ClipFormat(Protocol):
    """How loader workers store a clip.

    Attributes:
        dtype: Dtype of the clips in a batch.
        scaling: Map from pixel values to stored values.
    """

    dtype: torch.dtype
    scaling: PixelScaling

    def erase(self, clip: Tensor, boxes: Sequence[Box], *, seed: int) -> None:
        """Erase boxes of a complete clip (3, T, H, W), unless that is left to the device."""
        ...

    def find_unfilled(self, boxes: Sequence[Box]) -> Sequence[Box]:
        """Return the boxes that are left for the device to erase."""
        ...


class Float32Clips:
    """Clips that workers normalize while resizing them, and erase. The device has nothing to do.

    Args:
        mean: Mean of each channel, in the range [0, 1].
        std: Standard deviation of each channel, in the range [0, 1].
        erase_mode: Filling of erased boxes, see `erase`.
    """

    dtype = torch.float32

    def __init__(
        self, *, mean: Sequence[float], std: Sequence[float], erase_mode: str = "pixel"
    ) -> None:
        self.scaling = normalizing_scaling(mean, std)
        self.erase_mode = erase_mode

    def erase(self, clip: Tensor, boxes: Sequence[Box], *, seed: int) -> None:
        """Erase boxes of a complete clip (3, T, H, W)."""
        rng = torch.Generator().manual_seed(seed)
        erase(clip, boxes, mode=self.erase_mode, rng=rng)

    def find_unfilled(self, boxes: Sequence[Box]) -> Sequence[Box]:
        """Return no box, since the worker erases them all."""
        return ()


class Uint8Clips:
    """Clips of rounded pixels, a quarter of the bytes. `Normalize` normalizes and erases them."""

    dtype = torch.uint8

    def __init__(self) -> None:
        scale = np.ones(NUM_CHANNELS, dtype=np.float32)
        half = np.full(NUM_CHANNELS, 0.5, dtype=np.float32)  # storing truncates the fraction
        self.scaling = PixelScaling(scale, half)

    def erase(self, clip: Tensor, boxes: Sequence[Box], *, seed: int) -> None:
        """Leave the clip as it is. uint8 cannot hold the noise."""

    def find_unfilled(self, boxes: Sequence[Box]) -> Sequence[Box]:
        """Return all boxes."""
        return boxes


class Normalize:
    """Turns the frames of a batch into the input of the model, on the device of the frames.

    Float32 frames pass unchanged. The pixels of uint8 frames were rounded to one of 256 levels,
    which is the only difference between the two: erased boxes get noise of the same distribution,
    and on a CPU the same noise.

    Args:
        mean: Mean of each channel, in the range [0, 1].
        std: Standard deviation of each channel, in the range [0, 1].
        erase_mode: Filling of erased boxes, see `erase`.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], erase_mode: str) -> None:
        scale, shift = normalizing_scaling(mean, std)
        self.scale = torch.from_numpy(scale).view(-1, 1, 1, 1)
        self.shift = torch.from_numpy(shift).view(-1, 1, 1, 1)
        self.erase_mode = erase_mode

    def __call__(self, frames: Tensor, unfilled: Sequence[Unfilled] = ()) -> Tensor:
        """Return normalized frames with all boxes erased.

        Args:
            frames: Frames of shape (B, C, T, H, W), uint8 or normalized float32.
            unfilled: Boxes to erase in uint8 frames.

        Returns:
            Shape (B, C, T, H, W), float32.
        """
        if frames.is_floating_point():
            return frames

        if self.scale.device != frames.device:
            self.scale = self.scale.to(frames.device, non_blocking=True)
            self.shift = self.shift.to(frames.device, non_blocking=True)
        clips = frames.to(torch.float32).mul_(self.scale).add_(self.shift)

        for clip, boxes, seed in unfilled:
            rng = torch.Generator(frames.device).manual_seed(seed)
            erase(clips[clip], boxes, mode=self.erase_mode, rng=rng)
        return clips


def normalizing_scaling(mean: Sequence[float], std: Sequence[float]) -> PixelScaling:
    """Return the map from pixel values to zero mean and unit standard deviation.

    Args:
        mean: Mean of each channel, in the range [0, 1].
        std: Standard deviation of each channel, in the range [0, 1].
    """
    std_array = np.array(std, dtype=np.float32)
    scale = np.float32(1) / (np.float32(255) * std_array)
    shift = np.array(mean, dtype=np.float32) / -std_array
    return PixelScaling(scale, shift)


def to_pixels(clip: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Return the pixels of a clip as it is stored in a batch, the inverse of the normalization.

    Args:
        clip: Shape (3, T, H, W), uint8 or normalized float32.
        mean: Mean of each channel that normalization subtracted, in the range [0, 1].
        std: Standard deviation of each channel that it divided by, in the range [0, 1].

    Returns:
        Shape (T, H, W, 3), in the order of the channels of the clip.
    """
    pixels = clip.permute(1, 2, 3, 0).numpy()  # (3, T, H, W) -> (T, H, W, 3)
    if not clip.is_floating_point():
        return pixels
    values = pixels * np.array(std) + np.array(mean)
    return (values.clip(0, 1) * 255).round().astype(np.uint8)
