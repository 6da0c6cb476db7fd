"""Parity of an exported model with its classifier, and the time that each of them takes."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast.exporting.capture import ExportOptions
from slowfast.exporting.formats import Session
from slowfast.inference.classifier import Classifier

BATCH_SIZES = (1, 3, 8)

_SMALLEST_LOG = -69.0  # of a probability, 1e-30: float32 holds smaller ones with few digits
_MAX_RUNS = 10  # of a latency
_MAX_SECONDS = 5.0


@dataclass(frozen=True)
class Parity:
    """How far the scores of an exported model are from those of its classifier.

    Attributes:
        num_clips: Number of compared clips.
        num_same_top1: Number of clips with the same most probable class.
        max_difference: Largest difference of a logit. It means the same for probabilities, which
            are compared by their logarithm.
        batch_sizes: Batch sizes that were run, ascending.
    """

    num_clips: int
    num_same_top1: int
    max_difference: float
    batch_sizes: tuple[int, ...]


class Latency(NamedTuple):
    """Median time of a forward pass of one clip, in milliseconds."""

    eager: float
    exported: float


def compare(
    classifier: Classifier, session: Session, options: ExportOptions, clips: Iterable[Tensor]
) -> Parity:
    """Return the parity of an exported model with its classifier.

    Args:
        classifier: The classifier. Its precision is float32 ("off").
        session: The exported model.
        options: What the exported model takes and returns.
        clips: Clips (C, T, H, W) of one size as the exported model takes them, at least one.

    Raises:
        FloatingPointError: If a score of the classifier is not finite.
        ValueError: If there is no clip.
    """
    differences: list[float] = []
    is_same: list[bool] = []
    batch_sizes: set[int] = set()

    for batch in _batches(clips):
        expected = classifier.score(batch).astype(np.float64)
        if not np.isfinite(expected).all():
            raise FloatingPointError("the scores of the trained model are not finite")
        found = session.run(batch.numpy()).astype(np.float64)
        if options.softmax:
            expected, found = _log_softmax(expected), _log(found)

        differences.append(float(np.abs(found - expected).max()))
        is_same += (found.argmax(axis=1) == expected.argmax(axis=1)).tolist()
        batch_sizes.add(len(batch))

    if not differences:
        raise ValueError("there is no clip to compare")
    return Parity(
        num_clips=len(is_same),
        num_same_top1=sum(is_same),
        max_difference=float(np.max(differences)),  # NaN if one of them is
        batch_sizes=tuple(sorted(batch_sizes)),
    )


def _batches(clips: Iterable[Tensor]) -> Iterator[Tensor]:
    """Iterate over batches (B, C, T, H, W) of the sizes in turn. The last one may be smaller."""
    remaining = iter(clips)
    for size in cycle(BATCH_SIZES):
        batch = list(islice(remaining, size))
        if not batch:
            return
        yield torch.stack(batch)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities of logits (B, K), at least `_SMALLEST_LOG`."""
    logits = logits - logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.maximum(logits, _SMALLEST_LOG)


def _log(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithms of probabilities (B, K), at least `_SMALLEST_LOG`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(np.log(probabilities), _SMALLEST_LOG)


def measure_latency(classifier: Classifier, session: Session, clip: Tensor) -> Latency:
    """Return the time that one clip takes in both models. They run in turns.

    Args:
        classifier: The classifier.
        session: The exported model.
        clip: A clip (C, T, H, W) as the exported model takes it.
    """
    batch = clip.unsqueeze(0)
    frames = batch.numpy()
    classifier.score(batch)
    session.run(frames)

    eager: list[float] = []
    exported: list[float] = []
    end = time.perf_counter() + _MAX_SECONDS
    while len(eager) < _MAX_RUNS and (not eager or time.perf_counter() < end):
        start = time.perf_counter()
        classifier.score(batch)
        middle = time.perf_counter()
        session.run(frames)
        eager.append(middle - start)
        exported.append(time.perf_counter() - middle)
    return Latency(1000 * median(eager), 1000 * median(exported))
