"""Losses by name."""

import torch

from slowfast.engine.losses import LOSSES


def test_soft_labels_of_one_class_give_the_loss_of_hard_labels() -> None:
    logits, label = torch.randn(4, 5), torch.tensor([0, 3, 1, 4])
    soft = torch.eye(5)[label]
    torch.testing.assert_close(
        LOSSES["soft_cross_entropy"](logits, soft), LOSSES["cross_entropy"](logits, label)
    )
    by_hand = -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(LOSSES["soft_cross_entropy"](logits, soft), by_hand)
