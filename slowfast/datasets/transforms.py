"""From decoded frames to the clip that the model sees: functions on a clip, and the two recipes made of them.

Whatever is drawn is drawn once per clip, from the generator that is passed in, and applied to all of its frames.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

ERASED_AREA = (0.02, 1 / 3)  # share of the frame
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width
NUM_BOX_DRAWS = 10  # draws of a box that must fit the frame

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class Box(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int


# ---- Functions on a clip ---------------------------------------------------------------------------------------------


def normalise(frames: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (C, T, H, W) float32 of zero mean and unit deviation from (T, H, W, C) uint8; mean and std on [0, 1]."""
    scale = torch.tensor([1 / (255 * deviation) for deviation in std])
    shift = torch.tensor([-centre / deviation for centre, deviation in zip(mean, std, strict=True)])
    return torch.addcmul(shift, frames.float(), scale).permute(3, 0, 1, 2)  # (T, H, W, C) -> (C, T, H, W)


def resize(clip: Tensor, height: int, width: int) -> Tensor:
    """Return (C, T, height, width) of (C, T, H, W): bilinear, without antialiasing, as the published models saw it."""
    if clip.shape[2:] == (height, width):
        return clip
    frames = clip.transpose(0, 1)  # (C, T, H, W) -> (T, C, H, W)
    resized = F.interpolate(frames, size=(height, width), mode="bilinear", align_corners=False)
    return resized.transpose(0, 1)


def resize_short_side(clip: Tensor, short_side: int) -> Tensor:
    """Return (C, T, H', W') of (C, T, H, W): the shorter side as given in pixels, the longer in proportion, cut off."""
    height, width = clip.shape[2:]
    if height <= width:
        return resize(clip, short_side, width * short_side // height)
    return resize(clip, height * short_side // width, short_side)


def uniform_crop(clip: Tensor, size: int, crop: int) -> Tensor:
    """Return one of three square crops spread along the longer side.

    Args:
        clip: (C, T, H, W).
        size: side of the crop in pixels, at most min(H, W).
        crop: 0 left or top, 1 centre, 2 right or bottom.

    Returns:
        (C, T, size, size), a view of `clip`.

    Raises:
        ValueError: the frame is smaller than the crop, or there is no such crop.

    Source: Wang et al., Non-local Neural Networks, arXiv:1711.07971, sec. 4.1.
    """
    height, width = clip.shape[2:]
    if size > min(height, width) or crop not in (0, 1, 2):
        raise ValueError(f"there is no crop {crop} of {size}x{size} pixels in a frame of {height}x{width}")
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        top = (0, top, height - size)[crop]
    else:
        left = (0, left, width - size)[crop]
    return clip[:, :, top : top + size, left : left + size]


def random_resized_box(
    height: int, width: int, *, scale: Sequence[float], aspect: Sequence[float], rng: np.random.Generator
) -> Box:
    """Return a random box of a frame: its share of the area uniform, its aspect uniform in the logarithm.

    Args:
        height: of the frame.
        width: of the frame.
        scale: [min, max] share of the frame's area.
        aspect: [min, max] width / height of the box.
        rng: source of the draws.

    Returns:
        a box inside the frame; the largest central one within `aspect` if no draw fits.

    Source: Szegedy et al., Going Deeper with Convolutions, arXiv:1409.4842, sec. 6.
    """
    for _ in range(NUM_BOX_DRAWS):
        area = rng.uniform(scale[0], scale[1]) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height, endpoint=True))
            left = int(rng.integers(width - box_width, endpoint=True))
            return Box(top, left, box_height, box_width)
    box_width = min(width, round(height * aspect[1]))
    box_height = min(height, round(width / aspect[0]))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def erase(clip: Tensor, *, mode: str, max_count: int, rng: np.random.Generator) -> Tensor:
    """Fill one to max_count random boxes, the same in all frames, in place.

    Args:
        clip: (C, T, H, W), normalised.
        mode: pixel (noise, new for each pixel and frame) | rand (one colour per frame) | const (the mean).
        max_count: most boxes; the area of each is divided by their number.
        rng: source of the draws.

    Returns:
        `clip`.

    Source: Zhong et al., Random Erasing Data Augmentation, arXiv:1708.04896.
    """
    C, T, H, W = clip.shape
    count = int(rng.integers(1, max_count, endpoint=True))
    for _ in range(count):
        for _ in range(NUM_BOX_DRAWS):
            area = rng.uniform(*ERASED_AREA) * H * W / count
            ratio = math.exp(rng.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < H and w < W:
                top, left = int(rng.integers(H - h, endpoint=True)), int(rng.integers(W - w, endpoint=True))
                shape = {"pixel": (C, T, h, w), "rand": (C, T, 1, 1), "const": (C, T, 0, 0)}[mode]
                noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
                clip[:, :, top : top + h, left : left + w] = noise if noise.numel() else 0.0
                break
    return clip


class RandAugment:
    """RandAugment on uint8 frames, by timm's policies and operations.

    Args:
        policy: in timm's notation, as rand-m7-n4-mstd0.5-inc1: magnitude 7, 4 operations, ...
        interpolation: of rotations, shears and shifts: a key of INTERPOLATIONS.

    Raises:
        ValueError: timm does not understand the policy.

    Source: Cubuk et al., RandAugment, arXiv:1909.13719.
    """

    def __init__(self, policy: str, *, interpolation: str) -> None:
        try:
            self._policy = rand_augment_transform(policy, {"interpolation": INTERPOLATIONS[interpolation]})
        except (AssertionError, ValueError, TypeError) as error:
            raise ValueError(f"{policy!r} is not a RandAugment policy such as rand-m7-n4-mstd0.5-inc1") from error

    def __call__(self, frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the augmented frames, (T, H, W, 3) as given."""
        policy = self._policy
        chosen = rng.choice(
            len(policy.ops), policy.num_layers, replace=policy.choice_weights is None, p=policy.choice_weights
        )
        images = [Image.fromarray(frame) for frame in frames]
        for number in chosen:
            seed = int(rng.integers(2**32))
            images = [_replay(policy.ops[number], image, seed=seed) for image in images]
        return np.stack([np.asarray(image) for image in images])


def _replay(operation: object, image: Image.Image, *, seed: int) -> Image.Image:
    """Apply a timm operation, which draws from Python's global generator, with draws that depend on the seed alone."""
    state = random.getstate()
    random.seed(seed)
    try:
        return operation(image)  # type: ignore[operator]
    finally:
        random.setstate(state)


# ---- The two recipes -------------------------------------------------------------------------------------------------


class TestTransform:
    """Resize the short side, crop, normalise: nothing is drawn.

    Args:
        short_side: pixels.
        crop_size: pixels, side of the square crop.
        mean: per channel, on [0, 1].
        std: per channel, on [0, 1].
    """

    __test__ = False  # not a test case of pytest

    def __init__(self, *, short_side: int, crop_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.short_side = short_side
        self.crop_size = crop_size
        self.mean = mean
        self.std = std

    def __call__(
        self, frames: NDArray[np.uint8], *, crops: Sequence[int], rng: np.random.Generator | None
    ) -> list[Tensor]:
        """Return crops of frames (T, H, W, 3), each (3, T, crop_size, crop_size) float32."""
        clip = normalise(torch.from_numpy(frames), mean=self.mean, std=self.std)
        resized = resize_short_side(clip, self.short_side)
        return [uniform_crop(resized, self.crop_size, crop) for crop in crops]


class TrainTransform:
    """RandAugment, random resized crop (or random crop of a resized frame), flip, normalise, random erasing.

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
        erase_count: see `erase`.
    """

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

    def __call__(
        self, frames: NDArray[np.uint8], *, crops: Sequence[int], rng: np.random.Generator | None
    ) -> list[Tensor]:
        """Return a random clip (3, T, crop_size, crop_size), float32, of frames (T, H, W, 3) for each of `crops`."""
        assert rng is not None, "a training request carries a seed"
        return [self._random_clip(frames, rng) for _ in crops]

    def _random_clip(self, frames: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
        if self.rand_augment is not None:
            frames = self.rand_augment(frames, rng)
        clip = self._random_crop(torch.from_numpy(frames), rng)
        if self.flip and rng.random() < 0.5:
            clip = clip.flip(3)
        if rng.random() < self.erase_probability:
            clip = erase(clip.contiguous(), mode=self.erase_mode, max_count=self.erase_count, rng=rng)
        return clip

    def _random_crop(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """A normalised random crop; what is cut away is never converted to float where the crop comes first."""
        size = self.crop_size
        if self.scale:
            _, height, width, _ = frames.shape
            box = random_resized_box(height, width, scale=self.scale, aspect=self.aspect, rng=rng)
            frames = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
            return resize(normalise(frames, mean=self.mean, std=self.std), size, size)
        short_side = round(rng.uniform(self.short_sides[0], self.short_sides[1]))
        clip = resize_short_side(normalise(frames, mean=self.mean, std=self.std), short_side)
        top = int(rng.integers(clip.shape[2] - size, endpoint=True))
        left = int(rng.integers(clip.shape[3] - size, endpoint=True))
        return clip[:, :, top : top + size, left : left + size]
