"""Ranks of labels, and the integer counts of an evaluation."""

import numpy as np
import pytest
from numpy.typing import NDArray

from slowfast.evaluation.metric_counts import MetricCounts, rank_of, top_classes


def random_predictions(num_videos: int, num_classes: int) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(0)
    log_probabilities = np.log(rng.dirichlet(np.full(num_classes, 0.3), size=num_videos) + 1e-12)
    return log_probabilities, rng.integers(num_classes, size=num_videos)


def counts_of(log_probabilities: NDArray, labels: NDArray) -> MetricCounts:
    counts = MetricCounts(log_probabilities.shape[1])
    counts.add(log_probabilities, labels)
    return counts


def assert_same_bits(a: MetricCounts, b: MetricCounts) -> None:
    for name, array in a.arrays().items():
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, b.arrays()[name], err_msg=name)


def test_ranks_and_top_classes_with_ties_by_hand() -> None:
    scores = np.array([[1.0, 3, 3, 2, 1], [0, 0, 0, 0, 0]])
    assert [rank_of(scores, np.array([label, label])).tolist() for label in range(5)] == [
        [4, 1],
        [1, 2],
        [2, 3],
        [3, 4],
        [5, 5],
    ]
    assert top_classes(scores, 5).tolist() == [[1, 2, 3, 0, 4], [0, 1, 2, 3, 4]]
    assert top_classes(scores, 2).tolist() == [[1, 2], [0, 1]]


def test_top_classes_are_those_of_a_stable_sort() -> None:
    scores = np.random.default_rng(0).integers(4, size=(300, 9)).astype(np.float64)
    by_score = np.argsort(-scores, axis=1, kind="stable")
    np.testing.assert_array_equal(top_classes(scores, 5), by_score[:, :5])

    labels = np.arange(300) % 9
    positions = (by_score == labels[:, None]).argmax(axis=1)
    np.testing.assert_array_equal(rank_of(scores, labels), positions + 1)


def test_top_classes_of_few_classes_and_impossible_ones() -> None:
    assert top_classes(np.array([[0.1, 0.9]]), 5).tolist() == [[1, 0]]
    impossible = np.array([[-np.inf, 0, -np.inf]])
    assert top_classes(impossible, 3).tolist() == [[1, 0, 2]]


def test_counts_by_hand() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    counts = counts_of(np.log(probabilities), np.array([0, 1, 2]))
    counts.add_unscored([0, 0], nonfinite=False)
    counts.add_unscored([2], nonfinite=True)

    assert counts.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert counts.listed.tolist() == [3, 1, 2]
    assert counts.unreadable.tolist() == [2, 0, 0]
    assert counts.nonfinite.tolist() == [0, 0, 1]
    assert counts.top5_hits.tolist() == [1, 1, 1]
    assert counts.num_scored == 3
    assert counts.mean_nll() == pytest.approx(-np.log([0.5, 0.3, 0.8]).mean(), abs=1e-9)

    # The confidences 0.5, 0.5 and 0.8 lie in the bins 7 (from 7/15) and 12 (from 12/15).
    assert np.argwhere(counts.confidence_counts).tolist() == [[7, 0], [7, 1], [12, 1]]
    assert counts.confidence_sums[7].tolist() == [2**29, 2**29]


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_shuffled_chunks_give_the_same_bits(chunk: int) -> None:
    log_probabilities, labels = random_predictions(301, 12)
    order = np.random.default_rng(1).permutation(301)

    shuffled = MetricCounts(12)
    for start in range(0, 301, chunk):
        rows = order[start : start + chunk]
        shuffled.add(log_probabilities[rows], labels[rows])
    assert_same_bits(shuffled, counts_of(log_probabilities, labels))


def test_counts_can_be_summed_over_processes() -> None:
    log_probabilities, labels = random_predictions(100, 8)
    together = counts_of(log_probabilities, labels)
    first = counts_of(log_probabilities[:30], labels[:30])
    second = counts_of(log_probabilities[30:], labels[30:])
    for counts in (together, second):
        counts.add_unscored([3, 7], nonfinite=True)

    summed = {name: array + second.arrays()[name] for name, array in first.arrays().items()}
    assert_same_bits(MetricCounts.from_arrays(summed), together)
    first.update(second)
    assert_same_bits(first, together)


def test_an_empty_chunk_adds_nothing() -> None:
    counts = MetricCounts(3)
    counts.add(np.zeros((0, 3)), np.zeros(0, dtype=np.int32))
    counts.add_unscored([], nonfinite=False)
    assert_same_bits(counts, MetricCounts(3))


@pytest.mark.parametrize("nll", [0.0, 1e-30, 2.0**-32, 0.999999, 1.0, 5.5, 1e6, 6.8e38])
def test_any_likelihood_is_summed_precisely(nll: float) -> None:
    counts = MetricCounts(2)
    for _ in range(3):
        counts.add(np.array([[0.0, -nll]]), np.array([1]))
    assert counts.mean_nll() == pytest.approx(nll, rel=1e-9, abs=2.0**-60)

    # Every video of a bin is close to the mean of the bin.
    means = counts.nll_means()[counts.nll_counts > 0]
    assert means.tolist() == [pytest.approx(nll, rel=1e-9, abs=2.0**-60)]


def test_a_likelihood_of_zero_has_a_bin_of_its_own() -> None:
    counts = counts_of(np.array([[0.0, -0.25], [0.0, -0.5]]), np.array([0, 1]))
    counts.add(np.array([[0.0, -0.25]]), np.array([1]))
    assert counts.nll_means()[counts.nll_counts > 0].tolist() == [0, 0.25, 0.5]


def test_likelihoods_of_a_bin_differ_by_three_percent() -> None:
    values = np.geomspace(1e-6, 1e6, 3000)
    counts = counts_of(np.stack([np.zeros(3000), -values], axis=1), np.ones(3000, dtype=int))
    order = np.argsort(values)
    means = np.repeat(counts.nll_means(), counts.nll_counts)
    np.testing.assert_allclose(means, values[order], rtol=0.03)
    assert counts.mean_nll() == pytest.approx(values.mean(), rel=1e-9)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_an_error(label: int) -> None:
    counts = MetricCounts(3)
    message = f"label {label} is not one of the 3 classes"
    with pytest.raises(ValueError, match=message):
        counts.add(np.zeros((1, 3)), np.array([label]))
    with pytest.raises(ValueError, match=message):
        counts.add_unscored([label], nonfinite=False)
    assert_same_bits(counts, MetricCounts(3))


@pytest.mark.parametrize("row", [[np.nan, 0], [0, np.nan], [0, -np.inf], [np.inf, 0]])
def test_nonfinite_scores_are_refused(row: list[float]) -> None:
    counts = MetricCounts(2)
    with pytest.raises(ValueError, match="a log-probability is not finite"):
        counts.add(np.array([row]), np.array([1]))
    assert_same_bits(counts, MetricCounts(2))
