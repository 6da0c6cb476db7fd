"""Integer counts of an evaluation, from which all of its metrics are computed."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_RELIABILITY_BINS = 15

# Confidences and negative log-likelihoods are summed in fixed point, so that a sum has the same
# bits in any order. 2**33 videos fit into an int64.
FRACTION_BITS = 30

# Bins of the negative log-likelihood: 32 per octave, which is the unit of its fixed-point sums. The
# first octave also holds everything below it, and the last the largest difference of two logits.
_BINS_PER_OCTAVE = 32
_FIRST_OCTAVE = -31
_LAST_OCTAVE = 130
_NUM_NLL_BINS = (_LAST_OCTAVE - _FIRST_OCTAVE + 2) * _BINS_PER_OCTAVE


def rank_of(scores: NDArray, labels: NDArray) -> NDArray[np.int64]:
    """Return the rank of each label among the scores of its row. 1 is the highest score.

    Equal scores rank in the order of the classes, so that a rank does not depend on a sort.

    Args:
        scores: Scores or log-probabilities of shape (N, K).
        labels: Class numbers of shape (N,).

    Returns:
        Ranks from 1 to K, shape (N,).

    Raises:
        ValueError: If a label is not a class.
    """
    num_classes = scores.shape[1]
    labels = checked_labels(labels, num_classes)
    label_scores = scores[np.arange(len(labels)), labels][:, None]

    num_higher = np.count_nonzero(scores > label_scores, axis=1)
    is_earlier = np.arange(num_classes) < labels[:, None]
    num_equal = np.count_nonzero((scores == label_scores) & is_earlier, axis=1)
    return 1 + num_higher + num_equal


def top_classes(scores: NDArray, k: int) -> NDArray[np.int64]:
    """Return the k classes with the highest scores, highest first, in the order of `rank_of`.

    Args:
        scores: Scores or log-probabilities of shape (N, K), without nan.
        k: Number of classes, capped at K.

    Returns:
        Class numbers of shape (N, min(k, K)).
    """
    # A class that was taken is -inf and must stay below every other one.
    remaining = np.maximum(scores, np.finfo(scores.dtype).min)
    rows = np.arange(len(scores))

    classes = np.empty((len(scores), min(k, scores.shape[1])), dtype=np.int64)
    for position in range(classes.shape[1]):
        best = remaining.argmax(axis=1)
        classes[:, position] = best
        remaining[rows, best] = -np.inf
    return classes


def checked_labels(labels: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Return labels as int64.

    Raises:
        ValueError: If a label is not a class.
    """
    labels = np.asarray(labels, dtype=np.int64)
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"label {wrong[0]} is not one of the {num_classes} classes. "
            f"The labels of the list must be 0 to {num_classes - 1}"
        )
    return labels


def bin_confidences(confidences: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Return the bin of each confidence, and the confidence in units of 2**-30, as integers.

    Args:
        confidences: Confidences from 0 to 1, shape (N,).
    """
    bins = (confidences * NUM_RELIABILITY_BINS).astype(np.int64)
    bins = np.minimum(bins, NUM_RELIABILITY_BINS - 1)  # a confidence of 1 is in the last bin
    return bins, np.rint(np.ldexp(confidences, FRACTION_BITS)).astype(np.int64)


def class_means(
    correct: NDArray, *, support: NDArray, predicted: NDArray
) -> tuple[NDArray, NDArray]:
    """Return the mean class accuracy and the macro F1, over the classes with videos.

    Args:
        correct: Number of correctly classified videos of each class, shape (..., K).
        support: Number of videos of each class, shape (..., K).
        predicted: Number of videos that were classified as each class, shape (..., K).

    Returns:
        Both means from 0 to 1, shape (...).
    """
    num_classes = np.maximum((support > 0).sum(axis=-1), 1)
    accuracies = correct / np.maximum(support, 1)
    # A class without videos has no correct ones: its F1 is 0 and adds nothing.
    f1 = 2 * correct / np.maximum(support + predicted, 1)
    return accuracies.sum(axis=-1) / num_classes, f1.sum(axis=-1) / num_classes


class MetricCounts:
    """Counts of an evaluation. They are integers, and those of several processes can be summed.

    The memory is O(K^2) and does not grow with the number of videos. The sums have the same bits
    in whatever order and on however many processes the videos are added.

    Args:
        num_classes: Number of classes K.

    Attributes:
        confusion: Scored videos by label (row) and prediction (column), shape (K, K).
        top5_hits: Scored videos whose label is among the top five, by label, shape (K,).
        unreadable: Videos that could not be read, by label, shape (K,).
        nonfinite: Videos with non-finite scores, by label, shape (K,).
        nll_counts: Scored videos by bin of their negative log-likelihood.
        nll_sums: Sums of the negative log-likelihoods of each bin, in units of the bin.
        confidence_counts: Scored videos by bin of their confidence, and whether the prediction is
            wrong (column 0) or correct (column 1), shape (15, 2).
        confidence_sums: Sums of their confidences in units of 2**-30, shape (15, 2).
    """

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
        self.top5_hits = np.zeros(num_classes, dtype=np.int64)
        self.unreadable = np.zeros(num_classes, dtype=np.int64)
        self.nonfinite = np.zeros(num_classes, dtype=np.int64)
        self.nll_counts = np.zeros(_NUM_NLL_BINS, dtype=np.int64)
        self.nll_sums = np.zeros(_NUM_NLL_BINS, dtype=np.int64)
        self.confidence_counts = np.zeros((NUM_RELIABILITY_BINS, 2), dtype=np.int64)
        self.confidence_sums = np.zeros((NUM_RELIABILITY_BINS, 2), dtype=np.int64)

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.confusion)

    @property
    def num_scored(self) -> int:
        """The number of videos with scores."""
        return int(self.confusion.sum())

    @property
    def listed(self) -> NDArray[np.int64]:
        """The number of videos of each class, with or without scores, shape (K,)."""
        return self.confusion.sum(axis=1) + self.unreadable + self.nonfinite

    def add(self, log_probabilities: NDArray[np.float64], labels: NDArray) -> None:
        """Add scored videos.

        Args:
            log_probabilities: Normalized log-probabilities of shape (N, K), see `fusion.fuse`.
            labels: Class numbers of shape (N,).

        Raises:
            ValueError: If a label is not a class, or a probability of a label or of a prediction
                is not finite.
        """
        labels = checked_labels(labels, self.num_classes)
        rows = np.arange(len(labels))
        predictions = log_probabilities.argmax(axis=1)

        nll = np.maximum(-log_probabilities[rows, labels], 0.0)
        confidences = np.exp(log_probabilities[rows, predictions])
        if not ((nll < 2.0**_LAST_OCTAVE).all() and np.isfinite(confidences).all()):
            raise ValueError(
                "a log-probability is not finite. Pass videos with non-finite scores to "
                "add_unscored"
            )

        cells = labels * self.num_classes + predictions
        np.add.at(self.confusion.reshape(-1), cells, 1)
        np.add.at(self.top5_hits, labels[rank_of(log_probabilities, labels) <= 5], 1)
        self._add_nll(nll)
        self._add_confidences(np.minimum(confidences, 1.0), is_correct=predictions == labels)

    def _add_nll(self, nll: NDArray[np.float64]) -> None:
        octaves = np.where(nll > 0, np.frexp(nll)[1], _FIRST_OCTAVE)
        octaves = np.maximum(octaves, _FIRST_OCTAVE)
        in_units = np.ldexp(nll, FRACTION_BITS - octaves)

        # Within an octave the highest bit is set: its bins are 32 to 63. The first has 0 to 63.
        within_octave = in_units.astype(np.int64) >> (FRACTION_BITS - 6)
        bins = (octaves - _FIRST_OCTAVE) * _BINS_PER_OCTAVE + within_octave
        np.add.at(self.nll_counts, bins, 1)
        np.add.at(self.nll_sums, bins, np.rint(in_units).astype(np.int64))

    def _add_confidences(self, confidences: NDArray[np.float64], *, is_correct: NDArray) -> None:
        bins, in_units = bin_confidences(confidences)
        cells = 2 * bins + is_correct
        np.add.at(self.confidence_counts.reshape(-1), cells, 1)
        np.add.at(self.confidence_sums.reshape(-1), cells, in_units)

    def add_unscored(self, labels: ArrayLike, *, nonfinite: bool) -> None:
        """Add videos without scores.

        Args:
            labels: Class numbers of shape (N,).
            nonfinite: Whether the videos were read, and their scores are not finite.

        Raises:
            ValueError: If a label is not a class.
        """
        counts = self.nonfinite if nonfinite else self.unreadable
        np.add.at(counts, checked_labels(labels, self.num_classes), 1)

    def nll_means(self) -> NDArray[np.float64]:
        """Return the mean negative log-likelihood of each bin, 0 for an empty one."""
        octaves = np.arange(_NUM_NLL_BINS) // _BINS_PER_OCTAVE + _FIRST_OCTAVE - 1
        octaves = np.maximum(octaves, _FIRST_OCTAVE)
        means = self.nll_sums / np.maximum(self.nll_counts, 1)
        return np.ldexp(means, octaves - FRACTION_BITS)

    def mean_nll(self) -> float:
        """Return the mean negative log-likelihood of the scored videos."""
        return math.fsum(self.nll_means() * self.nll_counts) / self.num_scored

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """Return the counts by name, not copied: sum them in place over the processes."""
        return dict(vars(self))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.int64]]) -> "MetricCounts":
        """Return the counts whose `arrays` are equal to these."""
        counts = cls(len(arrays["confusion"]))
        for name, array in counts.arrays().items():
            array += arrays[name]
        return counts

    def update(self, other: "MetricCounts") -> None:
        """Add the counts of other videos."""
        for name, array in self.arrays().items():
            array += other.arrays()[name]
