"""Probes: each one is a training of its own, and equals that of the head of a frozen model."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader, build_normalize
from slowfast.models.build import build_model
from slowfast.models.heads import build_head
from slowfast.models.weights import load_weights
from slowfast.probing.labeled_features import LabeledFeatures, label_features
from slowfast.probing.probes import (
    ProbeSettings,
    Schedule,
    epoch_order,
    make_grid,
    score_probes,
    train_probes,
)
from tests.inference.extractions import extract
from tests.probing.labeled_clusters import write_clusters

CPU = torch.device("cpu")


def worst_difference(one: nn.Module, other: nn.Module) -> float:
    """Return the largest difference of two modules in any weight."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def test_the_grid_has_every_combination_once() -> None:
    grid = make_grid(["linear", "mlp"], lrs=[0.1, 0.2, 0.1], weight_decays=[0.0])
    assert grid == [
        ProbeSettings("linear", 0.1, 0.0),
        ProbeSettings("linear", 0.2, 0.0),
        ProbeSettings("mlp", 0.1, 0.0),
        ProbeSettings("mlp", 0.2, 0.0),
    ]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_each_probe_equals_a_training_of_its_own(tmp_path: Path, optimizer: str) -> None:
    labeled = label_features(write_clusters(tmp_path, shape=(5, 8)))
    schedule = Schedule(optimizer, num_epochs=3, batch_size=17, seed=4)
    grid = make_grid(["linear", "mlp", "attentive"], lrs=[0.003, 0.1], weight_decays=[0.0, 0.3])
    together = train_probes(grid, labeled, schedule=schedule, device=CPU)
    for settings, head in zip(grid, together, strict=True):
        [alone] = train_probes([settings], labeled, schedule=schedule, device=CPU)
        for a, b in zip(head.parameters(), alone.parameters(), strict=True):
            assert torch.equal(a, b), settings
    assert worst_difference(together[0], together[1]) > 1e-4  # the weight decay matters


def train_plainly(
    head: nn.Module,
    settings: ProbeSettings,
    forward: Callable[[list[int]], Tensor],
    labels: Tensor,
    *,
    schedule: Schedule,
) -> None:
    """Train a head as a loop without this package would, with AdamW and a cosine schedule."""
    decayed = [parameter for parameter in head.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in head.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=settings.lr,
    )
    num_steps = -(-len(labels) // schedule.batch_size)
    for epoch in range(schedule.num_epochs):
        order = epoch_order(len(labels), seed=schedule.seed, epoch=epoch)
        starts = range(schedule.batch_size, len(order), schedule.batch_size)
        for step, chosen in enumerate(np.array_split(order, starts)):
            progress = (epoch + step / num_steps) / schedule.num_epochs
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * (math.cos(math.pi * progress) + 1) / 2
            optimizer.zero_grad()
            F.cross_entropy(forward(chosen.tolist()), labels[chosen]).backward()
            optimizer.step()


# AdamW turns the rounding of gradients near 0 into steps. The pooling has such gradients.
@pytest.mark.parametrize(
    ("kind", "tolerance"), [("linear", 1e-6), ("mlp", 1e-6), ("attentive", 1e-5)]
)
def test_a_probe_equals_the_head_of_a_frozen_model(
    tiny_cfg: Callable[..., CfgNode], kind: str, tolerance: float
) -> None:
    cfg = tiny_cfg(MODEL__HEAD=kind, DATA__TEST_CROP_SIZE=64)
    features = extract(cfg, tokens=kind == "attentive")
    labeled = label_features(features)
    settings = ProbeSettings(kind, lr=0.01, weight_decay=0.1)
    schedule = Schedule(num_epochs=4, batch_size=10, seed=5)
    [probe] = train_probes([settings], labeled, schedule=schedule, device=CPU)

    # The same head in the model, trained on the frames of the views of the test.
    model = build_model(cfg)
    load_weights(model, features.record.weights)
    model.eval().requires_grad_(False)
    torch.manual_seed(schedule.seed)
    start = build_head(kind, num_features=16, num_classes=8)
    model.load_state_dict(start.state_dict(), strict=False)
    head = nn.ModuleDict({name: model.get_submodule(name) for name in ("pool", "head")})
    head.requires_grad_(True)

    views = [
        view for batch in build_loader(cfg, "test") for view in build_normalize(cfg)(batch.frames)
    ]
    train_plainly(
        head,
        settings,
        lambda chosen: model(torch.stack([views[number] for number in chosen])),
        torch.from_numpy(features.labels),
        schedule=schedule,
    )
    assert worst_difference(probe, start) > 0.01
    trained = nn.ModuleDict({"pool": probe.pool, "head": probe.head})
    assert worst_difference(trained, head) < tolerance


def test_the_views_of_a_video_are_fused_as_in_the_test(tmp_path: Path) -> None:
    labeled = label_features(write_clusters(tmp_path, num_videos=12, per_video=3))
    grid = make_grid(["linear"], lrs=[0.01], weight_decays=[0.0])
    heads = train_probes(grid, labeled, schedule=Schedule(num_epochs=1), device=CPU)
    [counts] = score_probes(heads, labeled)

    with torch.no_grad():
        logits = heads[0](torch.from_numpy(labeled.features[:])[:, None])
    means = logits.double().unflatten(0, (12, 3)).mean(dim=1)
    labels = torch.from_numpy(labeled.labels)
    assert np.trace(counts.confusion) == (means.argmax(dim=1) == labels).sum()
    assert counts.mean_nll() == pytest.approx(F.cross_entropy(means, labels).item())


def test_an_attentive_head_needs_tokens(tmp_path: Path) -> None:
    labeled = label_features(write_clusters(tmp_path))
    grid = [ProbeSettings("attentive", 0.1, 0.0)]
    with pytest.raises(ValueError, match=r"needs all tokens.*tools/features\.py --tokens"):
        train_probes(grid, labeled, schedule=Schedule(), device=CPU)
    with pytest.raises(ValueError, match=r"the optimizer is 'lion'. Choose one of: adamw, sgd"):
        train_probes(grid, labeled, schedule=Schedule("lion"), device=CPU)


def test_the_order_differs_by_epoch_and_seed_alone(tmp_path: Path) -> None:
    order = epoch_order(50, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(50))
    assert order.tolist() == epoch_order(50, seed=1, epoch=2).tolist()
    assert order.tolist() != epoch_order(50, seed=1, epoch=3).tolist()
    assert order.tolist() != epoch_order(50, seed=2, epoch=2).tolist()


def subset(labeled: LabeledFeatures, rows: list[int]) -> LabeledFeatures:
    return labeled.select(np.array(rows))


def test_a_subset_keeps_its_features(tmp_path: Path) -> None:
    labeled = label_features(write_clusters(tmp_path, unreadable={1: "1.mp4: broken"}))
    assert len(labeled) == 29
    chosen = subset(subset(labeled, [0, 3, 5]), [1, 2])
    assert chosen.labels.tolist() == [4 % 3, 6 % 3]  # video 1 has no features
    assert chosen.positions.tolist() == [6, 7, 10, 11]
    assert labeled.features.rows[chosen.positions].tolist() == [4, 4, 6, 6]
    assert labeled.left_out().tolist() == [1]
