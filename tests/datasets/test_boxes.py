"""Random boxes, evenly spread crops and resized sizes of frames."""

import numpy as np
import pytest

from slowfast.datasets.boxes import random_resized_box, short_side_size, uniform_box


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [(240, 320, (112, 149)), (320, 240, (149, 112)), (9, 9, (112, 112))],
)
def test_the_long_side_is_truncated(height: int, width: int, shape: tuple[int, int]) -> None:
    assert short_side_size(height, width, short_side=112) == shape


def test_crops_are_spread_along_the_long_side() -> None:
    wide = [uniform_box(4, 7, size=4, crop=crop) for crop in range(3)]
    assert wide == [(0, 0, 4, 4), (0, 2, 4, 4), (0, 3, 4, 4)]

    tall = [uniform_box(7, 4, size=4, crop=crop) for crop in range(3)]
    assert tall == [(0, 0, 4, 4), (2, 0, 4, 4), (3, 0, 4, 4)]


@pytest.mark.parametrize(("size", "crop"), [(5, 0), (4, 3)])
def test_a_crop_that_does_not_exist_is_refused(size: int, crop: int) -> None:
    message = f"there is no crop {crop} of {size}x{size} pixels in a frame of 4x7"
    with pytest.raises(ValueError, match=message):
        uniform_box(4, 7, size=size, crop=crop)


def test_random_boxes_have_the_published_areas_and_aspects() -> None:
    boxes = []
    for seed in range(4000):
        rng = np.random.default_rng(seed)
        box = random_resized_box(256, 340, scale=(0.08, 1.0), aspect=(0.75, 1.3333), rng=rng)
        boxes.append(box)
    assert all(box.top + box.height <= 256 and box.left + box.width <= 340 for box in boxes)

    # Areas that fit at any aspect are drawn uniformly, up to 256 * 256 / 1.3333 of the frame.
    areas = np.array([box.height * box.width / (256 * 340) for box in boxes])
    within = np.sort(areas[areas < 0.55])
    expected = 0.08 + (0.55 - 0.08) * (np.arange(len(within)) + 0.5) / len(within)
    assert np.abs(within - expected).max() < 0.02  # Kolmogorov-Smirnov distance

    small = [box for box in boxes if box.height * box.width < 0.5 * 256 * 340]
    logs = np.log([box.width / box.height for box in small])
    assert abs(logs.mean()) < 0.02
    assert logs.std() == pytest.approx(2 * np.log(1.3333) / np.sqrt(12), rel=0.05)


def test_a_frame_too_long_for_any_box_gives_its_center() -> None:
    rng = np.random.default_rng(0)
    box = random_resized_box(10, 1000, scale=(1.0, 1.0), aspect=(0.75, 1.25), rng=rng)
    assert box == (0, 494, 10, 12)
