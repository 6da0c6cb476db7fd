"""Uncertainty of metrics: bootstrap intervals over the videos, and tests of a difference.

Metrics depend on the videos only through counts, so resampling the videos with replacement is
drawing the counts from a multinomial distribution. This is exact, and the time does not depend on
the number of videos.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.evaluation.metric_counts import FRACTION_BITS, MetricCounts, class_means

LEVEL = 0.95

# Counts that a thread draws at once, 4 MiB.
_COUNTS_PER_BLOCK = 2**19
_MAX_THREADS = 8


class Interval(NamedTuple):
    """Bounds of an interval at the level `LEVEL`."""

    low: float
    high: float


def metric_intervals(counts: MetricCounts, *, num_resamples: int, seed: int) -> dict[str, Interval]:
    """Return the interval of each metric over the scored videos.

    Two are of grouped values: the negative log-likelihood of a video stands for the mean of its
    bin, at most 3 % away, and a confidence for the mean of its reliability bin.

    Args:
        counts: Counts with at least one scored video.
        num_resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        Intervals by the names of the metrics in `metrics.json`, in its units.
    """
    seeds = iter(np.random.SeedSequence(seed).spawn(4))

    def resampled(cells: NDArray, statistic: Callable[[NDArray], NDArray]) -> NDArray:
        return _resample(
            cells.reshape(-1), statistic, num_resamples=num_resamples, seed=next(seeds)
        )

    num_scored = counts.num_scored
    num_top5 = counts.top5_hits.sum()

    accuracies = resampled(counts.confusion, _accuracies_of(counts.confusion))
    top5 = resampled(
        np.array([num_top5, num_scored - num_top5]), lambda draws: draws[:, 0] / num_scored
    )
    nll_means = counts.nll_means()[counts.nll_counts > 0]
    nll = resampled(counts.nll_counts, lambda draws: draws @ nll_means / num_scored)
    ece = resampled(counts.confidence_counts, _calibration_errors_of(counts))

    return {
        "top1": _accuracy_interval(accuracies[:, 0], num_videos=num_scored),
        "top5": _accuracy_interval(top5, num_videos=num_scored)
        if len(counts.confusion) > 5
        else Interval(100.0, 100.0),  # every label is among five classes or fewer
        "mean_class_accuracy": _accuracy_interval(accuracies[:, 1], num_videos=num_scored),
        "macro_f1": _accuracy_interval(accuracies[:, 2], num_videos=num_scored),
        "nll": _interval(nll),
        "ece": _interval(100 * ece),
    }


def _accuracies_of(confusion: NDArray[np.int64]) -> Callable[[NDArray], NDArray]:
    """Return a function from draws (R, M) of the nonzero cells to three accuracies (R, 3)."""
    num_classes = len(confusion)
    labels, predictions = np.nonzero(confusion)  # ordered by label
    is_correct = labels == predictions
    by_prediction = np.argsort(predictions, kind="stable")

    present, label_starts = np.unique(labels, return_index=True)
    predicted, prediction_starts = np.unique(predictions[by_prediction], return_index=True)

    def accuracies(draws: NDArray) -> NDArray:
        correct_counts, support, prediction_counts = np.zeros((3, len(draws), num_classes))
        correct_counts[:, labels[is_correct]] = draws[:, is_correct]
        support[:, present] = np.add.reduceat(draws, label_starts, axis=1)
        prediction_counts[:, predicted] = np.add.reduceat(
            draws[:, by_prediction], prediction_starts, axis=1
        )

        top1 = correct_counts.sum(axis=1) / support.sum(axis=1)
        means = class_means(correct_counts, support=support, predicted=prediction_counts)
        return np.stack([top1, *means], axis=1)

    return accuracies


def _calibration_errors_of(counts: MetricCounts) -> Callable[[NDArray], NDArray]:
    """Return a function from draws (R, M) of the nonzero reliability cells to errors (R,)."""
    bins, is_correct = np.nonzero(counts.confidence_counts)
    is_occupied = counts.confidence_counts > 0
    sums = np.ldexp(counts.confidence_sums[is_occupied].astype(float), -FRACTION_BITS)
    gaps = is_correct - sums / counts.confidence_counts[is_occupied]
    starts = np.unique(bins, return_index=True)[1]

    def calibration_errors(draws: NDArray) -> NDArray:
        gaps_of_bins = np.add.reduceat(draws * gaps, starts, axis=1)
        return np.abs(gaps_of_bins).sum(axis=1) / draws.sum(axis=1)

    return calibration_errors


def _resample(
    cells: NDArray[np.int64],
    statistic: Callable[[NDArray], NDArray],
    *,
    num_resamples: int,
    seed: np.random.SeedSequence,
) -> NDArray:
    """Return a statistic of resamples of the videos.

    Args:
        cells: Number of videos of each kind, shape (M,).
        statistic: Function from draws of the nonzero cells, shape (R, M'), to values (R, ...).
        num_resamples: Number of resamples R.
        seed: Seed of the resamples.

    Returns:
        Values of shape (R, ...). They do not depend on the number of threads.
    """
    occupied = cells[cells > 0]
    num_videos = int(occupied.sum())
    per_block = max(1, _COUNTS_PER_BLOCK // len(occupied))
    num_blocks = math.ceil(num_resamples / per_block)
    sizes = [min(per_block, num_resamples - block * per_block) for block in range(num_blocks)]

    def values(size: int, block_seed: np.random.SeedSequence) -> NDArray:
        generator = np.random.default_rng(block_seed)
        return statistic(generator.multinomial(num_videos, occupied / num_videos, size=size))

    with ThreadPoolExecutor(_MAX_THREADS) as threads:
        return np.concatenate(list(threads.map(values, sizes, seed.spawn(num_blocks))))


def _interval(values: NDArray) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(low, high)


def _accuracy_interval(values: NDArray, *, num_videos: int) -> Interval:
    """Return the interval of an accuracy in percent.

    If all videos or none are right, so are those of every resample, and the bootstrap says nothing
    about other videos. Then the interval is the exact one of the share of right videos.

    Args:
        values: Accuracies of resamples, from 0 to 1, shape (R,).
        num_videos: Number of videos of the test.
    """
    if values.min() == 1:
        return Interval(100 - _margin(num_videos), 100.0)
    if values.max() == 0:
        return Interval(0.0, _margin(num_videos))
    return _interval(100 * values)


def _margin(num_videos: int) -> float:
    """Return how many percent of all videos may be unlike those of a test, which are all alike.

    Source: Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of
    the binomial, Biometrika 26, 1934.
    """
    return 100 * (1 - ((1 - LEVEL) / 2) ** (1 / num_videos))


def difference_interval(
    *,
    both: int,
    only_a: int,
    only_b: int,
    neither: int,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return the interval of the accuracy of A minus that of B on the same videos, in percent.

    The bootstrap is paired: a resampled video counts for A and for B.

    Args:
        both: Number of videos that A and B classify correctly.
        only_a: Number of videos that only A classifies correctly.
        only_b: Number of videos that only B classifies correctly.
        neither: Number of videos that neither of them classifies correctly.
        num_resamples: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        ValueError: If there are no videos.
    """
    cells = np.array([only_a, only_b, both + neither])
    if not cells.sum():
        raise ValueError("there are no videos to compare")

    signs = np.array([1, -1, 0])[cells > 0]
    if len(signs) == 1:  # all videos are alike, and so is every resample
        margin = _margin(int(cells.sum()))
        center = 100.0 * int(signs[0])
        margin *= 2 if center else 1  # A may lose what B wins
        return Interval(max(center - margin, -100.0), min(center + margin, 100.0))

    differences = _resample(
        cells,
        lambda draws: draws @ signs / cells.sum(),
        num_resamples=num_resamples,
        seed=np.random.SeedSequence(seed),
    )
    return _interval(100 * differences)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test that A and B are equally accurate.

    Under that hypothesis, each video that only one of them classifies correctly is a fair coin.

    Args:
        only_a: Number of videos that only A classifies correctly.
        only_b: Number of videos that only B classifies correctly.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions
    or percentages, Psychometrika 12, 1947.
    """
    num_videos, fewer = only_a + only_b, min(only_a, only_b)
    if only_a == only_b:
        return 1.0

    log_binomial = (
        math.lgamma(num_videos + 1)
        - math.lgamma(fewer + 1)
        - math.lgamma(num_videos - fewer + 1)
        - num_videos * math.log(2)
    )

    # P(X <= fewer) relative to P(X = fewer). The terms fall, and a small one ends the sum.
    total = term = 1.0
    for count in range(fewer, 0, -1):
        term *= count / (num_videos - count + 1)
        total += term
        if term < 1e-17 * total:
            break
    return min(1.0, 2 * math.exp(log_binomial) * total)
