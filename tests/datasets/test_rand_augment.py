"""RandAugment on clips against timm's draws and Pillow's results."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP, rand_augment_transform

from slowfast.datasets.boxes import Box
from slowfast.datasets.rand_augment import Operation, RandAugment

PUBLISHED_POLICY = "rand-m7-n4-mstd0.5-inc1"
HEIGHT, WIDTH = 150, 190  # more than one tile each way
WHOLE = Box(0, 0, HEIGHT, WIDTH)
REGIONS = (Box(37, 61, 60, 70), Box(0, 100, 150, 90), Box(149, 0, 1, 1))
PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def operations(name: str, *arguments: float) -> list[Operation]:
    """The operation with each of some arguments."""
    return [Operation(name, argument) for argument in arguments]


FACTORS = (0.1, 0.37, 1.0, 1.63, 1.9)
COLORS = [
    Operation("Invert"),
    Operation("AutoContrast"),
    Operation("Equalize"),
    *operations("Posterize", 1, 3, 4, 8),
    *operations("Solarize", 0, 77, 256),
    *operations("SolarizeAdd", 0, 77, 110),
    *operations("Brightness", *FACTORS),
    *operations("Contrast", *FACTORS),
    *operations("Color", *FACTORS),
    *operations("Sharpness", *FACTORS),
    *operations("Desaturate", 0.5, 0.93),
    *operations("GaussianBlur", 0.3, 1.3, 2.0),
]
MOVES = [
    *operations("Rotate", -30.0, -7.1, 0.0, 21.3),
    *operations("ShearX", -0.3, 0.0, 0.21),
    *operations("ShearY", -0.3, 0.0, 0.21),
    *operations("TranslateXRel", -0.45, -0.1234, 0.3),
    *operations("TranslateYRel", -0.45, -0.1234, 0.3),
]


def published_rand_augment() -> RandAugment:
    return RandAugment(PUBLISHED_POLICY, interpolation="bicubic")


def augment(operation: Operation, *, interpolation: str = "bicubic") -> np.ndarray:
    """What our operation makes of the whole frames, as planes (3, T, H, W)."""
    rand_augment = RandAugment(PUBLISHED_POLICY, interpolation=interpolation)
    return rand_augment.apply(FRAMES, (operation,), box=WHOLE)


def noise_and_scenes() -> np.ndarray:
    """Frames (6, H, W, 3): noise, smooth scenes bright and dark, one color, and few colors."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    small = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    flat = np.full_like(noise, 77)
    few = np.where(noise < 100, 3, 250).astype(np.uint8)
    return np.stack([noise, smooth, smooth // 3, smooth // 2 + 100, flat, few])


FRAMES = noise_and_scenes()


def by_timm(operation: Operation, *, interpolation: str = "bicubic") -> np.ndarray:
    """What timm's own function makes of each frame, as planes (3, T, H, W)."""
    name, argument = operation
    arguments = [] if name in ("Invert", "AutoContrast", "Equalize") else [argument]
    if name in ("Posterize", "Solarize", "SolarizeAdd"):
        arguments = [int(argument)]
    options: dict[str, Any] = {"fillcolor": (128,) * 3, "resample": PILLOW[interpolation]}
    functions: dict[str, Any] = NAME_TO_OP
    images = [functions[name](Image.fromarray(frame), *arguments, **options) for frame in FRAMES]
    return np.stack([np.asarray(image) for image in images]).transpose(3, 0, 1, 2)


@pytest.mark.parametrize("operation", COLORS, ids=str)
def test_colors_are_bit_identical_to_timm(operation: Operation) -> None:
    assert np.array_equal(augment(operation), by_timm(operation))


@pytest.mark.parametrize("operation", MOVES, ids=str)
def test_few_values_of_moves_differ_from_timm(operation: Operation) -> None:
    difference = np.abs(augment(operation).astype(int) - by_timm(operation))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("operation", MOVES, ids=str)
def test_bilinear_moves_differ_from_timm_by_one_level(operation: Operation) -> None:
    # They differ more often than bicubic moves. If the exact sum is an integer, float64 can end up
    # just below it and is truncated.
    result = augment(operation, interpolation="bilinear")
    difference = np.abs(result.astype(int) - by_timm(operation, interpolation="bilinear"))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.03


@pytest.mark.parametrize("operation", MOVES, ids=str)
def test_nearest_moves_equal_timm_except_for_ties(operation: Operation) -> None:
    result = augment(operation, interpolation="nearest")
    assert (result != by_timm(operation, interpolation="nearest")).mean() < 5e-3


@pytest.mark.parametrize("operation", COLORS + MOVES, ids=str)
def test_a_region_equals_that_of_the_whole_frame(operation: Operation) -> None:
    rand_augment = published_rand_augment()
    whole = rand_augment.apply(FRAMES, (operation,), box=WHOLE)
    for region in REGIONS:
        rows, columns = region.slices
        result = rand_augment.apply(FRAMES, (operation,), box=region)
        assert np.array_equal(result, whole[:, :, rows, columns])


@pytest.mark.parametrize("seed", range(12))
def test_a_region_after_several_operations_is_exact(seed: int) -> None:
    rand_augment = published_rand_augment()
    rng = np.random.default_rng(seed)
    everything = COLORS + MOVES
    drawn = tuple(everything[index] for index in rng.choice(len(everything), 4))

    whole = FRAMES
    for operation in drawn:
        whole = rand_augment.apply(whole, (operation,), box=WHOLE).transpose(1, 2, 3, 0)

    for region in REGIONS:
        rows, columns = region.slices
        expected = whole[:, rows, columns].transpose(3, 0, 1, 2)
        assert np.array_equal(rand_augment.apply(FRAMES, drawn, box=region), expected)


def test_no_operation_makes_no_copy() -> None:
    result = published_rand_augment().apply(FRAMES, (), box=REGIONS[0])
    assert np.shares_memory(result, FRAMES)
    assert np.array_equal(result, FRAMES[:, 37:97, 61:131].transpose(3, 0, 1, 2))


def test_all_frames_get_the_same_augmentation() -> None:
    rand_augment = published_rand_augment()
    frames = np.repeat(FRAMES[1:2], 3, axis=0)
    for seed in range(20):
        drawn = rand_augment.draw(np.random.default_rng(seed))
        result = rand_augment.apply(frames, drawn, box=WHOLE)
        assert (result == result[:, :1]).all()


def seed_global_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)


def test_draws_depend_on_their_generator_alone() -> None:
    rand_augment = published_rand_augment()
    seed_global_generators(3)
    expected_next = random.random(), np.random.random()

    seed_global_generators(3)
    first = [rand_augment.draw(np.random.default_rng(seed)) for seed in range(10)]
    assert (random.random(), np.random.random()) == expected_next

    random.seed(4)
    assert [rand_augment.draw(np.random.default_rng(seed)) for seed in range(10)] == first
    assert len(set(first)) > 5


def drawn_by_timm(policy: str, *, num_images: int) -> list[Operation]:
    """The operations that timm calls over some images."""
    transform = rand_augment_transform(policy, {"interpolation": None})
    calls: list[Operation] = []
    for operation in transform.ops:
        name = operation.name.removesuffix("Increasing")

        def record(
            image: object, *arguments: float, called: str = name, **options: object
        ) -> object:
            calls.append(Operation(called, *arguments))
            return image

        operation.aug_fn = record

    seed_global_generators(0)
    for _ in range(num_images):
        transform(object())
    return calls


def sorted_arguments(drawn: list[Operation], name: str) -> np.ndarray:
    return np.sort([operation.argument for operation in drawn if operation.name == name])


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference between the empirical distributions of two sorted samples."""
    values = np.concatenate([first, second])
    below_first = np.searchsorted(first, values, side="right") / len(first)
    below_second = np.searchsorted(second, values, side="right") / len(second)
    return float(np.abs(below_first - below_second).max())


@pytest.mark.parametrize(
    "policy", [PUBLISHED_POLICY, "rand-m9-n2-mstd101-p0.7", "rand-m5-n3-mstd1-inc1-tweights"]
)
def test_draws_have_the_distribution_of_timm(policy: str) -> None:
    num_images = 6000
    expected = drawn_by_timm(policy, num_images=num_images)
    rand_augment, rng = RandAugment(policy, interpolation="bicubic"), np.random.default_rng(1)
    actual: list[Operation] = []
    for _ in range(num_images):
        actual += rand_augment.draw(rng)
    assert len(actual) == pytest.approx(len(expected), rel=0.03)

    expected_counts = Counter(operation.name for operation in expected)
    actual_counts = Counter(operation.name for operation in actual)
    assert set(actual_counts) == set(expected_counts)
    for name, count in expected_counts.items():
        five_deviations = 5 * (2 * count) ** 0.5
        assert actual_counts[name] == pytest.approx(count, abs=five_deviations)

        # Samples of one distribution exceed this distance once in ten thousand times.
        distance = kolmogorov_smirnov(
            sorted_arguments(expected, name), sorted_arguments(actual, name)
        )
        assert distance < 2.23 * (2 / count) ** 0.5


@pytest.mark.parametrize(
    "policy",
    [
        "rand-m9-mstd0.5",
        "rand-m10-n5-inc1",
        "rand-m9-t3a",
        "rand-m9-n2-t3aw-inc1",
        "rand-m15-mmax20-inc1",
    ],
)
def test_the_policies_of_timm_are_supported(policy: str) -> None:
    rand_augment, rng = RandAugment(policy, interpolation="bicubic"), np.random.default_rng(0)
    for _ in range(20):
        result = rand_augment.apply(FRAMES[:1], rand_augment.draw(rng), box=REGIONS[0])
        assert result.shape == (3, 1, 60, 70)


@pytest.mark.parametrize("policy", ["random", "rand-x9", "m7-n4"])
def test_a_policy_unknown_to_timm_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match=f"'{policy}' is not a RandAugment policy"):
        RandAugment(policy, interpolation="bicubic")


def test_an_unknown_interpolation_is_refused() -> None:
    message = "'cubic' is not an interpolation. Choose from nearest, bilinear, bicubic"
    with pytest.raises(ValueError, match=message):
        RandAugment(PUBLISHED_POLICY, interpolation="cubic")
