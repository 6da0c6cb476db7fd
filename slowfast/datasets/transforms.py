"""From decoded frames to the clip that the model sees: functions on a clip, and the two recipes made of them.

Whatever is drawn is drawn once per clip, from the generator that is passed in, and applied to all of its frames.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.boxes import Box, cut_out, random_box, random_resized_box
from slowfast.datasets.rand_augment import Operation, RandAugment
from slowfast.datasets.records import Unfilled
from slowfast.datasets.resize import Placement, resize_into

ERASED_AREA = (0.02, 1 / 3)  # share of the frame
ERASED_ASPECT = (0.3, 1 / 0.3)  # width / height

# ---- Functions on a clip ---------------------------------------------------------------------------------------------


def short_side_size(height: int, width: int, *, short_side: int) -> tuple[int, int]:
    """Return the size of a resized frame: the shorter side as given, the longer in proportion, cut off to pixels."""
    if height <= width:
        return short_side, width * short_side // height
    return height * short_side // width, short_side


def uniform_box(height: int, width: int, *, size: int, crop: int) -> Box:
    """Return one of three square boxes spread along the longer side of a frame.

    Args:
        height: of the frame.
        width: of the frame.
        size: side of the box in pixels, at most that of the frame.
        crop: 0 left or top, 1 center, 2 right or bottom.

    Raises:
        ValueError: the frame is smaller than the box, or there is no such crop.

    Source: Wang et al., Non-local Neural Networks, arXiv:1711.07971, sec. 4.1.
    """
    if size > min(height, width) or crop not in (0, 1, 2):
        raise ValueError(
            f"there is no crop {crop} of {size}x{size} pixels in a frame of {height}x{width}"
        )
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        top = (0, top, height - size)[crop]
    else:
        left = (0, left, width - size)[crop]
    return Box(top, left, size, size)


def random_erasures(
    height: int, width: int, *, max_count: int, rng: np.random.Generator
) -> tuple[Box, ...]:
    """Return one to max_count random boxes of a frame, whose areas are divided by their number.

    Source: Zhong et al., Random Erasing Data Augmentation, arXiv:1708.04896.
    """
    count = int(rng.integers(1, max_count, endpoint=True))
    area = (ERASED_AREA[0] * height * width / count, ERASED_AREA[1] * height * width / count)
    largest = (height - 1, width - 1)
    drawn = [
        random_box(height, width, area=area, aspect=ERASED_ASPECT, largest=largest, rng=rng)
        for _ in range(count)
    ]
    return tuple(box for box in drawn if box is not None)


def erase(clip: Tensor, boxes: Sequence[Box], *, mode: str, rng: torch.Generator) -> None:
    """Fill the boxes, the same in all frames, in place.

    Args:
        clip: (C, T, H, W), normalized.
        boxes: of a frame.
        mode: pixel (noise, new for each pixel and frame) | rand (one color per frame) | const (the mean).
        rng: source of the noise.
    """
    for box in boxes:
        rows, columns = box.slices
        erased = clip[:, :, rows, columns]
        if mode == "const":
            erased.zero_()
        else:
            shape = erased.shape if mode == "pixel" else (*erased.shape[:2], 1, 1)
            erased.copy_(torch.randn(shape, generator=rng, device=rng.device))


class Normalize:
    """Turns the frames of a batch into what the model sees, on their device; float32 frames are that already.

    A pixel is then rounded to one of 256 levels before it is normalized, unlike one of float32. Random erasing is the
    same: the boxes are filled after normalization, with noise of the same distribution; on a CPU, the same noise.

    Args:
        mean: per channel, on [0, 1].
        std: per channel, on [0, 1].
        erase_mode: see `erase`.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], erase_mode: str) -> None:
        self.scale = 1 / (255 * torch.tensor(std)).view(-1, 1, 1, 1)
        self.shift = (torch.tensor(mean) / -torch.tensor(std)).view(-1, 1, 1, 1)
        self.erase_mode = erase_mode

    def __call__(self, frames: Tensor, unfilled: Sequence[Unfilled] = ()) -> Tensor:
        """Return (B, C, T, H, W) float32 of frames, and of what is left to erase in them."""
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


# ---- The two recipes -------------------------------------------------------------------------------------------------


class Augmentation(NamedTuple):
    """All that is done to one clip, drawn at random for training."""

    operations: tuple[Operation, ...]  # of RandAugment, on whole frames
    short_side: (
        int | None
    )  # pixels, to which the frame is resized before the box is cut from it; None: not resized
    box: Box  # the part of the frame that becomes the clip, resized to the crop size
    flipped: bool  # left-right
    erased: tuple[Box, ...]  # boxes of the clip
    noise_seed: int  # of what fills them

    def box_in(self, height: int, width: int) -> Box:
        """Return the part of a frame of this size that becomes the clip, to the nearest pixel."""
        if self.short_side is None:
            return self.box
        resized_height, resized_width = short_side_size(height, width, short_side=self.short_side)
        return self.box.scaled(height / resized_height, width / resized_width)


class EvalTransform:
    """Resize the short side, crop, normalize: nothing is drawn.

    Args:
        short_side: pixels.
        crop_size: pixels, side of the square crop.
        mean: per channel, on [0, 1].
        std: per channel, on [0, 1].
    """

    __test__ = False  # not a test case of pytest
    chunk_bytes = 32 << 20

    def __init__(
        self, *, short_side: int, crop_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.short_side = short_side
        self.crop_size = crop_size
        self.mean = mean
        self.std = std

    def draw(
        self, height: int, width: int, *, crop: int, rng: np.random.Generator | None
    ) -> Augmentation:
        """Return the crop of frames of this size; nothing is drawn from the generator."""
        size = short_side_size(height, width, short_side=self.short_side)
        box = uniform_box(*size, size=self.crop_size, crop=crop)
        return Augmentation((), self.short_side, box, flipped=False, erased=(), noise_seed=0)

    def apply(
        self,
        frames: NDArray[np.uint8],
        augmentation: Augmentation,
        *,
        out: Tensor,
        placement: Placement,
    ) -> None:
        """Write the crop of frames (N, H, W, 3) to their places in `out`, (3, T, size, size)."""
        assert augmentation.short_side is not None
        planes = frames.transpose(3, 0, 1, 2)
        size = short_side_size(*planes.shape[2:], short_side=augmentation.short_side)
        resize_into(
            out,
            planes,
            size=size,
            window=augmentation.box,
            mean=self.mean,
            std=self.std,
            placement=placement,
        )

    def erase(self, augmentation: Augmentation, *, out: Tensor) -> None:
        """Do nothing: a test shows all of the crop."""


class TrainTransform:
    """RandAugment, random resized crop (or random crop of a resized frame), flip, normalize, random erasing.

    Args:
        crop_size: pixels, side of the square crop.
        mean: per channel, on [0, 1].
        std: per channel, on [0, 1].
        scale: [min, max] share of the frame's area in a random resized crop; empty: a random crop.
        aspect: [min, max] width / height of a random resized crop.
        short_sides: [min, max] pixels of the short side before a random crop.
        flip: whether half of the clips are flipped left-right.
        rand_augment: None for none.
        erase_probability: share of the clips with random erasing.
        erase_mode: see `erase`.
        erase_count: most boxes erased per clip.
    """

    chunk_bytes = (
        128 << 20
    )  # 20 frames of 1080p: a rotation costs more per frame where frames are few

    def __init__(
        self,
        *,
        crop_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        scale: Sequence[float],
        aspect: Sequence[float],
        short_sides: Sequence[int],
        flip: bool,
        rand_augment: RandAugment | None = None,
        erase_probability: float = 0.0,
        erase_mode: str = "pixel",
        erase_count: int = 1,
    ) -> None:
        self.crop_size = crop_size
        self.mean = mean
        self.std = std
        self.scale = scale
        self.aspect = aspect
        self.short_sides = short_sides
        self.flip = flip
        self.rand_augment = rand_augment
        self.erase_probability = erase_probability
        self.erase_mode = erase_mode
        self.erase_count = erase_count

    def draw(
        self, height: int, width: int, *, crop: int, rng: np.random.Generator | None
    ) -> Augmentation:
        """Return all draws for a clip of frames of this size; the crop of the view is not used."""
        assert rng is not None, "a training request carries a seed"
        size = self.crop_size
        short_side = None
        if self.scale:
            box = random_resized_box(height, width, scale=self.scale, aspect=self.aspect, rng=rng)
        else:
            short_side = round(rng.uniform(self.short_sides[0], self.short_sides[1]))
            resized_height, resized_width = short_side_size(height, width, short_side=short_side)
            top = int(rng.integers(resized_height - size, endpoint=True))
            box = Box(top, int(rng.integers(resized_width - size, endpoint=True)), size, size)
        erases = rng.random() < self.erase_probability
        return Augmentation(
            operations=self.rand_augment.draw(rng) if self.rand_augment is not None else (),
            short_side=short_side,
            box=box,
            flipped=self.flip and rng.random() < 0.5,
            erased=random_erasures(size, size, max_count=self.erase_count, rng=rng)
            if erases
            else (),
            noise_seed=int(rng.integers(2**63)),
        )

    def apply(
        self,
        frames: NDArray[np.uint8],
        augmentation: Augmentation,
        *,
        out: Tensor,
        placement: Placement,
    ) -> None:
        """Write what the draws make of frames (N, H, W, 3) to their places in `out`, (3, T, size, size).

        What they erase is left to `erase`, once all frames of the clip are there.
        """
        operations, short_side, box, flipped, _, _ = augmentation
        region = box if short_side is None else Box(0, 0, *frames.shape[1:3])
        if self.rand_augment is None:
            planes = cut_out(frames.transpose(3, 0, 1, 2), region)
        else:
            used, sources = np.unique(placement.sources, return_inverse=True)
            planes = self.rand_augment.apply(_take(frames, used), operations, box=region)
            placement = placement._replace(sources=sources)
        if short_side is None:
            size, window = (
                (self.crop_size, self.crop_size),
                Box(0, 0, self.crop_size, self.crop_size),
            )
        else:
            size, window = short_side_size(*planes.shape[2:], short_side=short_side), box
        resize_into(
            out,
            planes,
            size=size,
            window=window,
            flipped=flipped,
            mean=self.mean,
            std=self.std,
            placement=placement,
        )

    def erase(self, augmentation: Augmentation, *, out: Tensor) -> None:
        """Fill the drawn boxes of a clip (3, T, size, size) of float32; noise has no place in uint8."""
        if out.is_floating_point():
            rng = torch.Generator().manual_seed(augmentation.noise_seed)
            erase(out, augmentation.erased, mode=self.erase_mode, rng=rng)


def _take(frames: NDArray[np.uint8], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Some of the frames (N, H, W, 3), ascending: a view where these follow each other, as they mostly do."""
    first, last = numbers[0], numbers[-1]
    if last - first == len(numbers) - 1:
        return frames[first : last + 1]
    return frames.transpose(3, 0, 1, 2)[:, numbers].transpose(
        1, 2, 3, 0
    )  # stays channel by channel in memory
