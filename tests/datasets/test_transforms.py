from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from slowfast.datasets.boxes import Box, random_resized_box
from slowfast.datasets.rand_augment import Operation, RandAugment
from slowfast.datasets.resize import Placement
from slowfast.datasets.transforms import (
    Augmentation,
    EvalTransform,
    TrainTransform,
    erase,
    random_erasures,
    short_side_size,
    uniform_box,
)

MEAN, STD = [0.45] * 3, [0.225] * 3
PUBLISHED_POLICY = "rand-m7-n4-mstd0.5-inc1"


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def random_frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def clips_of(
    transform: EvalTransform | TrainTransform,
    frames: np.ndarray,
    *,
    crops: Sequence[int],
    rng: np.random.Generator | None,
) -> torch.Tensor:
    drawn = [transform.draw(*frames.shape[1:3], crop=crop, rng=rng) for crop in crops]
    return torch.stack([apply(transform, frames, augmentation) for augmentation in drawn])


def apply(
    transform: EvalTransform | TrainTransform,
    frames: np.ndarray,
    augmentation: Augmentation,
    *,
    chunks: Sequence[Sequence[int]] | None = None,
) -> torch.Tensor:
    """A clip of the frames, written in chunks of these numbers; else all at once."""
    out = torch.full((3, len(frames), transform.crop_size, transform.crop_size), torch.nan)
    for chunk in chunks or [range(len(frames))]:
        placement = Placement(sources=np.arange(len(chunk)), targets=np.array(chunk))
        transform.apply(frames[np.array(chunk)], augmentation, out=out, placement=placement)
    transform.erase(augmentation, out=out)
    return out


def test_test_views_equal_the_reference(reference: Callable[[str], Any]) -> None:
    for case in reference("spatial_views")["cases"]:
        frames = (
            np.random.RandomState(3)
            .randint(0, 256, (2, case["height"], case["width"], 3))
            .astype(np.uint8)
        )
        size = case["crop_size"]
        view = EvalTransform(short_side=size, crop_size=size, mean=MEAN, std=STD)
        clip = clips_of(view, frames, crops=[case["spatial_idx"]], rng=None)[0]
        assert list(clip.shape) == case["output_shape"]
        assert clip.mean().item() == pytest.approx(case["mean"], abs=1e-5)
        assert clip.std().item() == pytest.approx(case["std"], abs=1e-5)
        for place, value in case["probe"].items():
            assert clip[tuple(map(int, place.split(",")))].item() == pytest.approx(value, abs=1e-5)


def test_test_views_are_parts_of_one_resized_frame() -> None:
    frames = random_frames(2, 40, 71)
    view = EvalTransform(short_side=32, crop_size=32, mean=MEAN, std=STD)
    together = clips_of(view, frames, crops=[2, 0, 1], rng=None)
    for clip, crop in zip(together, [2, 0, 1], strict=True):
        assert torch.equal(clip, clips_of(view, frames, crops=[crop], rng=None)[0])
    assert torch.equal(
        together[0][..., 0], together[2][..., 56 - 32 - 12]
    )  # 56 columns; crops begin at 24, 0, 12


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [(240, 320, (112, 149)), (320, 240, (149, 112)), (9, 9, (112, 112))],
)
def test_the_long_side_is_cut_off_to_whole_pixels(
    height: int, width: int, shape: tuple[int, int]
) -> None:
    assert short_side_size(height, width, short_side=112) == shape


def test_crops_lie_left_centre_right_or_top_centre_bottom() -> None:
    assert [uniform_box(4, 7, size=4, crop=crop) for crop in range(3)] == [
        (0, 0, 4, 4),
        (0, 2, 4, 4),
        (0, 3, 4, 4),
    ]
    assert [uniform_box(7, 4, size=4, crop=crop) for crop in range(3)] == [
        (0, 0, 4, 4),
        (2, 0, 4, 4),
        (3, 0, 4, 4),
    ]


def test_the_box_of_a_view_is_told_in_pixels_of_the_frame() -> None:
    view = EvalTransform(short_side=32, crop_size=32, mean=MEAN, std=STD)
    # A frame of 64x100 becomes 32x50; its right crop begins at column 18 of these.
    assert view.draw(64, 100, crop=2, rng=None).box_in(64, 100) == (0, 36, 64, 64)
    drawn = Augmentation((), 32, Box(0, 18, 16, 16), False, (), 0)
    assert drawn.box_in(64, 100) == (0, 36, 32, 32)
    assert drawn._replace(short_side=None).box_in(64, 100) == (0, 18, 16, 16)


@pytest.mark.parametrize(("size", "crop"), [(5, 0), (4, 3)])
def test_a_crop_that_is_not_there_is_refused(size: int, crop: int) -> None:
    with pytest.raises(
        ValueError, match=f"there is no crop {crop} of {size}x{size} pixels in a frame of 4x7"
    ):
        uniform_box(4, 7, size=size, crop=crop)


def test_random_boxes_have_the_published_areas_and_aspects() -> None:
    boxes = [
        random_resized_box(
            256, 340, scale=(0.08, 1.0), aspect=(0.75, 1.3333), rng=np.random.default_rng(seed)
        )
        for seed in range(4000)
    ]
    assert all(box.top + box.height <= 256 and box.left + box.width <= 340 for box in boxes)
    # Areas that a box of any of the aspects fits are drawn uniformly: up to 256 * 256 / 1.3333 of the frame.
    areas = np.array([box.height * box.width / (256 * 340) for box in boxes])
    within = np.sort(areas[areas < 0.55])
    expected = 0.08 + (0.55 - 0.08) * (np.arange(len(within)) + 0.5) / len(within)
    assert np.abs(within - expected).max() < 0.02  # Kolmogorov-Smirnov distance
    small = [box for box in boxes if box.height * box.width < 0.5 * 256 * 340]
    logs = np.log([box.width / box.height for box in small])
    assert abs(logs.mean()) < 0.02
    assert logs.std() == pytest.approx(2 * np.log(1.3333) / np.sqrt(12), rel=0.05)


def test_a_frame_too_long_for_any_box_gives_its_center() -> None:
    box = random_resized_box(
        10, 1000, scale=(1.0, 1.0), aspect=(0.75, 1.25), rng=np.random.default_rng(0)
    )
    assert box == (0, 494, 10, 12)


def test_erased_boxes_have_the_published_areas_and_aspects() -> None:
    boxes = [
        box
        for seed in range(3000)
        for box in random_erasures(224, 224, max_count=1, rng=rng_of(seed))
    ]
    assert len(boxes) > 2990
    assert all(
        0 <= box.top <= 224 - box.height and 0 <= box.left <= 224 - box.width for box in boxes
    )
    shares = np.sort([box.height * box.width / 224**2 for box in boxes])
    expected = 0.02 + (1 / 3 - 0.02) * (np.arange(len(shares)) + 0.5) / len(shares)
    assert np.abs(shares - expected).mean() < 0.006
    logs = np.log(
        [box.width / box.height for box in boxes if box.height * box.width < 0.25 * 224**2]
    )
    assert abs(logs.mean()) < 0.05
    assert logs.std() == pytest.approx(2 * np.log(1 / 0.3) / np.sqrt(12), rel=0.05)
    slack = np.array([box.top / (224 - box.height) for box in boxes])
    assert np.histogram(slack, bins=4, range=(0, 1))[0] / len(boxes) == pytest.approx(
        [0.25] * 4, abs=0.04
    )


def test_several_erased_boxes_share_the_area() -> None:
    drawn = [random_erasures(100, 100, max_count=3, rng=rng_of(seed)) for seed in range(900)]
    assert [
        sum(len(boxes) == count for boxes in drawn) / 900 for count in (1, 2, 3)
    ] == pytest.approx([1 / 3] * 3, abs=0.06)
    for boxes in drawn:
        assert all(box.height * box.width <= 1e4 / 3 / len(boxes) * 1.05 for box in boxes)


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_the_same_boxes_are_erased_in_all_frames(mode: str) -> None:
    boxes = (Box(3, 5, 10, 20), Box(30, 50, 4, 6))
    clip = torch.full((3, 4, 40, 60), 9.0)
    erase(clip, boxes, mode=mode, rng=torch.Generator().manual_seed(1))
    changed = (clip != 9).all(dim=0)  # (T, H, W)
    expected = torch.zeros(40, 60, dtype=torch.bool)
    expected[3:13, 5:25] = expected[30:34, 50:56] = True
    assert torch.equal(changed, expected.expand_as(changed))
    distinct = {"pixel": 3 * 4 * 10 * 20, "rand": 3 * 4, "const": 1}[mode]
    assert len(clip[:, :, 3:13, 5:25].unique()) == pytest.approx(distinct, rel=0.01)


def test_erased_pixels_are_noise_of_the_normalized_range() -> None:
    clip = torch.full((3, 8, 64, 64), 99.0)
    erase(clip, [Box(0, 0, 64, 32)], mode="pixel", rng=torch.Generator().manual_seed(1))
    values = clip[..., :32]
    assert abs(values.mean().item()) < 0.05
    assert values.std().item() == pytest.approx(1, abs=0.05)


def train_transform(**settings: Any) -> TrainTransform:
    defaults: dict[str, Any] = {
        "crop_size": 16,
        "mean": MEAN,
        "std": STD,
        "scale": [0.08, 1.0],
        "aspect": [0.75, 1.3333],
        "short_sides": [20, 24],
        "flip": False,
    }
    return TrainTransform(**(defaults | settings))


@pytest.mark.parametrize("settings", [{}, {"scale": [], "aspect": []}])
def test_a_training_clip_is_a_function_of_its_seed(settings: dict[str, Any]) -> None:
    transform = train_transform(flip=True, erase_probability=0.5, **settings)
    frames = random_frames(4, 30, 40)
    clips = [
        clips_of(transform, frames, crops=[1], rng=np.random.default_rng(seed))[0]
        for seed in (0, 0, 1)
    ]
    assert clips[0].shape == (3, 4, 16, 16)
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_half_of_the_clips_are_flipped_and_none_where_flips_are_off() -> None:
    frames = np.broadcast_to(
        np.arange(40, dtype=np.uint8)[None, None, :, None], (1, 30, 40, 3)
    ).copy()

    def flipped_share(flip: bool) -> float:
        transform = train_transform(flip=flip)
        clips = [
            clips_of(transform, frames, crops=[1], rng=np.random.default_rng(seed))[0]
            for seed in range(400)
        ]
        return float(
            np.mean([clip[0, 0, 8, 0].item() > clip[0, 0, 8, 15].item() for clip in clips])
        )

    assert flipped_share(False) == 0
    assert flipped_share(True) == pytest.approx(0.5, abs=0.08)


def test_random_crops_without_area_jitter_show_the_frame_at_the_drawn_scale() -> None:
    # The step from one column to the next tells the scale: 30 rows become 20 to 24, 40 columns 26 to 32.
    frames = np.broadcast_to(
        (4 * np.arange(40, dtype=np.uint8))[None, None, :, None], (1, 30, 40, 3)
    ).copy()
    transform = train_transform(scale=[], aspect=[], mean=[0.0] * 3, std=[1 / 255] * 3)
    steps = [
        clips_of(transform, frames, crops=[1], rng=np.random.default_rng(seed))[0][0, 0, 8, 4:12]
        .diff()
        .mean()
        .item()
        for seed in range(200)
    ]
    assert sorted({round(step, 3) for step in steps}) == [
        round(4 * 40 / width, 3) for width in (32, 30, 29, 28, 26)
    ]


def test_a_clip_is_the_resized_box_flipped_and_erased() -> None:
    # Rows and columns of 2x2 equal pixels: halved in size, each becomes one pixel, whatever the interpolation.
    cells = np.random.default_rng(0).integers(0, 256, (2, 20, 25, 3), dtype=np.uint8)
    frames = cells.repeat(2, axis=1).repeat(2, axis=2)
    transform = train_transform(mean=[0.0] * 3, std=[1 / 255] * 3, erase_mode="const")
    drawn = Augmentation((), None, Box(4, 10, 32, 32), False, (Box(0, 0, 5, 4),), 0)
    expected = torch.from_numpy(cells[:, 2:18, 5:21].transpose(3, 0, 1, 2).astype(np.float32))
    plain = apply(transform, frames, drawn._replace(erased=()))
    assert torch.allclose(plain, expected, atol=1e-4)
    assert torch.allclose(
        apply(transform, frames, drawn._replace(erased=(), flipped=True)),
        expected.flip(3),
        atol=1e-4,
    )
    expected[:, :, :5, :4] = 0
    assert torch.allclose(apply(transform, frames, drawn), expected, atol=1e-4)


def test_the_operations_of_rand_augment_are_done_before_the_box_is_cut_out() -> None:
    frames = random_frames(2, 30, 40)
    transform = train_transform(rand_augment=RandAugment(PUBLISHED_POLICY, interpolation="bicubic"))
    moved = Augmentation(
        (Operation("TranslateXRel", 0.25), Operation("Invert")),
        None,
        Box(2, 5, 20, 20),
        False,
        (),
        0,
    )
    unmoved = moved._replace(
        operations=(Operation("Invert"),), box=Box(2, 15, 20, 20)
    )  # a quarter of 40 columns
    assert torch.equal(apply(transform, frames, moved), apply(transform, frames, unmoved))


def test_copies_of_a_clip_are_augmented_independently() -> None:
    transform = train_transform(
        flip=True,
        erase_probability=0.25,
        rand_augment=RandAugment(PUBLISHED_POLICY, interpolation="bicubic"),
    )
    frames, rng = random_frames(2, 30, 40), rng_of(0)
    pairs = [clips_of(transform, frames, crops=[1, 1], rng=rng) for _ in range(20)]
    assert not any(torch.equal(first, second) for first, second in pairs)


def test_draws_have_the_published_rates() -> None:
    transform = train_transform(
        crop_size=224,
        flip=True,
        erase_probability=0.25,
        rand_augment=RandAugment(PUBLISHED_POLICY, interpolation="bicubic"),
    )
    rng = rng_of(0)
    drawn = [transform.draw(256, 340, crop=1, rng=rng) for _ in range(4000)]
    assert np.mean([one.flipped for one in drawn]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([len(one.erased) for one in drawn]) == pytest.approx(0.25, abs=0.03)
    assert np.mean([len(one.operations) for one in drawn]) == pytest.approx(4 * 0.5, abs=0.06)
    assert len({one.noise_seed for one in drawn}) == 4000
    # What is drawn for one part says nothing about another one.
    flips = np.array([one.flipped for one in drawn], float)
    areas = np.array([one.box.height * one.box.width for one in drawn], float)
    assert abs(np.corrcoef(flips, areas)[0, 1]) < 0.06


def test_a_clip_is_the_same_in_whatever_chunks_it_comes() -> None:
    augment = RandAugment(PUBLISHED_POLICY, interpolation="bicubic")
    transform = train_transform(flip=True, erase_probability=1.0, rand_augment=augment)
    frames = random_frames(5, 30, 40)
    names = set()
    for seed in range(25):
        drawn = transform.draw(30, 40, crop=1, rng=rng_of(seed))
        names |= {operation.name for operation in drawn.operations}
        for chunks in ([[0, 1], [2, 3, 4]], [[0], [1], [2], [3], [4]]):
            parts = apply(transform, frames, drawn, chunks=chunks)
            assert torch.equal(parts, apply(transform, frames, drawn))
    assert len(names) == 15  # all operations of the policy


def test_a_frame_that_a_clip_repeats_is_augmented_once() -> None:
    augment = RandAugment(PUBLISHED_POLICY, interpolation="bicubic")
    transform = train_transform(rand_augment=augment)
    frames = random_frames(4, 30, 40)
    drawn = Augmentation((Operation("Rotate", 9.0),), None, Box(2, 5, 20, 20), False, (), 0)
    out = torch.empty(3, 5, 16, 16)
    placement = Placement(sources=np.array([1, 3, 3, 1, 1]), targets=np.arange(5))
    transform.apply(frames, drawn, out=out, placement=placement)
    assert torch.equal(out, apply(transform, frames, drawn)[:, [1, 3, 3, 1, 1]])
