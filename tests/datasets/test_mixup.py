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


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    frames = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1).expand(2, 3, 2, 20, 30).clone()
    return frames, torch.tensor([1, 3])


def test_smoothing_by_hand() -> None:
    # 0.1 / 4 everywhere, 0.9 more on the label.
    expected = torch.tensor([[0.025, 0.925, 0.025, 0.025]])
    torch.testing.assert_close(
        smooth_one_hot(torch.tensor([1]), num_classes=4, smoothing=0.1), expected
    )


@pytest.mark.parametrize("seed", range(5))
def test_mixup_mixes_each_clip_with_its_mirror_in_the_batch(seed: int) -> None:
    frames, label = batch()
    mixed, target = mix(cutmix_alpha=0.0)(frames, label, np.random.default_rng(seed))
    share = 1 - mixed[0, 0, 0, 0, 0].item()  # the clip of zeros has `share` of itself
    assert torch.allclose(mixed[0], torch.tensor(1 - share))
    assert torch.allclose(mixed[1], torch.tensor(share))
    torch.testing.assert_close(target[0], torch.tensor([0, share, 0, 1 - share]))
    torch.testing.assert_close(target[1], torch.tensor([0, 1 - share, 0, share]))


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_pastes_a_box_and_weighs_the_labels_by_its_area(seed: int) -> None:
    frames, label = batch()
    mixed, target = mix(mixup_alpha=0.0)(frames, label, np.random.default_rng(seed))
    pasted = mixed[0, 0, 0] == 1
    rows, columns = pasted.any(dim=1).sum(), pasted.any(dim=0).sum()
    assert pasted.sum() == rows * columns  # one box
    assert (mixed[0] == pasted).all()  # the same in all channels and frames
    assert target[0, 3].item() == pytest.approx(pasted.float().mean().item(), abs=1e-6)
    assert target.sum(dim=1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.8])
def test_the_middle_of_an_odd_batch_keeps_its_own_label(mixup_alpha: float) -> None:
    # Of three clips of 0, 1 and 2, the first and the last are mirror images, the middle is its own.
    frames = torch.arange(3.0).reshape(3, 1, 1, 1, 1).expand(3, 3, 2, 20, 30).clone()
    mixed, target = mix(mixup_alpha=mixup_alpha, cutmix_alpha=1.0 - mixup_alpha)(
        frames, torch.tensor([0, 1, 2]), np.random.default_rng(1)
    )
    assert (mixed[1] == 1).all()
    torch.testing.assert_close(target[1], torch.tensor([0.0, 1.0, 0.0, 0.0]))
    share = target[0, 0].item()
    assert 0 < share < 1
    torch.testing.assert_close(target[2], torch.tensor([1 - share, 0.0, share, 0.0]))
    assert mixed[0].mean().item() == pytest.approx(2 * (1 - share), abs=1e-5)
    assert mixed[2].mean().item() == pytest.approx(2 * share, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_of_one_is_mixed_with_itself(seed: int) -> None:
    frames, label = batch()
    mixed, target = mix()(frames[1:].clone(), label[1:], np.random.default_rng(seed))
    torch.testing.assert_close(mixed, frames[1:])
    torch.testing.assert_close(target, torch.tensor([[0.0, 0.0, 0.0, 1.0]]))


def test_shares_of_mixup_follow_the_beta_distribution() -> None:
    shares = [
        mix(cutmix_alpha=0.0)(*batch(), np.random.default_rng(seed))[1][0, 1].item()
        for seed in range(2000)
    ]
    # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 * (2 * 0.8 + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / 10.4, rel=0.08)


def test_batches_are_mixed_and_switched_as_often_as_asked() -> None:
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(1000):
        mixed, _ = mix(probability=0.6, switch_probability=0.25)(
            *batch(), np.random.default_rng(seed)
        )
        values = mixed[0].unique()
        if len(values) == 2 or values.item() == 1:
            kinds["cutmix"] += 1
        else:
            kinds["none" if values.item() == 0 else "mixup"] += 1
    # A CutMix box of no area looks like no mix at all.
    assert kinds["mixup"] == pytest.approx(450, abs=50)
    assert kinds["none"] == pytest.approx(400, abs=60)


def test_without_mixing_the_labels_are_smoothed_alone() -> None:
    frames, label = batch()
    mixed, target = mix(probability=0.0, smoothing=0.1)(
        frames.clone(), label, np.random.default_rng(0)
    )
    assert torch.equal(mixed, frames)
    torch.testing.assert_close(target, smooth_one_hot(label, num_classes=4, smoothing=0.1))
