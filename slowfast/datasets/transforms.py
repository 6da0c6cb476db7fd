"""Transforms from decoded frames to the clips that a model sees, for training and evaluation.

A transform draws the augmentation of a clip once, from the generator of the sample, and applies it
to all frames.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.boxes import (
    Box,
    Planes,
    cut_out,
    random_resized_box,
    short_side_size,
    uniform_box,
)
from slowfast.datasets.normalization import ClipFormat
from slowfast.datasets.rand_augment import Operation, RandAugment
from slowfast.datasets.random_erasing import random_erasures
from slowfast.datasets.records import Unfilled
from slowfast.datasets.resize import Placement, resize_into


class Augmentation(NamedTuple):
    """Everything that a transform does to one clip."""

    operations: tuple[Operation, ...]  # RandAugment operations on whole frames
    short_side: int | None  # pixels, size of the resize before the crop, None for no resize
    box: Box  # region that is cut out, then resized to the crop size
    flipped: bool  # left to right
    erased: tuple[Box, ...]  # boxes of the clip
    noise_seed: int  # seed of the noise in the erased boxes

    def box_in(self, height: int, width: int) -> Box:
        """Return the region of a frame of this size that becomes the clip, in whole pixels."""
        if self.short_side is None:
            return self.box
        resized_height, resized_width = short_side_size(height, width, short_side=self.short_side)
        return self.box.scaled(height / resized_height, width / resized_width)


class Transform(ABC):
    """Transform from the decoded frames of a video to the views of it.

    Args:
        crop_size: Height and width of the views in pixels.
        clip_format: Format in which views are stored.
        rand_augment: RandAugment, None for no operations on whole frames.

    Attributes:
        chunk_bytes: Maximum bytes of decoded frames that are held in memory at once.
    """

    chunk_bytes: int

    def __init__(
        self, *, crop_size: int, clip_format: ClipFormat, rand_augment: RandAugment | None = None
    ) -> None:
        self.crop_size = crop_size
        self.clip_format = clip_format
        self.rand_augment = rand_augment

    @abstractmethod
    def draw(
        self, height: int, width: int, *, crop: int, rng: np.random.Generator | None
    ) -> Augmentation:
        """Return the augmentation of one view.

        Args:
            height: Height of the decoded frames in pixels.
            width: Width of the decoded frames in pixels.
            crop: Spatial crop of the view: 0 for left or top, 1 for center, 2 for right or bottom.
            rng: Generator of the draws, None if nothing is random.
        """

    def apply(
        self,
        frames: NDArray[np.uint8],
        augmentation: Augmentation,
        *,
        out: Tensor,
        placement: Placement,
    ) -> None:
        """Write some frames of a view to `out`, without random erasing.

        Args:
            frames: Decoded frames of shape (N, H, W, 3).
            augmentation: Augmentation of the view.
            out: The view, shape (3, T, crop_size, crop_size), of the dtype of the clip format.
            placement: Frames to write and their indices in `out`.
        """
        short_side, box = augmentation.short_side, augmentation.box

        region = box if short_side is None else Box(0, 0, *frames.shape[1:3])
        planes, placement = self._augment(frames, augmentation, region=region, placement=placement)

        if short_side is None:
            size = (self.crop_size, self.crop_size)
            window = Box(0, 0, *size)
        else:
            size = short_side_size(*planes.shape[2:], short_side=short_side)
            window = box

        resize_into(
            out,
            planes,
            size=size,
            window=window,
            scaling=self.clip_format.scaling,
            flipped=augmentation.flipped,
            placement=placement,
        )

    def erase(self, augmentation: Augmentation, *, out: Tensor) -> None:
        """Apply random erasing to a complete view, unless it is left to the device.

        Args:
            augmentation: Augmentation of the view.
            out: The view, shape (3, T, crop_size, crop_size).
        """
        self.clip_format.erase(out, augmentation.erased, seed=augmentation.noise_seed)

    def find_unfilled(
        self, augmentations: Sequence[Augmentation], *, first_clip: int
    ) -> list[Unfilled]:
        """Return the boxes that are left for the device to erase.

        Args:
            augmentations: Augmentations of consecutive clips of a batch.
            first_clip: Index of the first of these clips.
        """
        unfilled = []
        for clip, augmentation in enumerate(augmentations, start=first_clip):
            boxes = self.clip_format.find_unfilled(augmentation.erased)
            if boxes:
                unfilled.append(Unfilled(clip, boxes, augmentation.noise_seed))
        return unfilled

    def _augment(
        self,
        frames: NDArray[np.uint8],
        augmentation: Augmentation,
        *,
        region: Box,
        placement: Placement,
    ) -> tuple[Planes, Placement]:
        """Return a region of the frames after RandAugment, and where these frames go."""
        if self.rand_augment is None:
            return cut_out(frames.transpose(3, 0, 1, 2), region), placement

        # Augment only the frames that are shown, and each of them once.
        shown, sources = np.unique(placement.sources, return_inverse=True)
        frames = _take_frames(frames, shown)
        planes = self.rand_augment.apply(frames, augmentation.operations, box=region)
        return planes, placement._replace(sources=sources)


class EvalTransform(Transform):
    """Resizes the short side, crops and normalizes. Nothing is random.

    Args:
        short_side: Short side of the resized frames in pixels.
        crop_size: Side of the square crop in pixels.
        clip_format: Format in which views are stored.
    """

    chunk_bytes = 32 << 20

    def __init__(self, *, short_side: int, crop_size: int, clip_format: ClipFormat) -> None:
        super().__init__(crop_size=crop_size, clip_format=clip_format)
        self.short_side = short_side

    def draw(
        self, height: int, width: int, *, crop: int, rng: np.random.Generator | None
    ) -> Augmentation:
        """Return the crop of one view, see `Transform.draw`. The generator is not used."""
        size = short_side_size(height, width, short_side=self.short_side)
        box = uniform_box(*size, size=self.crop_size, crop=crop)
        return Augmentation((), self.short_side, box, flipped=False, erased=(), noise_seed=0)


class TrainTransform(Transform):
    """RandAugment, random crop, flip, normalization and random erasing.

    Args:
        crop_size: Side of the square crop in pixels.
        clip_format: Format in which views are stored.
        scale: Minimum and maximum fraction of the frame area in a random resized crop. If it is
            empty, a crop of fixed size is taken from a randomly resized frame.
        aspect: Minimum and maximum width / height of a random resized crop.
        short_sides: Minimum and maximum short side in pixels of a randomly resized frame.
        flip: Whether half of the clips are flipped left to right.
        rand_augment: RandAugment, None for none.
        erase_probability: Fraction of the clips with random erasing.
        erase_count: Maximum number of erased boxes per clip.
    """

    # A rotation costs more per frame in small chunks. This is 20 frames of 1080p.
    chunk_bytes = 128 << 20

    def __init__(
        self,
        *,
        crop_size: int,
        clip_format: ClipFormat,
        scale: Sequence[float],
        aspect: Sequence[float],
        short_sides: Sequence[int],
        flip: bool,
        rand_augment: RandAugment | None = None,
        erase_probability: float = 0.0,
        erase_count: int = 1,
    ) -> None:
        super().__init__(crop_size=crop_size, clip_format=clip_format, rand_augment=rand_augment)
        self.scale = scale
        self.aspect = aspect
        self.short_sides = short_sides
        self.flip = flip
        self.erase_probability = erase_probability
        self.erase_count = erase_count

    def draw(
        self, height: int, width: int, *, crop: int, rng: np.random.Generator | None
    ) -> Augmentation:
        """Draw the augmentation of one view, see `Transform.draw`. `crop` is not used."""
        assert rng is not None, "a training request carries a seed"

        # The order of the draws is part of what a seed means.
        short_side, box = self._draw_crop(height, width, rng=rng)
        is_erased = rng.random() < self.erase_probability
        operations = () if self.rand_augment is None else self.rand_augment.draw(rng)
        flipped = self.flip and rng.random() < 0.5

        erased: tuple[Box, ...] = ()
        if is_erased:
            size = self.crop_size
            erased = random_erasures(size, size, max_count=self.erase_count, rng=rng)

        noise_seed = int(rng.integers(2**63))
        return Augmentation(operations, short_side, box, flipped, erased, noise_seed)

    def _draw_crop(
        self, height: int, width: int, *, rng: np.random.Generator
    ) -> tuple[int | None, Box]:
        """Return the short side to resize the frames to, if any, and the box to cut out."""
        if self.scale:
            box = random_resized_box(height, width, scale=self.scale, aspect=self.aspect, rng=rng)
            return None, box

        size = self.crop_size
        short_side = round(rng.uniform(self.short_sides[0], self.short_sides[1]))
        resized_height, resized_width = short_side_size(height, width, short_side=short_side)
        top = int(rng.integers(resized_height - size, endpoint=True))
        left = int(rng.integers(resized_width - size, endpoint=True))
        return short_side, Box(top, left, size, size)


def _take_frames(frames: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return some frames in ascending order, as a view if they are consecutive."""
    first, last = indices[0], indices[-1]
    if last - first == len(indices) - 1:
        return frames[first : last + 1]

    # Index the transposed frames, so that the copy keeps each channel contiguous.
    planes = frames.transpose(3, 0, 1, 2)[:, indices]
    return planes.transpose(1, 2, 3, 0)
