"""The tally of a validation: its loss and metrics, by hand and with absurd scores."""

from collections.abc import Callable

import numpy as np
import pytest
import torch.nn.functional as F
from torch import Tensor

from slowfast.engine.losses import binary_cross_entropy
from slowfast.engine.tally import Tally
from slowfast.evaluation.view_scores import ViewScores


def tally_of(logits: list[list[float]], labels: list[int], loss_fn: Callable[..., Tensor]) -> Tally:
    """Return the combined tally of one view of each video."""
    names = [f"class {number}" for number in range(len(logits[0]))]
    array = np.array(labels, np.int32)
    tally = Tally(names, array, video_name=lambda row: f"{row}.mp4", loss_fn=loss_fn)
    scores = np.array(logits, np.float32)[:, None]
    tally.add(ViewScores(np.arange(len(labels)), scores, unreadable={}))
    tally.combine()
    return tally


def test_the_loss_is_the_mean_over_the_videos_by_hand() -> None:
    # Scores 3, 2, 1: log(e^3 + e^2 + e^1) = 3.4076, minus 3 for label 0 and minus 2 for label 1.
    tally = tally_of([[3, 2, 1], [3, 2, 1]], [0, 1], F.cross_entropy)
    result = tally.result()
    assert tally.so_far() == {"loss": result.loss, "top1": 50.0}
    assert result.loss == pytest.approx((0.4076 + 1.4076) / 2, abs=1e-4)
    assert (result.metrics.top1, result.metrics.num_scored) == (50.0, 2)

    # Each class by itself: softplus(-1) = 0.3133 for the label, softplus(0) = 0.6931 elsewhere.
    result = tally_of([[1, 0, 0]], [0], binary_cross_entropy).result()
    assert result.loss == pytest.approx((0.3133 + 2 * 0.6931) / 3, abs=1e-4)


@pytest.mark.parametrize("size", [1e6, 1e10, 1e30])
def test_the_loss_of_a_model_that_diverged_is_as_large_as_it_is(size: float) -> None:
    # The label's logit is the smaller one by `size`, for two of three videos.
    logits = [[size, 0.0], [0.0, size], [size, 0.0]]
    result = tally_of(logits, [1, 1, 1], F.cross_entropy).result()
    assert result.loss == pytest.approx(2 / 3 * size, rel=1e-6)
    assert result.metrics.nll == pytest.approx(2 / 3 * size, rel=1e-6)


def test_the_order_of_the_videos_does_not_change_a_bit() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 4)) * 10.0 ** rng.integers(-3, 9, size=(50, 1))
    labels = rng.integers(0, 4, 50)
    order = rng.permutation(50)
    losses = [
        tally_of(logits[rows].tolist(), labels[rows].tolist(), F.cross_entropy).result().loss
        for rows in (np.arange(50), order)
    ]
    assert losses[0] == losses[1]
