"""Fusion of views into one distribution, and the accuracy of fewer clips and crops."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from slowfast.evaluation.fusion import FUSIONS, ViewSubsets, fuse
from slowfast.evaluation.metric_counts import rank_of


def random_scores(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 3


def test_fusions_by_hand() -> None:
    # Two views of three classes with probabilities (0.5, 0.25, 0.25) and (0.1, 0.8, 0.1).
    probabilities = np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]])
    scores = np.log(probabilities)

    # Means of logarithms are geometric means: sqrt(0.05), sqrt(0.2), sqrt(0.025), then normalized.
    geometric = np.sqrt([0.05, 0.2, 0.025])
    np.testing.assert_allclose(np.exp(fuse(scores, "sum"))[0], geometric / geometric.sum())
    np.testing.assert_allclose(np.exp(fuse(scores, "probabilities"))[0], [0.3, 0.525, 0.175])
    np.testing.assert_allclose(
        np.exp(fuse(scores, "max"))[0], [0.5 / 1.55, 0.8 / 1.55, 0.25 / 1.55]
    )


def test_fusions_agree_with_scipy() -> None:
    scores = random_scores(50, 6, 11)
    probabilities = softmax(scores.astype(np.float64), axis=2)
    highest = probabilities.max(axis=1)

    expected = {
        "sum": log_softmax(scores.astype(np.float64).mean(axis=1), axis=1),
        "probabilities": np.log(probabilities.mean(axis=1)),
        "max": np.log(highest / highest.sum(axis=1, keepdims=True)),
    }
    assert set(expected) == set(FUSIONS)
    for fusion, log_probabilities in expected.items():
        np.testing.assert_allclose(fuse(scores, fusion), log_probabilities, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_view_is_its_own_distribution(fusion: str) -> None:
    scores = random_scores(20, 1, 7)
    expected = log_softmax(scores[:, 0].astype(np.float64), axis=1)
    np.testing.assert_allclose(fuse(scores, fusion), expected, atol=1e-14)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_largest_logits_stay_finite(fusion: str) -> None:
    largest = np.finfo(np.float32).max
    scores = np.array([[[largest, -largest, 0], [largest, 0, -largest]]], dtype=np.float32)
    fused = fuse(scores, fusion)
    assert np.isfinite(fused).all()
    assert fused[0, 0] == 0


def test_tiny_probabilities_are_averaged_without_underflow() -> None:
    # Class 1 has probability e^-1000 in one view and e^-1001 in the other one.
    fused = fuse(np.array([[[1000.0, 0], [1001.0, 0]]]), "probabilities")
    assert fused[0, 1] == pytest.approx(-1000 + np.log((1 + np.exp(-1)) / 2), abs=1e-9)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("num_classes", [1, 2, 400])
def test_a_video_is_fused_to_the_same_bits_alone(fusion: str, num_classes: int) -> None:
    scores = random_scores(33, 5, num_classes)
    together = fuse(scores, fusion)
    alone = np.concatenate([fuse(scores[row : row + 1], fusion) for row in range(33)])
    np.testing.assert_array_equal(together, alone)


def test_an_unknown_fusion_is_an_error() -> None:
    message = "the fusion is 'mean'. Choose one of: sum, probabilities, max"
    with pytest.raises(ValueError, match=message):
        fuse(random_scores(1, 1, 2), "mean")


@pytest.mark.parametrize(
    ("view", "subsets_with_it"),
    [
        # Views are 3 * clip + crop. View 7 is the center of clip 2. One clip of four is clip
        # floor(0.5 * 4) = 2, three are floor((i + 0.5) * 4 / 3) = 0, 2 and 3, and two are 1 and 3.
        (7, [(1, 1), (1, 3), (3, 1), (3, 3), (4, 1), (4, 3)]),
        (3, [(2, 3), (4, 3)]),  # the left crop of clip 1
    ],
)
def test_subsets_of_views_by_hand(view: int, subsets_with_it: list[tuple[int, int]]) -> None:
    # Class 1 has a high score in one view only, and wins by the maximum where that view is.
    scores = np.zeros((1, 12, 2), dtype=np.float32)
    scores[0, :, 0] = 0.1
    scores[0, view, 1] = 1
    subsets = ViewSubsets(4, 3)
    subsets.add(scores, np.array([1]))

    right = [
        (record["num_clips"], record["num_crops"])
        for record in subsets.as_records()
        if record["top1"] == 100 and record["fusion"] == "max"
    ]
    single = subsets.as_records()[0]
    if single["top1"]:
        right.insert(0, (single["num_clips"], single["num_crops"]))
    assert right == subsets_with_it


def test_subsets_agree_with_fusing_their_views() -> None:
    scores, labels = random_scores(200, 12, 9), np.arange(200) % 9
    subsets = ViewSubsets(4, 3)
    subsets.add(scores[:70], labels[:70])
    subsets.add(scores[70:], labels[70:])

    # floor((i + 0.5) * 4 / c) for c = 1, 2, 3, 4.
    clips_of = {1: [2], 2: [1, 3], 3: [0, 2, 3], 4: [0, 1, 2, 3]}
    expected = []
    for num_clips, clips in clips_of.items():
        for num_crops, crops in ((1, [1]), (3, [0, 1, 2])):
            views = [3 * clip + crop for clip in clips for crop in crops]
            for fusion in FUSIONS if len(views) > 1 else FUSIONS[:1]:
                ranks = rank_of(fuse(scores[:, views], fusion), labels)
                expected.append(
                    {
                        "num_clips": num_clips,
                        "num_crops": num_crops,
                        "fusion": fusion,
                        "top1": pytest.approx(100 * (ranks <= 1).mean()),
                        "top5": pytest.approx(100 * (ranks <= 5).mean()),
                    }
                )
    assert subsets.as_records() == expected


@pytest.mark.parametrize("num_clips", [1, 2, 10, 11, 50, 1000])
def test_at_most_ten_numbers_of_clips_are_counted(num_clips: int) -> None:
    subsets = ViewSubsets(num_clips, 1)
    subsets.add(random_scores(1, num_clips, 2), np.array([0]))
    counted = sorted({record["num_clips"] for record in subsets.as_records()})
    assert counted[0] == 1
    assert counted[-1] == num_clips
    assert min(num_clips, 8) <= len(counted) <= 10


def test_counts_of_subsets_can_be_summed_over_processes() -> None:
    scores, labels = random_scores(50, 6, 4), np.arange(50) % 4
    together, first, second = ViewSubsets(2, 3), ViewSubsets(2, 3), ViewSubsets(2, 3)
    together.add(scores, labels)
    first.add(scores[:20], labels[:20])
    second.add(scores[20:], labels[20:])

    updated = ViewSubsets(2, 3)
    updated.update(first)
    updated.update(second)
    for name, array in first.arrays().items():
        array += second.arrays()[name]
    assert updated.as_records() == first.as_records() == together.as_records()


def test_subsets_of_no_videos_have_no_records() -> None:
    assert ViewSubsets(4, 3).as_records() == []


def test_a_wrong_number_of_views_is_an_error() -> None:
    with pytest.raises(ValueError, match="the scores have 5 views instead of 6"):
        ViewSubsets(2, 3).add(random_scores(1, 5, 4), np.array([0]))


def test_counting_does_not_import_torch() -> None:
    modules = ["fusion", "metric_counts", "intervals", "calibration"]
    imports = "; ".join(f"import slowfast.evaluation.{module}" for module in modules)
    program = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
