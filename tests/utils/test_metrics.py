"""Accuracies of small tables, by hand."""

import pytest
import torch

from slowfast.utils.metrics import accuracy_by_class, hits_at

SCORES = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]])


def test_hits_by_hand() -> None:
    labels = torch.tensor([1, 1, 0])
    assert hits_at(SCORES, labels, k=1).tolist() == [True, False, False]
    assert hits_at(SCORES, labels, k=2).tolist()[:2] == [True, True]
    assert hits_at(SCORES, labels, k=5).tolist() == [True, True, True]


def test_accuracy_by_class_by_hand() -> None:
    shares, counts = accuracy_by_class(SCORES, torch.tensor([1, 1, 2]))
    assert counts.tolist() == [0, 2, 1]
    assert shares.tolist()[1:] == pytest.approx([0.5, 1.0])
    assert shares[0].isnan()
