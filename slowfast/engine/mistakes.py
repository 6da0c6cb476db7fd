"""The worst mistakes of a validation: the wrong predictions that the model is most sure of."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.distributed.collectives import gather_over_ranks


class Mistake(NamedTuple):
    """A video whose prediction is wrong."""

    row: int  # of the list
    label: int
    prediction: int
    confidence: float  # probability of the prediction, from 0 to 1


class WorstMistakes:
    """Keeps the most confident mistakes of a process, and in the end of all of them.

    Args:
        number: Number of mistakes to keep. 0 keeps none.
        labels: Labels whose mistakes count, None for all.
    """

    def __init__(self, number: int, *, labels: Collection[int] | None = None) -> None:
        self._number = number
        self._labels = None if labels is None else np.array(sorted(labels))
        self.worst: list[Mistake] = []

    def add(
        self,
        rows: NDArray[np.int64],
        labels: NDArray[np.int32],
        log_probabilities: NDArray[np.float64],
    ) -> None:
        """Add scored videos.

        Args:
            rows: Rows of the list, shape (N,).
            labels: Class numbers, shape (N,).
            log_probabilities: Log-probabilities of shape (N, K).
        """
        if not self._number or not len(rows):
            return
        predictions = log_probabilities.argmax(axis=1)
        is_wrong = predictions != labels
        if self._labels is not None:
            is_wrong &= np.isin(labels, self._labels)

        found = [
            Mistake(
                int(rows[index]),
                int(labels[index]),
                int(predictions[index]),
                float(np.exp(log_probabilities[index, predictions[index]])),
            )
            for index in np.flatnonzero(is_wrong)
        ]
        self._keep([*self.worst, *found])

    def combine(self) -> None:
        """Take the mistakes of all processes into account. All of them call it together."""
        if self._number:
            self._keep(gather_over_ranks(self.worst))

    def _keep(self, mistakes: list[Mistake]) -> None:
        mistakes.sort(key=lambda mistake: (-mistake.confidence, mistake.row))
        self.worst = mistakes[: self._number]
