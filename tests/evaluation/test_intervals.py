"""Bootstrap intervals and tests of a difference, compared with resampled videos and scipy."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import f1_score

from slowfast.evaluation.fusion import log_softmax
from slowfast.evaluation.intervals import difference_interval, mcnemar, metric_intervals
from slowfast.evaluation.metric_counts import MetricCounts, rank_of


def random_predictions(num_videos: int) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(3)
    labels = rng.integers(8, size=num_videos)
    logits = 2 * rng.standard_normal((num_videos, 8))
    logits[np.arange(num_videos), labels] += 1.5
    return log_softmax(logits), labels


def counts_of(log_probabilities: NDArray, labels: NDArray) -> MetricCounts:
    counts = MetricCounts(8)
    counts.add(log_probabilities, labels)
    return counts


def test_intervals_are_those_of_resampled_videos() -> None:
    log_probabilities, labels = random_predictions(400)
    intervals = metric_intervals(counts_of(log_probabilities, labels), num_resamples=2000, seed=0)

    predictions = log_probabilities.argmax(axis=1)
    confidences = np.exp(log_probabilities.max(axis=1))
    ranks = rank_of(log_probabilities, labels)
    nll = -log_probabilities[np.arange(400), labels]

    def metrics(rows: NDArray) -> list[float]:
        is_correct = predictions[rows] == labels[rows]
        recalls = [is_correct[labels[rows] == k].mean() for k in np.unique(labels[rows])]
        f1 = f1_score(labels[rows], predictions[rows], average="macro")
        gaps = np.bincount((15 * confidences[rows]).astype(int), is_correct - confidences[rows])
        return [
            100 * is_correct.mean(),
            100 * (ranks[rows] <= 5).mean(),
            100 * np.mean(recalls),
            100 * f1,
            nll[rows].mean(),
            100 * np.abs(gaps).sum() / len(rows),
        ]

    rng = np.random.default_rng(1)
    resampled = np.array([metrics(rng.integers(400, size=400)) for _ in range(600)])
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)

    # A bound of 600 resamples has a standard error of about 3 % of the width.
    names = ["top1", "top5", "mean_class_accuracy", "macro_f1", "nll", "ece"]
    assert list(intervals) == names
    width = high - low
    np.testing.assert_allclose(([intervals[name].low for name in names] - low) / width, 0, atol=0.1)
    np.testing.assert_allclose(
        ([intervals[name].high for name in names] - high) / width, 0, atol=0.1
    )


def test_the_interval_of_top1_agrees_with_scipy() -> None:
    log_probabilities, labels = random_predictions(1000)
    counts = counts_of(log_probabilities, labels)
    interval = metric_intervals(counts, num_resamples=4000, seed=0)["top1"]

    is_correct = 100.0 * (log_probabilities.argmax(axis=1) == labels)
    expected = bootstrap(
        (is_correct,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert interval == pytest.approx((expected.low, expected.high), abs=0.25)


@pytest.mark.parametrize(("num_right", "num_videos"), [(4, 4), (0, 4), (192, 192)])
def test_all_right_or_all_wrong_is_no_certainty(num_right: int, num_videos: int) -> None:
    labels = np.zeros(num_videos, int)
    logits = np.zeros((num_videos, 8))
    logits[:, 0 if num_right else 1] = 5.0
    counts = counts_of(log_softmax(logits), labels)
    intervals = metric_intervals(counts, num_resamples=100, seed=0)
    expected = binomtest(num_right, num_videos).proportion_ci(0.95, method="exact")
    for name in ("top1", "mean_class_accuracy", "macro_f1"):
        assert intervals[name] == pytest.approx((100 * expected.low, 100 * expected.high))


def test_an_interval_narrows_with_the_root_of_the_videos() -> None:
    # Accuracy 1/2: the half width is 1.96 * sqrt(0.25 / n), whatever the number of videos.
    for num_videos in (10_000, 10_000_000):
        counts = counts_of(*random_predictions(1))
        counts.confusion[:] = 0
        counts.confusion[0, :2] = num_videos // 2
        counts.top5_hits[:] = [num_videos, *[0] * 7]
        low, high = metric_intervals(counts, num_resamples=2000, seed=0)["top1"]
        assert (high - low) / 2 == pytest.approx(98 / num_videos**0.5, rel=0.06)


def test_the_seed_decides_the_resamples() -> None:
    counts = counts_of(*random_predictions(300))
    first, again, other = (
        metric_intervals(counts, num_resamples=200, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_blocks_of_resamples_are_drawn_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counts_of(*random_predictions(300))
    in_one_block = metric_intervals(counts, num_resamples=1000, seed=0)
    monkeypatch.setattr("slowfast.evaluation.intervals._COUNTS_PER_BLOCK", 100)
    in_many_blocks = metric_intervals(counts, num_resamples=1000, seed=0)
    for name, interval in in_one_block.items():
        width = interval.high - interval.low
        assert in_many_blocks[name] == pytest.approx(interval, abs=0.15 * width)


def test_the_paired_difference_agrees_with_scipy() -> None:
    both, only_a, only_b, neither = 300, 60, 40, 100
    interval = difference_interval(
        both=both, only_a=only_a, only_b=only_b, neither=neither, num_resamples=4000
    )
    differences = np.repeat([0.0, 100, -100, 0], [both, only_a, only_b, neither])
    expected = bootstrap(
        (differences,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert interval == pytest.approx((expected.low, expected.high), abs=0.25)


def test_differences_without_spread_by_hand() -> None:
    margin = 100 * (1 - 0.025 ** (1 / 8))  # of a share of 0 in 8 videos
    cells = {"both": 0, "only_a": 0, "only_b": 0, "neither": 0}
    equal = difference_interval(both=5, only_a=0, only_b=0, neither=3)
    assert equal == pytest.approx((-margin, margin))
    better = difference_interval(**{**cells, "only_a": 8})
    assert better == pytest.approx((100 - 2 * margin, 100))
    worse = difference_interval(**{**cells, "only_b": 8})
    assert worse == pytest.approx((-100, 2 * margin - 100))
    assert difference_interval(**{**cells, "only_a": 1}) == pytest.approx((-95, 100))
    with pytest.raises(ValueError, match="there are no videos to compare"):
        difference_interval(both=0, only_a=0, only_b=0, neither=0)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(7, 7) == 1
    assert mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 2**6)


@pytest.mark.parametrize(
    ("only_a", "only_b"),
    [(1, 0), (3, 4), (12, 30), (500, 430), (10_000, 10_001), (5_000_000, 5_003_000), (10**7, 0)],
)
def test_mcnemar_agrees_with_scipy(only_a: int, only_b: int) -> None:
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-6)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)
