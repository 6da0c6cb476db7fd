"""Temperature that minimizes the NLL of a split, by hand and compared with scipy."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from slowfast.evaluation.calibration import fit_temperature

Passes = Callable[[], Iterator[tuple[NDArray, NDArray]]]


def batches_of(logits: NDArray, labels: NDArray, *, size: int = 1000) -> Passes:
    def start_pass() -> Iterator[tuple[NDArray, NDArray]]:
        for start in range(0, len(labels), size):
            yield logits[start : start + size], labels[start : start + size]

    return start_pass


def test_a_temperature_by_hand() -> None:
    # Three of four videos are right, so that the best probability of a prediction is 3/4. The
    # logits differ by 6: 6 / T = log(3).
    logits = np.tile([6.0, 0.0], (4, 1))
    temperature = fit_temperature(batches_of(logits, np.array([0, 0, 0, 1])))
    assert temperature == pytest.approx(6 / np.log(3), rel=1e-8)


@pytest.mark.parametrize("true_temperature", [0.05, 0.3, 1.0, 4.0, 60.0])
@pytest.mark.parametrize("size", [64, 1000])
def test_temperatures_agree_with_scipy(true_temperature: float, size: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((1000, 10))
    labels = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)  # drawn from the softmax
    logits = (true_temperature * scores).astype(np.float32)

    def nll(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        return -log_softmax(scaled, axis=1)[np.arange(1000), labels].mean()

    expected = minimize_scalar(nll, bounds=(-4.6, 4.6), method="bounded", options={"xatol": 1e-9})
    temperature = fit_temperature(batches_of(logits, labels, size=size))
    assert temperature == pytest.approx(np.exp(expected.x), rel=1e-5)
    assert temperature == pytest.approx(true_temperature, rel=0.15)


def test_a_model_that_is_always_right_is_at_the_lower_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logits = np.array([[2.0, 1], [1, 3]])
    assert fit_temperature(batches_of(logits, np.array([0, 1]))) == 0.01
    assert "every video is classified correctly" in caplog.text
    assert "The temperature is the bound 0.01" in caplog.text


def test_a_model_that_is_always_wrong_is_at_the_upper_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logits = np.array([[2.0, 1], [1, 3]])
    assert fit_temperature(batches_of(logits, np.array([1, 0]))) == 100
    assert "the model is no better than chance" in caplog.text


def test_a_likelihood_that_never_changes_leaves_the_logits() -> None:
    assert fit_temperature(batches_of(np.ones((3, 4)), np.array([0, 1, 2]))) == 1


def test_a_split_without_videos_is_an_error() -> None:
    with pytest.raises(ValueError, match="the split to calibrate on has no scored videos"):
        fit_temperature(lambda: [])


def test_splits_that_cannot_be_scored_are_errors() -> None:
    with pytest.raises(ValueError, match="a logit of the split is not finite"):
        fit_temperature(batches_of(np.array([[np.inf, 0]]), np.array([0])))
    with pytest.raises(ValueError, match="label 2 is not one of the 2 classes"):
        fit_temperature(batches_of(np.array([[1.0, 0]]), np.array([2])))
