"""Multi-view evaluation: the scores of all views of each video, summed in one table, and what the table says.

Validation and test are this one path; they differ in the views that their loaders ask for.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejson
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast.datasets import (
    VideoLoader,
    build_class_names,
    build_loader,
    build_normalise,
    forward_size,
    known_class_names,
)
from slowfast.datasets.records import Batch, Unread
from slowfast.datasets.transforms import Normalise
from slowfast.engine.optim import amp_dtype, autocast
from slowfast.models import build_model
from slowfast.models.weights import load_weights
from slowfast.models.zoo import weights_to_test
from slowfast.utils.distributed import device, gather_over_ranks, is_main, sum_over_ranks, wait_for_all, world_size
from slowfast.utils.metrics import accuracy_by_class, hits_at
from slowfast.utils.progress import Progress, log_json_stats, start_logging

logger = logging.getLogger(__name__)

MAX_NAMED = 10  # videos without scores in the log; result.json names all


class ScoreTable:
    """The summed scores of each video of a list, one row each, and the videos that have none because of their files.

    Args:
        num_videos: rows.
        num_views: that each video must have in the end.
        num_classes: columns.
    """

    def __init__(self, num_videos: int, *, num_views: int, num_classes: int) -> None:
        self.num_views = num_views
        self.scores = torch.zeros(num_videos, num_classes)
        self.seen = torch.zeros(num_videos, num_views, dtype=torch.int32)
        self.unread: list[Unread] = []

    def add(self, scores: Tensor, *, video: Tensor, view: Tensor) -> None:
        """Add the scores (B, K) of B views to their videos."""
        self.scores.index_add_(0, video, scores)
        self.seen.index_put_((video, view), torch.ones_like(view, dtype=torch.int32), accumulate=True)

    def leave_out(self, unread: Sequence[Unread]) -> None:
        """Note videos that cannot be scored."""
        self.unread += unread

    @property
    def is_scored(self) -> Tensor:
        """Which videos have scores, (N,), bool."""
        is_scored = torch.ones(len(self.scores), dtype=torch.bool)
        is_scored[[unread.video for unread in self.unread]] = False
        return is_scored

    def combine(self) -> None:
        """Bring the rows of all processes together, in every process; call it once, at the end.

        Raises:
            RuntimeError: a view is missing or was scored twice.
        """
        self.unread = sorted(gather_over_ranks(self.unread))
        # Each video lies in one process, so every sum has one summand that is not 0 and is exact.
        self.scores = sum_over_ranks(self.scores.to(device())).cpu()
        self.seen = sum_over_ranks(self.seen.to(device())).cpu()
        expected = self.is_scored.int()[:, None].expand_as(self.seen)
        if not torch.equal(self.seen, expected):
            video, view = (self.seen != expected).nonzero()[0].tolist()
            raise RuntimeError(
                f"view {view} of video {video} was scored {self.seen[video, view]} times instead of "
                f"{expected[video, view]}"
            )


class Result(NamedTuple):
    """What a score table says, accuracies in percent."""

    num_videos: int  # of the list
    num_scored: int  # of which the files could be read
    top1: float  # of the scored videos, as all that does not say otherwise
    top5: float
    top1_listed: float  # of all videos of the list; those without scores count as wrong
    top5_listed: float
    class_top1: list[float]  # nan for a class without scored videos
    class_counts: list[int]


def summarise(table: ScoreTable, labels: Tensor) -> Result:
    """Return the accuracies of a combined table for the labels (N,) of its videos.

    Raises:
        ValueError: no video has scores.
    """
    is_scored = table.is_scored
    num_videos, num_scored = len(labels), int(is_scored.sum())
    if not num_scored:
        raise ValueError(f"none of {num_videos} videos can be read; the first: {table.unread[0].reason}")
    scores, labels = table.scores[is_scored], labels[is_scored]
    shares, counts = accuracy_by_class(scores, labels)
    top1, top5 = (100 * hits_at(scores, labels, k=k).double().mean().item() for k in (1, 5))
    listed = num_scored / num_videos
    return Result(
        *(num_videos, num_scored, top1, top5, top1 * listed, top5 * listed),
        *((100 * shares).tolist(), counts.tolist()),
    )


@torch.inference_mode()
def score_views(
    model: nn.Module,
    loader: Progress[Batch],
    table: ScoreTable,
    *,
    normalise: Normalise,
    views_per_forward: int,
    amp: torch.dtype | None,
    sum_probabilities: bool = False,
) -> None:
    """Run a model over the views of a loader and add their scores to a table.

    Args:
        model: in evaluation mode.
        loader: the batches of this process.
        table: filled, and combined over all processes at the end.
        normalise: frames of uint8.
        views_per_forward: most views in one forward pass.
        amp: number format of the forward pass; None for float32.
        sum_probabilities: add softmax probabilities instead of logits.
    """
    place = device()
    for batch in loader:
        for start in range(0, len(batch.label), views_per_forward):
            part = slice(start, start + views_per_forward)
            with autocast(amp, place):
                scores = model(normalise(batch.frames[part].to(place, non_blocking=True))).float()
            if sum_probabilities:
                scores = scores.softmax(dim=1)
            table.add(scores.cpu(), video=batch.video[part], view=batch.view[part])
        table.leave_out(batch.unread)
        if loader.line_is_due():
            loader.write_line()
    table.combine()


def score_split(cfg: CfgNode, model: nn.Module, loader: VideoLoader, *, title: str) -> ScoreTable:
    """Return the combined table of all videos of a validation or test loader, the same in every process."""
    table = ScoreTable(len(loader.dataset), num_views=loader.num_views, num_classes=cfg.MODEL.NUM_CLASSES)
    was_training = model.training
    model.eval()
    score_views(
        model,
        Progress(loader, title, num_steps=len(loader), period=cfg.LOG_PERIOD),
        table,
        normalise=build_normalise(cfg),
        views_per_forward=forward_size(cfg),
        amp=amp_dtype(cfg.TRAIN.AMP, device()),
        sum_probabilities=cfg.DATA.ENSEMBLE_METHOD == "probabilities",
    )
    model.train(was_training)
    if is_main():
        for unread in table.unread[:MAX_NAMED]:
            logger.warning("%s: not scored: %s", title, unread.reason)
        if len(table.unread) > MAX_NAMED:
            logger.warning("%s: not scored: %d more", title, len(table.unread) - MAX_NAMED)
    return table


def evaluate(cfg: CfgNode) -> Result:
    """Test weights on all views of the test list; write scores and accuracies to OUTPUT_DIR.

    Runs in every process of the job, which share the videos. OUTPUT_DIR/test then holds `scores.npz` (arrays scores
    (N, K), labels (N,), is_scored (N,)), `result.json` and `config.yaml`. A video that cannot be read has no scores and
    is never replaced by another; `result.json` lists it.

    Returns:
        the accuracies, in every process.

    Raises:
        FileNotFoundError: there are no weights, or no list.
        ValueError: the weights are not of this model, the list is bad, or no video can be read.
    """
    start_logging(cfg.OUTPUT_DIR, is_main=is_main())
    path = weights_to_test(cfg)
    model = build_model(cfg)
    load_weights(
        model,
        path,
        averaged=cfg.TEST.EMA,
        allowed=cfg.MODEL.ALLOWED_MISMATCH,
        class_names=known_class_names(cfg),
    )
    loader = build_loader(cfg, "test")
    views = f"{cfg.TEST.NUM_ENSEMBLE_VIEWS} clips x {cfg.TEST.NUM_SPATIAL_CROPS} crops"
    logger.info(
        "testing %s on %d videos, %s, %d processes",
        path,
        len(loader.dataset),
        views,
        world_size(),
    )
    table = score_split(cfg, model.to(device()), loader, title="test")
    result = summarise(table, loader.labels)
    if is_main():
        folder = Path(cfg.OUTPUT_DIR, "test")
        write_result(folder, result, table=table, labels=loader.labels, weights=path)
        (folder / "config.yaml").write_text(cfg.dump())
        logger.info("%s", format_table(result, build_class_names(cfg), title=f"test, {views}"))
        logger.info("scores and accuracies: %s", folder)
        numbers = {name: value for name, value in result._asdict().items() if not name.startswith("class_")}
        log_json_stats({"_type": "test", **numbers})
    wait_for_all()
    return result


def write_result(folder: Path, result: Result, *, table: ScoreTable, labels: Tensor, weights: str) -> None:
    """Write scores.npz and result.json, see `evaluate`, to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    scores, is_scored = table.scores.numpy(), table.is_scored.numpy()
    np.savez_compressed(folder / "scores.npz", scores=scores, labels=labels.numpy(), is_scored=is_scored)
    unscored = [{"video": unread.video, "reason": unread.reason} for unread in table.unread]
    content = {"weights": weights, **result._asdict(), "unscored": unscored}
    (folder / "result.json").write_text(simplejson.dumps(content, indent=2, ignore_nan=True) + "\n")


def format_table(result: Result, class_names: Sequence[str], *, title: str) -> str:
    """Return a table of the accuracy of each class that has videos, and of all, for a console."""
    width = max(len(name) for name in [*class_names, "all classes"])
    rows = [
        f"  {name:<{width}}  {count:>6}  {top1:>6.2f}"
        for name, count, top1 in zip(class_names, result.class_counts, result.class_top1, strict=True)
        if count
    ]
    head = f"  {'class':<{width}}  {'videos':>6}  {'top-1':>6}"
    foot = f"  {'all classes':<{width}}  {result.num_scored:>6}  {result.top1:>6.2f}    top-5 {result.top5:.2f}"
    scored = f"  scored {result.num_scored}/{result.num_videos}"
    if result.num_scored < result.num_videos:
        scored += f"; the others counted as wrong: top-1 {result.top1_listed:.2f}  top-5 {result.top5_listed:.2f}"
    return "\n".join([title, head, *rows, foot, scored])
