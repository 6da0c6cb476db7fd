"""Selection of a probe: train all on one part, select on a second one, and test the best once."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from slowfast.evaluation.metric_counts import MetricCounts
from slowfast.evaluation.metrics import Metrics, compute_metrics
from slowfast.models.heads import Head
from slowfast.probing.labeled_features import LabeledFeatures
from slowfast.probing.probes import ProbeSettings, Schedule, score_probes, train_probes


class ProbeScore(NamedTuple):
    """A probe on the videos that select the best one."""

    settings: ProbeSettings
    top1: float  # percent, videos with non-finite scores count as wrong
    nll: float  # mean negative log-likelihood, infinite if a score is not finite

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Key that sorts the best probe first, and those that diverged last."""
        return not math.isfinite(self.nll), -self.top1, self.nll

    def as_json(self) -> dict[str, Any]:
        """Return the settings and the scores as plain data. An infinite NLL is null."""
        nll = self.nll if math.isfinite(self.nll) else None
        return {**self.settings._asdict(), "top1": self.top1, "nll": nll}


@dataclass(frozen=True)
class ProbeReport:
    """Probes and the test of the best one.

    Args:
        scores: Score of each probe on the validation videos, in the order of the grid.
        best: Index of the best one: the highest top-1, then the lowest NLL, then the first.
        head: Its head.
        metrics: Its metrics on the test videos.
        num_train: Number of training videos.
        num_val: Number of validation videos.
    """

    scores: tuple[ProbeScore, ...]
    best: int
    head: Head
    metrics: Metrics
    num_train: int
    num_val: int

    def as_json(self, schedule: Schedule) -> dict[str, Any]:
        """Return the report as plain data."""
        metrics = {
            name: value
            for name, value in self.metrics.as_json().items()
            if isinstance(value, int | float)
        }
        return {
            "schedule": asdict(schedule),
            "num_train": self.num_train,
            "num_val": self.num_val,
            "best": self.scores[self.best].as_json(),
            "test": {**metrics, "intervals": self.metrics.intervals},
            "probes": [score.as_json() for score in self.scores],
        }


def select_probe(
    grid: Sequence[ProbeSettings],
    *,
    train: LabeledFeatures,
    val: LabeledFeatures,
    test: LabeledFeatures,
    schedule: Schedule,
    device: torch.device,
) -> ProbeReport:
    """Train all probes, select the best on the validation videos, and test it.

    The test videos take no part in the selection, so the interval of the accuracy on them holds.

    Args:
        grid: Settings of the probes.
        train: Videos to train on.
        val: Videos to select on.
        test: Videos to test on.
        schedule: How all probes are trained.
        device: Device to compute on.

    Raises:
        FloatingPointError: If the scores of all probes are not finite.
        ValueError: If the grid does not fit the features.
    """
    heads = train_probes(grid, train, schedule=schedule, device=device)
    scores = tuple(map(_score, grid, score_probes(heads, val)))
    best = min(range(len(grid)), key=lambda number: scores[number].rank)
    if not math.isfinite(scores[best].nll):
        raise FloatingPointError(
            "every probe diverged: its scores are not finite. Lower the learning rates (--lr)"
        )

    counts = score_probes([heads[best]], test)[0]
    counts.add_unscored(test.left_out(), nonfinite=False)
    metrics = compute_metrics(counts, test.features.record.class_names)
    return ProbeReport(scores, best, heads[best], metrics, len(train), len(val))


def _score(settings: ProbeSettings, counts: MetricCounts) -> ProbeScore:
    num_videos = int(counts.listed.sum())
    num_correct = int(np.trace(counts.confusion))
    nll = math.inf if counts.nonfinite.any() else counts.mean_nll()
    return ProbeScore(settings, 100 * num_correct / num_videos, nll)
