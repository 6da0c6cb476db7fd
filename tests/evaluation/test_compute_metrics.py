"""Metrics from counts, by hand and compared with scikit-learn and torchmetrics."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from slowfast.evaluation.fusion import log_softmax
from slowfast.evaluation.metrics import MetricCounts, Metrics, compute_metrics


def metrics_of(
    probabilities: NDArray | Sequence[Sequence[float]],
    labels: NDArray | Sequence[int],
    unreadable: Sequence[int] = (),
    nonfinite: Sequence[int] = (),
) -> Metrics:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    num_classes = probabilities.shape[1]
    counts = MetricCounts(num_classes)
    counts.add(np.log(probabilities), np.asarray(labels))
    counts.add_unscored(unreadable, nonfinite=False)
    counts.add_unscored(nonfinite, nonfinite=True)
    return compute_metrics(counts, [f"class {k}" for k in range(num_classes)], num_resamples=20)


def test_metrics_by_hand() -> None:
    metrics = metrics_of(
        [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]],
        labels=[0, 1, 1, 1],
        unreadable=[0, 2],
        nonfinite=[1],
    )
    assert (metrics.num_videos, metrics.num_scored) == (7, 4)
    assert (metrics.num_unreadable, metrics.num_nonfinite) == (2, 1)

    # Predictions 0, 0, 1, 0: two of four are right, and so are those of all seven.
    assert (metrics.top1, metrics.top5) == (50, 100)
    assert metrics.top1_listed == pytest.approx(200 / 7)
    assert metrics.top5_listed == pytest.approx(400 / 7)

    # Recalls 1/1 and 1/3. Precisions 1/3 and 1/1. F1 is 1/2 for both.
    assert metrics.mean_class_accuracy == pytest.approx(200 / 3)
    assert metrics.macro_f1 == 50
    first, second, third = metrics.classes
    assert (first.name, first.support, first.listed) == ("class 0", 1, 2)
    assert (first.precision, first.recall, first.f1) == (pytest.approx(100 / 3), 100, 50)
    assert (second.support, second.listed) == (3, 4)
    assert (second.precision, second.recall, second.f1) == (100, pytest.approx(100 / 3), 50)
    assert (third.support, third.listed) == (0, 1)
    assert (third.precision, third.recall, third.f1) == (None, None, None)

    assert metrics.nll == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.3]).mean(), abs=1e-8)
    # Bins of 1/15: 0.5 (wrong), 0.6 (wrong), 0.7 (right) and 0.8 (right) are in one each.
    assert metrics.ece == pytest.approx(100 * (0.5 + 0.6 + 0.3 + 0.2) / 4, abs=1e-6)
    eighth = metrics.reliability[7]
    assert (eighth.low, eighth.high) == (pytest.approx(700 / 15), pytest.approx(800 / 15))
    assert (eighth.count, eighth.confidence, eighth.accuracy) == (1, 50, 0)
    assert (metrics.reliability[0].confidence, metrics.reliability[0].accuracy) == (None, None)

    assert metrics.confusion == {"labels": [0, 1, 1], "predictions": [0, 0, 1], "counts": [1, 2, 1]}
    (confused,) = metrics.most_confused
    assert (confused.label, confused.prediction, confused.count) == (1, 0, 2)
    assert confused.percent == pytest.approx(200 / 3)


def test_metrics_agree_with_scikit_learn_and_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    num_videos, num_classes = 2000, 20
    labels = rng.integers(num_classes - 1, size=num_videos)  # the last class has no videos
    logits = rng.standard_normal((num_videos, num_classes))
    logits[np.arange(num_videos), labels] += 1.5
    probabilities = np.exp(log_softmax(logits))
    predictions = logits.argmax(axis=1)
    metrics = metrics_of(probabilities, labels)
    classes = np.arange(num_classes)

    assert metrics.top1 == pytest.approx(
        100 * top_k_accuracy_score(labels, logits, k=1, labels=classes)
    )
    assert metrics.top5 == pytest.approx(
        100 * top_k_accuracy_score(labels, logits, k=5, labels=classes)
    )
    assert metrics.nll == pytest.approx(log_loss(labels, probabilities, labels=classes), rel=1e-8)

    with np.errstate(invalid="ignore"):
        precisions, recalls, f1, support = precision_recall_fscore_support(
            labels, predictions, labels=classes, zero_division=0
        )
    for k in range(num_classes - 1):
        entry = metrics.classes[k]
        assert entry.precision == pytest.approx(100 * precisions[k])
        assert entry.recall == pytest.approx(100 * recalls[k])
        assert entry.f1 == pytest.approx(100 * f1[k])
        assert entry.support == support[k]
    assert metrics.macro_f1 == pytest.approx(100 * f1[:-1].mean())

    confusion = np.zeros((num_classes, num_classes), dtype=int)
    cells = metrics.confusion
    confusion[cells["labels"], cells["predictions"]] = cells["counts"]
    np.testing.assert_array_equal(confusion, confusion_matrix(labels, predictions, labels=classes))

    arguments = torch.from_numpy(probabilities), torch.from_numpy(labels)
    accuracy = multiclass_accuracy(*arguments, num_classes=num_classes, average="none")
    assert metrics.mean_class_accuracy == pytest.approx(100 * accuracy[:-1].mean().item(), rel=1e-6)
    error = multiclass_calibration_error(*arguments, num_classes=num_classes, n_bins=15)
    assert metrics.ece == pytest.approx(100 * error.item(), rel=1e-5)


@pytest.mark.parametrize("num_classes", [1, 2, 4, 5])
def test_up_to_five_classes_are_all_in_the_top_five(num_classes: int) -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(num_classes), size=30)
    metrics = metrics_of(probabilities, np.arange(30) % num_classes)
    assert metrics.top5 == 100
    assert metrics.intervals["top5"] == [100, 100]


def test_all_wrong_predictions_have_zero_accuracy() -> None:
    metrics = metrics_of([[0.9, 0.1], [0.1, 0.9]], labels=[1, 0])
    assert (metrics.top1, metrics.mean_class_accuracy, metrics.macro_f1) == (0, 0, 0)
    assert metrics.ece == pytest.approx(90, abs=1e-6)
    assert [entry.f1 for entry in metrics.classes] == [0, 0]
    assert metrics.intervals["macro_f1"] == pytest.approx([0, 100 - 100 * 0.025**0.5])


def test_one_video_has_metrics() -> None:
    metrics = metrics_of([[0.25, 0.75]], labels=[1])
    assert (metrics.top1, metrics.mean_class_accuracy, metrics.macro_f1) == (100, 100, 100)
    assert metrics.nll == pytest.approx(-np.log(0.75), abs=1e-9)
    assert metrics.intervals["top1"] == pytest.approx([2.5, 100])  # one coin says little
    assert metrics.intervals["nll"] == [metrics.nll, metrics.nll]


def test_equal_scores_predict_the_first_class() -> None:
    metrics = metrics_of([[0.5, 0.5], [0.5, 0.5]], labels=[0, 1])
    assert metrics.top1 == 50
    assert metrics.confusion["predictions"] == [0, 0]


def test_at_most_fifty_pairs_are_listed_most_frequent_first() -> None:
    # Class i is taken for class i + 1, once more than class i - 1 is.
    labels = np.repeat(np.arange(59), np.arange(1, 60))
    probabilities = np.full((len(labels), 60), 0.5 / 59)
    probabilities[np.arange(len(labels)), labels + 1] = 0.5
    metrics = metrics_of(probabilities, labels)
    pairs = [(entry.label, entry.prediction, entry.count) for entry in metrics.most_confused]
    assert pairs == [(label, label + 1, label + 1) for label in range(58, 8, -1)]


def test_metrics_are_json() -> None:
    metrics = metrics_of([[0.7, 0.3], [0.6, 0.4]], labels=[0, 1], unreadable=[0])
    content = json.loads(json.dumps(metrics.as_json(), allow_nan=False))
    assert (content["num_videos"], content["top1"]) == (3, 50)
    assert content["intervals"]["level"] == 0.95
    assert content["most_confused"] == [{"label": 1, "prediction": 0, "count": 1, "percent": 100}]
    assert len(content["reliability"]) == 15
    assert set(content["classes"][0]) == {"name", "support", "listed", "precision", "recall", "f1"}


def test_no_scored_video_is_an_error() -> None:
    message = "no video of 3 has scores: 2 could not be read, and the scores of 1 are not finite"
    with pytest.raises(ValueError, match=message):
        metrics_of(np.zeros((0, 2)), [], unreadable=[0, 1], nonfinite=[1])


def test_a_wrong_number_of_class_names_is_an_error() -> None:
    message = "there are 1 class names for scores of 2 classes"
    with pytest.raises(ValueError, match=message):
        compute_metrics(MetricCounts(2), ["left"])
