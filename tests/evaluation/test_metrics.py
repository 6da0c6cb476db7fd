"""Accuracies and losses of a score table, by hand."""

import numpy as np
import pytest
import torch

from slowfast.engine.losses import binary_cross_entropy
from slowfast.evaluation.metrics import summarize
from tests.evaluation.combined_table import combined_table


def test_accuracies_by_hand() -> None:
    table = combined_table([[3.0, 2, 1], [3, 2, 1], [1, 2, 3], [2, 3, 1]])
    result = summarize(table, torch.tensor([0, 1, 2, 1]))
    assert (result.num_videos, result.num_scored, result.top1, result.top5) == (4, 4, 75.0, 100.0)
    assert result.class_top1 == [100.0, 50.0, 100.0]
    assert result.class_counts == [1, 2, 1]


def test_unscored_videos_count_as_wrong_or_not_at_all() -> None:
    table = combined_table(
        [[3.0, 2, 1], [3, 2, 1], [0, 0, 0], [0, 0, 0]],
        unreadable={3: "/b.mp4: gone", 2: "/a.mp4: empty"},
    )
    result = summarize(table, torch.tensor([0, 1, 0, 2]))
    assert (result.num_videos, result.num_scored) == (4, 2)
    assert (result.top1, result.top1_listed) == (50.0, 25.0)
    assert (result.top5, result.top5_listed) == (100.0, 50.0)
    assert result.class_counts == [1, 1, 0]
    assert [unreadable.video_index for unreadable in table.unreadable] == [2, 3]


def test_the_loss_is_that_of_the_mean_view_by_hand() -> None:
    # Scores 3, 2, 1: log(e^3 + e^2 + e^1) = 3.4076, minus 3 for label 0 and minus 2 for label 1.
    table = combined_table([[3.0, 2, 1], [3, 2, 1]])
    labels = torch.tensor([0, 1])
    assert summarize(table, labels).loss == pytest.approx((0.4076 + 1.4076) / 2, abs=1e-4)

    # As sums over 2 views, the same scores are 1.5, 1, 0.5: log(e^1.5 + e^1 + e^0.5) = 2.1803.
    table.num_views = 2
    assert summarize(table, labels).loss == pytest.approx((0.6803 + 1.1803) / 2, abs=1e-4)
    table.scores, table.are_probabilities = torch.tensor([[1.0, 0.6, 0.4], [1, 0.6, 0.4]]), True
    assert summarize(table, labels).loss == pytest.approx(-(np.log(0.5) + np.log(0.3)) / 2)

    # Each class by itself: softplus(-1) = 0.3133 for the label, softplus(0) = 0.6931 elsewhere.
    table = combined_table([[1.0, 0, 0]])
    expected = (0.3133 + 2 * 0.6931) / 3
    loss = summarize(table, labels[:1], loss_fn=binary_cross_entropy).loss
    assert loss == pytest.approx(expected, abs=1e-4)


def test_a_test_without_any_readable_video_is_an_error() -> None:
    table = combined_table([[0.0, 0]], unreadable={0: "/a.mp4: gone"})
    message = r"no video of 1 has scores\. The first one: /a\.mp4: gone"
    with pytest.raises(ValueError, match=message):
        summarize(table, torch.tensor([0]))
