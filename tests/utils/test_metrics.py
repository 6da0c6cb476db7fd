"""Accuracies of small tables, by hand."""

import torch

from slowfast.utils.metrics import hits_at

SCORES = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]])


def test_hits_by_hand() -> None:
    labels = torch.tensor([1, 1, 0])
    assert hits_at(SCORES, labels, k=1).tolist() == [True, False, False]
    assert hits_at(SCORES, labels, k=2).tolist()[:2] == [True, True]
    assert hits_at(SCORES, labels, k=5).tolist() == [True, True, True]
