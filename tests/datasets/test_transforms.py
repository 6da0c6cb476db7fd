import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from slowfast.datasets.transforms import (
    RandAugment,
    TestTransform,
    TrainTransform,
    erase,
    normalise,
    random_resized_box,
    resize_short_side,
    uniform_crop,
)

MEAN, STD = [0.45] * 3, [0.225] * 3
PUBLISHED_POLICY = "rand-m7-n4-mstd0.5-inc1"


def random_frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_test_views_equal_the_reference(reference: Callable[[str], Any]) -> None:
    for case in reference("spatial_views")["cases"]:
        frames = np.random.RandomState(3).randint(0, 256, (2, case["height"], case["width"], 3)).astype(np.uint8)
        size = case["crop_size"]
        view = TestTransform(short_side=size, crop_size=size, mean=MEAN, std=STD)
        clip = view(frames, crops=[case["spatial_idx"]], rng=None)[0]
        assert list(clip.shape) == case["output_shape"]
        assert clip.mean().item() == pytest.approx(case["mean"], abs=1e-5)
        assert clip.std().item() == pytest.approx(case["std"], abs=1e-5)
        for place, value in case["probe"].items():
            assert clip[tuple(map(int, place.split(",")))].item() == pytest.approx(value, abs=1e-5)


def test_normalise_by_hand() -> None:
    frames = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    clip = normalise(frames, mean=[0.5, 0.2, 0.0], std=[0.5, 0.1, 0.25])
    assert clip.flatten().tolist() == pytest.approx([-1.0, 0.0, 4.0], abs=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(240, 320, (112, 149)), (320, 240, (149, 112)), (9, 9, (112, 112))]
)
def test_the_long_side_is_cut_off_to_whole_pixels(height: int, width: int, shape: tuple[int, int]) -> None:
    assert resize_short_side(torch.zeros(3, 1, height, width), 112).shape[2:] == shape


def test_crops_lie_left_centre_right_or_top_centre_bottom() -> None:
    wide = torch.arange(7.0).expand(1, 1, 4, 7)
    assert [uniform_crop(wide, 4, crop)[0, 0, 0, 0].item() for crop in range(3)] == [0, 2, 3]
    assert [uniform_crop(wide.transpose(2, 3), 4, crop)[0, 0, 0, 0].item() for crop in range(3)] == [0, 2, 3]


@pytest.mark.parametrize(("size", "crop"), [(5, 0), (4, 3)])
def test_a_crop_that_is_not_there_is_refused(size: int, crop: int) -> None:
    with pytest.raises(ValueError, match=f"there is no crop {crop} of {size}x{size} pixels in a frame of 4x7"):
        uniform_crop(torch.zeros(1, 1, 4, 7), size, crop)


def test_random_boxes_have_the_published_areas_and_aspects() -> None:
    boxes = [
        random_resized_box(256, 340, scale=(0.08, 1.0), aspect=(0.75, 1.3333), rng=np.random.default_rng(seed))
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


def test_a_frame_too_long_for_any_box_gives_its_centre() -> None:
    box = random_resized_box(10, 1000, scale=(1.0, 1.0), aspect=(0.75, 1.25), rng=np.random.default_rng(0))
    assert box == (0, 494, 10, 12)


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_the_same_box_is_erased_in_all_frames(mode: str) -> None:
    shares, boxes = [], set()
    for seed in range(300):
        clip = erase(torch.full((3, 4, 40, 60), 9.0), mode=mode, max_count=1, rng=np.random.default_rng(seed))
        changed = (clip != 9).all(dim=0)  # (T, H, W)
        assert torch.equal(changed, changed[:1].expand_as(changed))
        shares.append(changed[0].float().mean().item())
        boxes.add(tuple(changed[0].nonzero()[0].tolist()))
    assert min(shares) > 0.01
    assert max(shares) < 0.36
    assert np.mean(shares) == pytest.approx((0.02 + 1 / 3) / 2, rel=0.12)
    assert len(boxes) > 100


def test_erased_pixels_are_noise_of_the_normalised_range() -> None:
    clip = torch.full((3, 8, 64, 64), 99.0)
    values = erase(clip, mode="pixel", max_count=1, rng=np.random.default_rng(1))
    values = values[values != 99]
    assert abs(values.mean().item()) < 0.05
    assert values.std().item() == pytest.approx(1, abs=0.05)


def test_rand_augment_treats_all_frames_alike() -> None:
    frames = np.repeat(random_frames(1, 48, 64), 4, axis=0)
    for seed in range(20):
        out = RandAugment(PUBLISHED_POLICY, interpolation="bicubic")(frames, np.random.default_rng(seed))
        assert out.shape == frames.shape
        assert (out == out[:1]).all()


def test_rand_augment_is_a_function_of_its_generator_and_leaves_the_global_one_alone() -> None:
    augment, frames = RandAugment(PUBLISHED_POLICY, interpolation="bicubic"), random_frames(2, 48, 64)
    random.seed(3)
    expected_next = random.random()
    random.seed(3)
    first = augment(frames, np.random.default_rng(5))
    assert random.random() == expected_next
    assert np.array_equal(augment(frames, np.random.default_rng(5)), first)


def test_rand_augment_changes_images_as_timm_does() -> None:
    # Same distribution of the size of the change, operation by operation being timm's own.
    image = random_frames(32, 40, seed=1)
    hparams = {"interpolation": Image.Resampling.BICUBIC}
    theirs = rand_augment_transform(PUBLISHED_POLICY, hparams)
    random.seed(0)
    np.random.seed(0)
    expected = [np.asarray(theirs(Image.fromarray(image))).mean() for _ in range(1500)]
    ours = RandAugment(PUBLISHED_POLICY, interpolation="bicubic")
    actual = [ours(image[None], np.random.default_rng(seed)).mean() for seed in range(1500)]
    assert np.mean(actual) == pytest.approx(np.mean(expected), abs=4)
    assert np.std(actual) == pytest.approx(np.std(expected), rel=0.1)


@pytest.mark.parametrize("policy", ["random", "rand-x9", "m7-n4"])
def test_a_policy_that_timm_does_not_know_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match=f"'{policy}' is not a RandAugment policy"):
        RandAugment(policy, interpolation="bicubic")


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
    clips = [transform(frames, crops=[1], rng=np.random.default_rng(seed))[0] for seed in (0, 0, 1)]
    assert clips[0].shape == (3, 4, 16, 16)
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_half_of_the_clips_are_flipped_and_none_where_flips_are_off() -> None:
    frames = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, None, :, None], (1, 30, 40, 3)).copy()

    def flipped_share(flip: bool) -> float:
        transform = train_transform(flip=flip)
        clips = [transform(frames, crops=[1], rng=np.random.default_rng(seed))[0] for seed in range(400)]
        return float(np.mean([clip[0, 0, 8, 0].item() > clip[0, 0, 8, 15].item() for clip in clips]))

    assert flipped_share(False) == 0
    assert flipped_share(True) == pytest.approx(0.5, abs=0.08)


def test_random_crops_without_area_jitter_show_the_frame_at_the_drawn_scale() -> None:
    # The step from one column to the next tells the scale: 30 rows become 20 to 24, 40 columns 26 to 32.
    frames = np.broadcast_to((4 * np.arange(40, dtype=np.uint8))[None, None, :, None], (1, 30, 40, 3)).copy()
    transform = train_transform(scale=[], aspect=[], mean=[0.0] * 3, std=[1 / 255] * 3)
    steps = [
        transform(frames, crops=[1], rng=np.random.default_rng(seed))[0][0, 0, 8, 4:12].diff().mean().item()
        for seed in range(200)
    ]
    assert sorted({round(step, 3) for step in steps}) == [round(4 * 40 / width, 3) for width in (32, 30, 29, 28, 26)]
