"""MixUp, CutMix and label smoothing."""

from typing import Any

import numpy as np
import pytest
import torch

from slowfast.datasets.mixup import Mix, smooth_one_hot


def mix(**settings: Any) -> Mix:
    defaults: dict[str, Any] = {
        "num_classes": 4,
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "probability": 1.0,
        "switch_probability": 0.5,
        "smoothing": 0.0,
    }
    return Mix(**(defaults | settings))


def zeros_and_ones() -> tuple[torch.Tensor, torch.Tensor]:
    """A clip of zeros with label 1 and a clip of ones with label 3."""
    frames = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1).expand(2, 3, 2, 20, 30).clone()
    return frames, torch.tensor([1, 3])


def test_smoothing_by_hand() -> None:
    # 0.1 / 4 everywhere, and 0.9 more on the label.
    expected = torch.tensor([[0.025, 0.925, 0.025, 0.025]])
    targets = smooth_one_hot(torch.tensor([1]), num_classes=4, smoothing=0.1)
    torch.testing.assert_close(targets, expected)


@pytest.mark.parametrize("seed", range(5))
def test_mixup_mixes_each_clip_with_its_mirror(seed: int) -> None:
    frames, labels = zeros_and_ones()
    mixed, targets = mix(cutmix_alpha=0.0)(frames, labels, np.random.default_rng(seed))
    share = 1 - mixed[0, 0, 0, 0, 0].item()  # share of the clip of zeros in its own mix
    assert torch.allclose(mixed[0], torch.tensor(1 - share))
    assert torch.allclose(mixed[1], torch.tensor(share))
    torch.testing.assert_close(targets[0], torch.tensor([0, share, 0, 1 - share]))
    torch.testing.assert_close(targets[1], torch.tensor([0, 1 - share, 0, share]))


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_pastes_a_box_and_weighs_labels_by_area(seed: int) -> None:
    frames, labels = zeros_and_ones()
    mixed, targets = mix(mixup_alpha=0.0)(frames, labels, np.random.default_rng(seed))
    pasted = mixed[0, 0, 0] == 1
    num_rows, num_columns = pasted.any(dim=1).sum(), pasted.any(dim=0).sum()
    assert pasted.sum() == num_rows * num_columns  # a single box
    assert (mixed[0] == pasted).all()  # the same in all channels and frames
    assert targets[0, 3].item() == pytest.approx(pasted.float().mean().item(), abs=1e-6)
    assert targets.sum(dim=1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.8])
def test_the_middle_of_an_odd_batch_keeps_its_label(mixup_alpha: float) -> None:
    # The clips are 0, 1 and 2. The first and the last mirror each other, the middle one itself.
    frames = torch.arange(3.0).reshape(3, 1, 1, 1, 1).expand(3, 3, 2, 20, 30).clone()
    mix_batch = mix(mixup_alpha=mixup_alpha, cutmix_alpha=1.0 - mixup_alpha)
    mixed, targets = mix_batch(frames, torch.tensor([0, 1, 2]), np.random.default_rng(1))
    assert (mixed[1] == 1).all()
    torch.testing.assert_close(targets[1], torch.tensor([0.0, 1.0, 0.0, 0.0]))

    share = targets[0, 0].item()
    assert 0 < share < 1
    torch.testing.assert_close(targets[2], torch.tensor([1 - share, 0.0, share, 0.0]))
    assert mixed[0].mean().item() == pytest.approx(2 * (1 - share), abs=1e-5)
    assert mixed[2].mean().item() == pytest.approx(2 * share, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_of_one_is_mixed_with_itself(seed: int) -> None:
    frames, labels = zeros_and_ones()
    mixed, targets = mix()(frames[1:].clone(), labels[1:], np.random.default_rng(seed))
    torch.testing.assert_close(mixed, frames[1:])
    torch.testing.assert_close(targets, torch.tensor([[0.0, 0.0, 0.0, 1.0]]))


def test_shares_of_mixup_follow_the_beta_distribution() -> None:
    shares = []
    for seed in range(2000):
        _, targets = mix(cutmix_alpha=0.0)(*zeros_and_ones(), np.random.default_rng(seed))
        shares.append(targets[0, 1].item())

    # Beta(0.8, 0.8) has mean 1/2 and variance 1 / (4 * (2 * 0.8 + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / 10.4, rel=0.08)


def test_mixup_and_cutmix_have_their_probabilities() -> None:
    counts = {"none": 0, "mixup": 0, "cutmix": 0}
    mix_batch = mix(probability=0.6, switch_probability=0.25)
    for seed in range(1000):
        mixed, _ = mix_batch(*zeros_and_ones(), np.random.default_rng(seed))
        values = mixed[0].unique()
        if len(values) == 2 or values.item() == 1:
            counts["cutmix"] += 1
        else:
            counts["none" if values.item() == 0 else "mixup"] += 1

    # An empty CutMix box counts as no mix.
    assert counts["mixup"] == pytest.approx(450, abs=50)
    assert counts["none"] == pytest.approx(400, abs=60)


def test_without_mixing_labels_are_only_smoothed() -> None:
    frames, labels = zeros_and_ones()
    mix_batch = mix(probability=0.0, smoothing=0.1)
    mixed, targets = mix_batch(frames.clone(), labels, np.random.default_rng(0))
    assert torch.equal(mixed, frames)
    torch.testing.assert_close(targets, smooth_one_hot(labels, num_classes=4, smoothing=0.1))
