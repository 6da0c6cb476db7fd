"""Probes: heads of several kinds, learning rates and weight decays, trained side by side.

All probes see the same batches. Each of them has its own parameters, loss and learning rate, so its
weights are those of a training of its own with the same seed: to the bit on a CPU, and up to
rounding on a GPU, whose kernels may depend on the number of probes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from slowfast.engine.lr_schedule import LrSchedule
from slowfast.engine.optim import make_optimizer, parameter_groups, set_lr
from slowfast.evaluation.fusion import fuse
from slowfast.evaluation.metric_counts import MetricCounts
from slowfast.models.heads import Head, build_head
from slowfast.probing.labeled_features import LabeledFeatures
from slowfast.utils.command_names import command_name
from slowfast.utils.progress import Progress

OPTIMIZERS = ("adamw", "sgd")

_FEATURES_AT_ONCE = 1024  # features that are scored at once, whatever the number of probes


class ProbeSettings(NamedTuple):
    """What distinguishes a probe from the others."""

    head: str  # linear | mlp | attentive, see `slowfast.models.heads.Head`
    lr: float  # learning rate at the start
    weight_decay: float  # of all parameters but biases and other 1-D ones


@dataclass(frozen=True)
class Schedule:
    """How all probes are trained. The learning rate falls to 0 along a cosine, step by step.

    Args:
        optimizer: adamw (betas 0.9 and 0.999) | sgd (momentum 0.9).
        num_epochs: Number of passes over the features.
        batch_size: Number of features of a step.
        seed: Seed of the initial weights and of the order of the features.
    """

    optimizer: str = "adamw"
    num_epochs: int = 20
    batch_size: int = 256
    seed: int = 0


class Batch(NamedTuple):
    """Features of a training step."""

    time: float  # of the step, in epochs
    tokens: Tensor  # (B, N, C), N is 1 for pooled features
    labels: Tensor  # (B,)


def make_grid(
    heads: Sequence[str], *, lrs: Sequence[float], weight_decays: Sequence[float]
) -> list[ProbeSettings]:
    """Return every combination of head, learning rate and weight decay, without repeats."""
    return list(dict.fromkeys(map(ProbeSettings._make, product(heads, lrs, weight_decays))))


def train_probes(
    grid: Sequence[ProbeSettings],
    labeled: LabeledFeatures,
    *,
    schedule: Schedule,
    device: torch.device,
) -> list[Head]:
    """Return the trained head of each probe, in evaluation mode.

    Args:
        grid: Settings of the probes.
        labeled: Features to train on. Every feature is a sample with the label of its video.
        schedule: How all probes are trained.
        device: Device to train on.

    Raises:
        ValueError: If there is no such head or optimizer, or an attentive head gets pooled
            features.
    """
    _check(grid, labeled, schedule)
    heads = [_new_head(probe.head, labeled, seed=schedule.seed).to(device) for probe in grid]
    by_kind: dict[str, list[Head]] = {}
    for probe, head in zip(grid, heads, strict=True):
        by_kind.setdefault(probe.head, []).append(head)

    optimizer = _make_optimizer(grid, heads, method=schedule.optimizer)
    cosine = LrSchedule(policy="cosine", num_epochs=schedule.num_epochs, base_lr=1.0)

    steps_per_epoch = -(-len(labeled.positions) // schedule.batch_size)
    progress = Progress(
        batches(labeled, schedule=schedule, device=device),
        "probes",
        num_steps=schedule.num_epochs * steps_per_epoch,
        period=steps_per_epoch,
    )
    for batch in progress:
        set_lr(optimizer, cosine.lr_at(batch.time))
        optimizer.zero_grad()
        losses = torch.cat([_backward(kind, members, batch) for kind, members in by_kind.items()])
        optimizer.step()
        if progress.line_is_due():
            progress.write_line(lowest_loss=float(losses.nan_to_num(torch.inf).min()))
    return [head.eval() for head in heads]


def _backward(kind: str, heads: Sequence[Head], batch: Batch) -> Tensor:
    """Add the gradients of heads of one kind, and return their losses."""
    if kind == "attentive":  # One by one, because their activations take most of the memory.
        losses = []
        for head in heads:
            loss = F.cross_entropy(head(batch.tokens), batch.labels)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses)

    pooled = batch.tokens.mean(dim=1, keepdim=True)
    by_name = zip(*(head.parameters() for head in heads), strict=True)
    names = [name for name, _ in heads[0].named_parameters()]
    stacked = dict(zip(names, map(torch.stack, by_name), strict=True))

    def loss_of(parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(heads[0], parameters, (pooled,)), batch.labels)

    losses_of_all: Tensor = vmap(loss_of)(stacked)
    losses_of_all.sum().backward()
    return losses_of_all.detach()


def batches(
    labeled: LabeledFeatures, *, schedule: Schedule, device: torch.device
) -> Iterator[Batch]:
    """Iterate over the training steps of all epochs. Each epoch has its own random order."""
    positions = labeled.positions
    labels = np.repeat(labeled.labels, labeled.per_video)
    steps = range(0, len(positions), schedule.batch_size)
    for epoch in range(schedule.num_epochs):
        order = epoch_order(len(positions), seed=schedule.seed, epoch=epoch)
        for step, start in enumerate(steps):
            chosen = order[start : start + schedule.batch_size]
            yield Batch(
                epoch + step / len(steps),
                _tokens(labeled, positions[chosen], device=device),
                torch.from_numpy(labels[chosen]).to(device),
            )


def epoch_order(number: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of a number of samples in an epoch, counted from 0."""
    return np.random.default_rng((seed, epoch)).permutation(number)


@torch.inference_mode()
def score_probes(heads: Sequence[Head], labeled: LabeledFeatures) -> list[MetricCounts]:
    """Return the counts of each probe on some videos.

    The logits of the features of a video are combined as in the test, DATA.ENSEMBLE_METHOD. A
    video with non-finite logits has no scores.

    Args:
        heads: Heads on one device.
        labeled: The videos.
    """
    device = next(heads[0].parameters()).device
    fusion = labeled.features.record.fusion
    counts = [MetricCounts(labeled.num_classes) for _ in heads]
    num_videos = max(_FEATURES_AT_ONCE // labeled.per_video, 1)

    for start in range(0, len(labeled), num_videos):
        chosen = labeled.select(np.arange(start, min(start + num_videos, len(labeled))))
        tokens = _tokens(chosen, chosen.positions, device=device)
        for head, head_counts in zip(heads, counts, strict=True):
            logits = head(tokens).cpu().numpy()
            logits = logits.reshape(len(chosen), labeled.per_video, -1)
            is_finite = np.isfinite(logits).all(axis=(1, 2))
            head_counts.add(fuse(logits[is_finite], fusion), chosen.labels[is_finite])
            head_counts.add_unscored(chosen.labels[~is_finite], nonfinite=True)
    return counts


def _check(grid: Sequence[ProbeSettings], labeled: LabeledFeatures, schedule: Schedule) -> None:
    if schedule.optimizer not in OPTIMIZERS:
        raise ValueError(
            f"the optimizer is {schedule.optimizer!r}. Choose one of: {', '.join(OPTIMIZERS)}"
        )
    is_pooled = len(labeled.features.record.shape) == 1
    if is_pooled and any(probe.head == "attentive" for probe in grid):
        raise ValueError(
            f"{labeled.features.folder}: has one vector per view, but an attentive head needs all "
            f"tokens. Extract them with {command_name('features')} --tokens"
        )


def _new_head(kind: str, labeled: LabeledFeatures, *, seed: int) -> Head:
    """Return a head whose weights depend on its kind and on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_head(
            kind,
            num_features=labeled.features.record.shape[-1],
            num_classes=labeled.num_classes,
        )


def _make_optimizer(
    grid: Sequence[ProbeSettings], heads: Sequence[Head], *, method: str
) -> Optimizer:
    """Return one optimizer of all probes. The scale of each group is the rate of its probe."""
    groups = []
    for probe, head in zip(grid, heads, strict=True):
        for group in parameter_groups(
            head, weight_decay=probe.weight_decay, norm_weight_decay=0.0, decay_1d=False
        ):
            groups.append({**group, "lr_scale": probe.lr})
    return make_optimizer(method, groups, lr=1.0, nesterov=False)


def _tokens(
    labeled: LabeledFeatures, positions: NDArray[np.int64], *, device: torch.device
) -> Tensor:
    """Return features (B, N, C), with one token for pooled ones."""
    features = torch.from_numpy(labeled.features[positions]).to(device)
    return features[:, None] if features.dim() == 2 else features
