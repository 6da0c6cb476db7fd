"""Random erasing: the distribution of the boxes and the noise that fills them."""

import numpy as np
import pytest
import torch

from slowfast.datasets.boxes import Box
from slowfast.datasets.random_erasing import erase, random_erasures


def test_erased_boxes_have_the_published_areas_and_aspects() -> None:
    boxes: list[Box] = []
    for seed in range(3000):
        boxes += random_erasures(224, 224, max_count=1, rng=np.random.default_rng(seed))
    assert len(boxes) > 2990
    assert all(0 <= box.top <= 224 - box.height for box in boxes)
    assert all(0 <= box.left <= 224 - box.width for box in boxes)

    fractions = np.sort([box.height * box.width / 224**2 for box in boxes])
    expected = 0.02 + (1 / 3 - 0.02) * (np.arange(len(fractions)) + 0.5) / len(fractions)
    assert np.abs(fractions - expected).mean() < 0.006

    small = [box for box in boxes if box.height * box.width < 0.25 * 224**2]
    logs = np.log([box.width / box.height for box in small])
    assert abs(logs.mean()) < 0.05
    assert logs.std() == pytest.approx(2 * np.log(1 / 0.3) / np.sqrt(12), rel=0.05)

    positions = np.array([box.top / (224 - box.height) for box in boxes])
    quarters = np.histogram(positions, bins=4, range=(0, 1))[0] / len(boxes)
    assert quarters == pytest.approx([0.25] * 4, abs=0.04)


def test_several_erased_boxes_share_the_area() -> None:
    drawn = []
    for seed in range(900):
        drawn.append(random_erasures(100, 100, max_count=3, rng=np.random.default_rng(seed)))
    counts = np.array([len(boxes) for boxes in drawn])
    rates = [(counts == count).mean() for count in (1, 2, 3)]
    assert rates == pytest.approx([1 / 3] * 3, abs=0.06)

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

    num_distinct = {"pixel": 3 * 4 * 10 * 20, "rand": 3 * 4, "const": 1}[mode]
    assert len(clip[:, :, 3:13, 5:25].unique()) == pytest.approx(num_distinct, rel=0.01)


def test_erased_pixels_are_noise_of_the_normalized_range() -> None:
    clip = torch.full((3, 8, 64, 64), 99.0)
    erase(clip, [Box(0, 0, 64, 32)], mode="pixel", rng=torch.Generator().manual_seed(1))
    values = clip[..., :32]
    assert abs(values.mean().item()) < 0.05
    assert values.std().item() == pytest.approx(1, abs=0.05)
