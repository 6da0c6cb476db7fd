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
COLORS = [
    Operation("Invert"),
    Operation("AutoContrast"),
    Operation("Equalize"),
    *(Operation("Posterize", bits) for bits in (1, 3, 4, 8)),
    *(Operation("Solarize", level) for level in (0, 77, 256)),
    *(Operation("SolarizeAdd", added) for added in (0, 77, 110)),
    *(
        Operation(name, factor)
        for name in ("Brightness", "Contrast", "Color", "Sharpness")
        for factor in (0.1, 0.37, 1.0, 1.63, 1.9)
    ),
    *(Operation("Desaturate", share) for share in (0.5, 0.93)),
    *(Operation("GaussianBlur", radius) for radius in (0.3, 1.3, 2.0)),
]
MOVES = [
    *(Operation("Rotate", degrees) for degrees in (-30.0, -7.1, 0.0, 21.3)),
    *(Operation(name, factor) for name in ("ShearX", "ShearY") for factor in (-0.3, 0.0, 0.21)),
    *(
        Operation(name, share)
        for name in ("TranslateXRel", "TranslateYRel")
        for share in (-0.45, -0.1234, 0.3)
    ),
]


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
def test_colors_equal_those_of_timm_in_every_bit(operation: Operation) -> None:
    result = RandAugment(PUBLISHED_POLICY, interpolation="bicubic").apply(
        FRAMES, (operation,), box=WHOLE
    )
    assert np.array_equal(result, by_timm(operation))


@pytest.mark.parametrize("operation", MOVES, ids=str)
def test_moves_equal_those_of_timm_but_for_one_level_in_a_thousandth_of_the_values(
    operation: Operation,
) -> None:
    result = RandAugment(PUBLISHED_POLICY, interpolation="bicubic").apply(
        FRAMES, (operation,), box=WHOLE
    )
    difference = np.abs(result.astype(int) - by_timm(operation))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("operation", MOVES, ids=str)
def test_bilinear_moves_differ_from_those_of_timm_by_one_level_at_most(
    operation: Operation,
) -> None:
    # More often than bicubic ones: where the exact sum is a whole number, float64 falls just below it and is cut off.
    result = RandAugment(PUBLISHED_POLICY, interpolation="bilinear").apply(
        FRAMES, (operation,), box=WHOLE
    )
    difference = np.abs(result.astype(int) - by_timm(operation, interpolation="bilinear"))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.03


@pytest.mark.parametrize("operation", MOVES, ids=str)
def test_moves_to_the_nearest_pixel_take_that_of_timm_but_for_ties(operation: Operation) -> None:
    result = RandAugment(PUBLISHED_POLICY, interpolation="nearest").apply(
        FRAMES, (operation,), box=WHOLE
    )
    assert (result != by_timm(operation, interpolation="nearest")).mean() < 5e-3


@pytest.mark.parametrize("operation", COLORS + MOVES, ids=str)
def test_a_region_is_the_part_of_the_whole(operation: Operation) -> None:
    augment = RandAugment(PUBLISHED_POLICY, interpolation="bicubic")
    whole = augment.apply(FRAMES, (operation,), box=WHOLE)
    for region in REGIONS:
        rows, columns = region.slices
        assert np.array_equal(
            augment.apply(FRAMES, (operation,), box=region), whole[:, :, rows, columns]
        )


@pytest.mark.parametrize("seed", range(12))
def test_a_region_after_several_operations_is_the_part_of_one_operation_after_the_other(
    seed: int,
) -> None:
    augment = RandAugment(PUBLISHED_POLICY, interpolation="bicubic")
    rng = np.random.default_rng(seed)
    everything = COLORS + MOVES
    operations = tuple(everything[number] for number in rng.choice(len(everything), 4))
    step_by_step = FRAMES
    for operation in operations:
        step_by_step = augment.apply(step_by_step, (operation,), box=WHOLE).transpose(1, 2, 3, 0)
    for region in REGIONS:
        rows, columns = region.slices
        expected = step_by_step[:, rows, columns].transpose(3, 0, 1, 2)
        assert np.array_equal(augment.apply(FRAMES, operations, box=region), expected)


def test_no_operation_makes_no_copy() -> None:
    result = RandAugment(PUBLISHED_POLICY, interpolation="bicubic").apply(
        FRAMES, (), box=REGIONS[0]
    )
    assert np.shares_memory(result, FRAMES)
    assert np.array_equal(result, FRAMES[:, 37:97, 61:131].transpose(3, 0, 1, 2))


def test_all_frames_are_treated_alike() -> None:
    augment = RandAugment(PUBLISHED_POLICY, interpolation="bicubic")
    frames = np.repeat(FRAMES[1:2], 3, axis=0)
    for seed in range(20):
        result = augment.apply(frames, augment.draw(np.random.default_rng(seed)), box=WHOLE)
        assert (result == result[:, :1]).all()


def test_draws_are_a_function_of_the_generator_and_leave_the_global_ones_alone() -> None:
    augment = RandAugment(PUBLISHED_POLICY, interpolation="bicubic")
    random.seed(3)
    np.random.seed(3)
    expected_next = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    first = [augment.draw(np.random.default_rng(seed)) for seed in range(10)]
    assert (random.random(), np.random.random()) == expected_next
    random.seed(4)
    assert [augment.draw(np.random.default_rng(seed)) for seed in range(10)] == first
    assert len(set(first)) > 5


def drawn_by_timm(policy: str, count: int) -> list[Operation]:
    """What timm itself calls its functions with, over `count` images."""
    transform = rand_augment_transform(policy, {"interpolation": None})
    calls: list[Operation] = []
    for operation in transform.ops:
        name = operation.name.removesuffix("Increasing")

        def note(image: object, *arguments: float, called: str = name, **options: object) -> object:
            calls.append(Operation(called, *arguments))
            return image

        operation.aug_fn = note
    random.seed(0)
    np.random.seed(0)
    for _ in range(count):
        transform(object())
    return calls


def arguments_of(operations: list[Operation], name: str) -> np.ndarray:
    return np.sort([operation.argument for operation in operations if operation.name == name])


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference of the shares of two sorted samples that lie below a value."""
    values = np.concatenate([first, second])
    below = [
        np.searchsorted(sample, values, side="right") / len(sample) for sample in (first, second)
    ]
    return float(np.abs(below[0] - below[1]).max())


@pytest.mark.parametrize(
    "policy", [PUBLISHED_POLICY, "rand-m9-n2-mstd101-p0.7", "rand-m5-n3-mstd1-inc1-tweights"]
)
def test_operations_and_arguments_are_drawn_as_timm_draws_them(policy: str) -> None:
    count = 6000
    theirs = drawn_by_timm(policy, count)
    augment, rng = RandAugment(policy, interpolation="bicubic"), np.random.default_rng(1)
    ours = [operation for _ in range(count) for operation in augment.draw(rng)]
    assert len(ours) == pytest.approx(len(theirs), rel=0.03)
    expected, actual = (Counter(operation.name for operation in drawn) for drawn in (theirs, ours))
    assert set(actual) == set(expected)
    for name, times in expected.items():
        assert actual[name] == pytest.approx(
            times, abs=5 * (2 * times) ** 0.5
        )  # five standard deviations
        # Samples of one distribution are further apart once in ten thousand times.
        distance = kolmogorov_smirnov(arguments_of(theirs, name), arguments_of(ours, name))
        assert distance < 2.23 * (2 / times) ** 0.5


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
def test_policies_of_timm_are_understood(policy: str) -> None:
    augment, rng = RandAugment(policy, interpolation="bicubic"), np.random.default_rng(0)
    for _ in range(20):
        result = augment.apply(FRAMES[:1], augment.draw(rng), box=REGIONS[0])
        assert result.shape == (3, 1, 60, 70)


@pytest.mark.parametrize("policy", ["random", "rand-x9", "m7-n4"])
def test_a_policy_that_timm_does_not_know_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match=f"'{policy}' is not a RandAugment policy"):
        RandAugment(policy, interpolation="bicubic")


def test_an_unknown_interpolation_is_refused() -> None:
    with pytest.raises(
        ValueError, match="'cubic' is not an interpolation; choose from nearest, bilinear, bicubic"
    ):
        RandAugment(PUBLISHED_POLICY, interpolation="cubic")
