"""Transforms of frames into training clips and test views."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from slowfast.datasets.boxes import Box
from slowfast.datasets.normalization import Float32Clips
from slowfast.datasets.rand_augment import Operation, RandAugment
from slowfast.datasets.resize import Placement
from slowfast.datasets.transforms import Augmentation, EvalTransform, TrainTransform, Transform

NORMALIZED = Float32Clips(mean=[0.45] * 3, std=[0.225] * 3)
PIXEL_VALUES = Float32Clips(mean=[0.0] * 3, std=[1 / 255] * 3, erase_mode="const")
PUBLISHED_POLICY = "rand-m7-n4-mstd0.5-inc1"


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def published_rand_augment() -> RandAugment:
    return RandAugment(PUBLISHED_POLICY, interpolation="bicubic")


def random_frames(*shape: int) -> np.ndarray:
    return rng_of(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def ramp_frames(step: int) -> np.ndarray:
    """A frame of 30x40 whose columns rise by `step`."""
    columns = step * np.arange(40, dtype=np.uint8)
    return np.broadcast_to(columns[None, None, :, None], (1, 30, 40, 3)).copy()


def train_transform(**settings: Any) -> TrainTransform:
    defaults: dict[str, Any] = {
        "crop_size": 16,
        "clip_format": NORMALIZED,
        "scale": [0.08, 1.0],
        "aspect": [0.75, 1.3333],
        "short_sides": [20, 24],
        "flip": False,
    }
    return TrainTransform(**(defaults | settings))


def apply(
    transform: Transform,
    frames: np.ndarray,
    augmentation: Augmentation,
    *,
    chunks: Sequence[Sequence[int]] | None = None,
) -> torch.Tensor:
    """A clip of the frames, written in chunks of these indices, or all at once."""
    out = torch.full((3, len(frames), transform.crop_size, transform.crop_size), torch.nan)
    for chunk in chunks or [range(len(frames))]:
        placement = Placement(sources=np.arange(len(chunk)), targets=np.array(chunk))
        transform.apply(frames[np.array(chunk)], augmentation, out=out, placement=placement)
    transform.erase(augmentation, out=out)
    return out


def draw_clip(
    transform: Transform,
    frames: np.ndarray,
    *,
    crop: int = 1,
    rng: np.random.Generator | None = None,
) -> torch.Tensor:
    """A clip of the frames with the augmentation that the generator draws."""
    augmentation = transform.draw(*frames.shape[1:3], crop=crop, rng=rng)
    return apply(transform, frames, augmentation)


def test_test_views_equal_the_reference(reference: Callable[[str], Any]) -> None:
    for case in reference("spatial_views")["cases"]:
        shape = (2, case["height"], case["width"], 3)
        frames = np.random.RandomState(3).randint(0, 256, shape).astype(np.uint8)
        size = case["crop_size"]
        transform = EvalTransform(short_side=size, crop_size=size, clip_format=NORMALIZED)
        clip = draw_clip(transform, frames, crop=case["spatial_idx"])

        assert list(clip.shape) == case["output_shape"]
        assert clip.mean().item() == pytest.approx(case["mean"], abs=1e-5)
        assert clip.std().item() == pytest.approx(case["std"], abs=1e-5)
        for index, value in case["probe"].items():
            assert clip[tuple(map(int, index.split(",")))].item() == pytest.approx(value, abs=1e-5)


def test_test_views_are_crops_of_one_resized_frame() -> None:
    frames = random_frames(2, 40, 71)
    transform = EvalTransform(short_side=32, crop_size=32, clip_format=NORMALIZED)
    views = {crop: draw_clip(transform, frames, crop=crop) for crop in (2, 0, 1)}
    for crop, view in views.items():
        assert torch.equal(view, draw_clip(transform, frames, crop=crop))

    # The resized frame has 56 columns, and the crops begin at 0, 12 and 24.
    assert torch.equal(views[2][..., 0], views[1][..., 24 - 12])
    assert torch.equal(views[2][..., 0], views[0][..., 24])


def test_the_box_of_a_view_is_in_pixels_of_the_frame() -> None:
    transform = EvalTransform(short_side=32, crop_size=32, clip_format=NORMALIZED)

    # A frame of 64x100 becomes 32x50, and its right crop begins at column 18.
    assert transform.draw(64, 100, crop=2, rng=None).box_in(64, 100) == (0, 36, 64, 64)
    drawn = Augmentation((), 32, Box(0, 18, 16, 16), False, (), 0)
    assert drawn.box_in(64, 100) == (0, 36, 32, 32)
    assert drawn._replace(short_side=None).box_in(64, 100) == (0, 18, 16, 16)


@pytest.mark.parametrize("settings", [{}, {"scale": [], "aspect": []}])
def test_a_training_clip_is_a_function_of_its_seed(settings: dict[str, Any]) -> None:
    transform = train_transform(flip=True, erase_probability=0.5, **settings)
    frames = random_frames(4, 30, 40)
    clips = [draw_clip(transform, frames, rng=rng_of(seed)) for seed in (0, 0, 1)]
    assert clips[0].shape == (3, 4, 16, 16)
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


@pytest.mark.parametrize(("flip", "rate"), [(False, 0), (True, 0.5)])
def test_half_of_the_clips_are_flipped_if_flips_are_on(flip: bool, rate: float) -> None:
    transform, frames = train_transform(flip=flip), ramp_frames(1)
    is_flipped = []
    for seed in range(400):
        row = draw_clip(transform, frames, rng=rng_of(seed))[0, 0, 8]
        is_flipped.append(row[0].item() > row[15].item())
    assert np.mean(is_flipped) == pytest.approx(rate, abs=0.08 if flip else 0)


def test_random_crops_without_area_jitter_have_the_drawn_scale() -> None:
    # The step between columns shows the scale: 30 rows become 20 to 24, and 40 columns 26 to 32.
    transform = train_transform(scale=[], aspect=[], clip_format=PIXEL_VALUES)
    frames = ramp_frames(4)
    steps = set()
    for seed in range(200):
        row = draw_clip(transform, frames, rng=rng_of(seed))[0, 0, 8]
        steps.add(round(row[4:12].diff().mean().item(), 3))
    assert sorted(steps) == [round(4 * 40 / width, 3) for width in (32, 30, 29, 28, 26)]


def test_a_clip_is_the_resized_box_flipped_and_erased() -> None:
    # Cells of 2x2 equal pixels become one pixel each at half the size, in any interpolation.
    cells = rng_of(0).integers(0, 256, (2, 20, 25, 3), dtype=np.uint8)
    frames = cells.repeat(2, axis=1).repeat(2, axis=2)
    transform = train_transform(clip_format=PIXEL_VALUES)
    expected = torch.from_numpy(cells[:, 2:18, 5:21].transpose(3, 0, 1, 2).astype(np.float32))

    plain = Augmentation((), None, Box(4, 10, 32, 32), False, (), 0)
    assert torch.allclose(apply(transform, frames, plain), expected, atol=1e-4)

    flipped = plain._replace(flipped=True)
    assert torch.allclose(apply(transform, frames, flipped), expected.flip(3), atol=1e-4)

    erased = plain._replace(erased=(Box(0, 0, 5, 4),))
    expected[:, :, :5, :4] = 0
    assert torch.allclose(apply(transform, frames, erased), expected, atol=1e-4)


def test_rand_augment_runs_before_the_box_is_cut_out() -> None:
    frames = random_frames(2, 30, 40)
    transform = train_transform(rand_augment=published_rand_augment())
    translate, invert = Operation("TranslateXRel", 0.25), Operation("Invert")
    moved = Augmentation((translate, invert), None, Box(2, 5, 20, 20), False, (), 0)

    # A quarter of 40 columns.
    unmoved = moved._replace(operations=(invert,), box=Box(2, 15, 20, 20))
    assert torch.equal(apply(transform, frames, moved), apply(transform, frames, unmoved))


def test_copies_of_a_clip_are_augmented_independently() -> None:
    transform = train_transform(
        flip=True, erase_probability=0.25, rand_augment=published_rand_augment()
    )
    frames, rng = random_frames(2, 30, 40), rng_of(0)
    for _ in range(20):
        drawn = [transform.draw(30, 40, crop=1, rng=rng) for _ in range(2)]
        first, second = (apply(transform, frames, augmentation) for augmentation in drawn)
        assert not torch.equal(first, second)


def test_draws_have_the_published_rates() -> None:
    transform = train_transform(
        crop_size=224, flip=True, erase_probability=0.25, rand_augment=published_rand_augment()
    )
    rng = rng_of(0)
    drawn = [transform.draw(256, 340, crop=1, rng=rng) for _ in range(4000)]
    assert np.mean([one.flipped for one in drawn]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([len(one.erased) for one in drawn]) == pytest.approx(0.25, abs=0.03)
    assert np.mean([len(one.operations) for one in drawn]) == pytest.approx(4 * 0.5, abs=0.06)
    assert len({one.noise_seed for one in drawn}) == 4000

    # The draws are independent of each other.
    flips = np.array([one.flipped for one in drawn], float)
    areas = np.array([one.box.height * one.box.width for one in drawn], float)
    assert abs(np.corrcoef(flips, areas)[0, 1]) < 0.06


def test_a_clip_does_not_depend_on_its_chunks() -> None:
    transform = train_transform(
        flip=True, erase_probability=1.0, rand_augment=published_rand_augment()
    )
    frames = random_frames(5, 30, 40)
    names = set()
    for seed in range(25):
        drawn = transform.draw(30, 40, crop=1, rng=rng_of(seed))
        names |= {operation.name for operation in drawn.operations}
        whole = apply(transform, frames, drawn)
        for chunks in ([[0, 1], [2, 3, 4]], [[0], [1], [2], [3], [4]]):
            assert torch.equal(apply(transform, frames, drawn, chunks=chunks), whole)
    assert len(names) == 15  # all operations of the policy


def test_a_frame_that_a_clip_repeats_is_augmented_once() -> None:
    transform = train_transform(rand_augment=published_rand_augment())
    frames = random_frames(4, 30, 40)
    drawn = Augmentation((Operation("Rotate", 9.0),), None, Box(2, 5, 20, 20), False, (), 0)

    out = torch.empty(3, 5, 16, 16)
    placement = Placement(sources=np.array([1, 3, 3, 1, 1]), targets=np.arange(5))
    transform.apply(frames, drawn, out=out, placement=placement)
    assert torch.equal(out, apply(transform, frames, drawn)[:, [1, 3, 3, 1, 1]])
