"""Temperature scaling: the temperature that calibrates the probabilities of a model on a split.

Source: Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, sec. 4.2.
"""

import logging
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.evaluation.fusion import log_softmax
from slowfast.evaluation.metric_counts import checked_labels

logger = logging.getLogger(__name__)

# Outside of them, the model is always right on the split or no better than chance.
MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 100.0

# Relative precision of the temperature, and a number of passes that bisection alone needs.
_PRECISION = 1e-9
_MAX_PASSES = 50

Batches = Iterable[tuple[NDArray, NDArray]]


class _Slope(NamedTuple):
    """Derivatives of the mean NLL with respect to log T."""

    first: float
    second: float


def fit_temperature(batches: Callable[[], Batches]) -> float:
    """Return the temperature T that minimizes the NLL of softmax(logits / T).

    The NLL is convex in 1 / T. A Newton iteration in log T, safeguarded by bisection, reads the
    split about ten times and holds one batch at a time. If the NLL is lowest at a bound, a warning
    says so, and the bound is returned.

    Args:
        batches: Function that starts a pass over the split. It returns batches of finite logits of
            shape (N, K), the means over the views, and labels of shape (N,).

    Raises:
        ValueError: If the split is empty, a label is not a class, or a logit is not finite.
    """
    log_temperature = 0.0
    slope = _slope(batches, log_temperature)
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    if slope.first > 0 and _slope(batches, low).first >= 0:
        return _at_bound(MIN_TEMPERATURE, "every video is classified correctly, or almost")
    if slope.first < 0 and _slope(batches, high).first <= 0:
        return _at_bound(MAX_TEMPERATURE, "the model is no better than chance")

    for _ in range(_MAX_PASSES):
        if slope.first < 0:
            low = log_temperature
        elif slope.first > 0:
            high = log_temperature
        else:
            break

        previous = log_temperature
        log_temperature = (low + high) / 2
        if slope.second > 0 and low < previous - slope.first / slope.second < high:
            log_temperature = previous - slope.first / slope.second
        if abs(log_temperature - previous) < _PRECISION:
            break
        slope = _slope(batches, log_temperature)
    return math.exp(log_temperature)


def _at_bound(temperature: float, reason: str) -> float:
    logger.warning(
        f"No temperature from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g} minimizes the NLL of the "
        f"split: {reason}. The temperature is the bound {temperature:g}. Choose another split"
    )
    return temperature


def _slope(batches: Callable[[], Batches], log_temperature: float) -> _Slope:
    """Return the derivatives of the NLL at a temperature, in one pass over the split."""
    firsts, seconds, num_videos = [], [], 0
    for logits, labels in batches():
        if not np.isfinite(logits).all():
            raise ValueError("a logit of the split is not finite. Leave its video out")
        labels = checked_labels(labels, logits.shape[1])

        scaled = logits.astype(np.float64) / math.exp(log_temperature)
        probabilities = np.exp(log_softmax(scaled))
        means = (probabilities * scaled).sum(axis=1)
        variances = (probabilities * (scaled - means[:, None]) ** 2).sum(axis=1)

        # With s = logits / T, d NLL / d log T is s[label] - E[s]. That of E[s] is -E[s] - Var[s].
        gaps = scaled[np.arange(len(labels)), labels] - means
        firsts.append(math.fsum(gaps))
        seconds.append(math.fsum(variances - gaps))
        num_videos += len(labels)

    if not num_videos:
        raise ValueError("the split to calibrate on has no scored videos. Choose another split")
    return _Slope(math.fsum(firsts) / num_videos, math.fsum(seconds) / num_videos)
