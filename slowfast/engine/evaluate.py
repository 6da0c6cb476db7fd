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

from slowfast.datasets import VideoLoader, build_class_names, build_loader, forward_size
from slowfast.datasets.records import Batch
from slowfast.engine.optim import amp_dtype, autocast
from slowfast.models import build_model
from slowfast.models.weights import load_weights
from slowfast.utils.checkpoint import newest_checkpoint
from slowfast.utils.distributed import device, is_main, sum_over_ranks, wait_for_all, world_size
from slowfast.utils.metrics import accuracy_by_class, hits_at
from slowfast.utils.progress import Progress, log_json_stats, start_logging

logger = logging.getLogger(__name__)


class ScoreTable:
    """The summed scores of each video of a list, one row each.

    Args:
        num_videos: rows.
        num_views: that each video must have in the end.
        num_classes: columns.
    """

    def __init__(self, num_videos: int, *, num_views: int, num_classes: int) -> None:
        self.num_views = num_views
        self.scores = torch.zeros(num_videos, num_classes)
        self.seen = torch.zeros(num_videos, num_views, dtype=torch.int32)

    def add(self, scores: Tensor, *, video: Tensor, view: Tensor) -> None:
        """Add the scores (B, K) of B views to their videos."""
        self.scores.index_add_(0, video, scores)
        self.seen.index_put_((video, view), torch.ones_like(view, dtype=torch.int32), accumulate=True)

    def combine(self) -> None:
        """Bring the rows of all processes together, in every process; call it once, at the end.

        Raises:
            RuntimeError: a view is missing or was scored twice.
        """
        # Each video lies in one process, so every sum has one summand that is not 0 and is exact.
        self.scores = sum_over_ranks(self.scores.to(device())).cpu()
        self.seen = sum_over_ranks(self.seen.to(device())).cpu()
        if not bool((self.seen == 1).all()):
            video, view = (self.seen != 1).nonzero()[0].tolist()
            raise RuntimeError(
                f"view {view} of video {video} was scored {self.seen[video, view]} times instead of once"
            )


class Result(NamedTuple):
    """What a score table says, accuracies in percent."""

    num_videos: int
    top1: float
    top5: float
    class_top1: list[float]  # nan for a class without videos
    class_counts: list[int]


def summarise(scores: Tensor, labels: Tensor) -> Result:
    """Return the accuracies of scores (N, K) for labels (N,)."""
    shares, counts = accuracy_by_class(scores, labels)
    top1, top5 = (100 * hits_at(scores, labels, k=k).double().mean().item() for k in (1, 5))
    return Result(len(labels), top1, top5, (100 * shares).tolist(), counts.tolist())


@torch.inference_mode()
def score_views(
    model: nn.Module,
    loader: Progress[Batch],
    table: ScoreTable,
    *,
    views_per_forward: int,
    amp: torch.dtype | None,
    sum_probabilities: bool = False,
) -> None:
    """Run a model over the views of a loader and add their scores to a table.

    Args:
        model: in evaluation mode.
        loader: the batches of this process.
        table: filled, and combined over all processes at the end.
        views_per_forward: most views in one forward pass.
        amp: number format of the forward pass; None for float32.
        sum_probabilities: add softmax probabilities instead of logits.
    """
    place = device()
    for batch in loader:
        for start in range(0, len(batch.label), views_per_forward):
            part = slice(start, start + views_per_forward)
            with autocast(amp, place):
                scores = model(batch.frames[part].to(place, non_blocking=True)).float()
            if sum_probabilities:
                scores = scores.softmax(dim=1)
            table.add(scores.cpu(), video=batch.video[part], view=batch.view[part])
        if loader.line_is_due():
            loader.write_line()
    table.combine()


def score_split(cfg: CfgNode, model: nn.Module, loader: VideoLoader, *, title: str) -> Tensor:
    """Return the scores (N, K) of all videos of a validation or test loader, the same in every process."""
    table = ScoreTable(len(loader.dataset), num_views=loader.num_views, num_classes=cfg.MODEL.NUM_CLASSES)
    was_training = model.training
    model.eval()
    score_views(
        model,
        Progress(loader, title, period=cfg.LOG_PERIOD),
        table,
        views_per_forward=forward_size(cfg),
        amp=amp_dtype(cfg.TRAIN.AMP, device()),
        sum_probabilities=cfg.DATA.ENSEMBLE_METHOD == "probabilities",
    )
    model.train(was_training)
    return table.scores


def weights_to_test(cfg: CfgNode) -> str:
    """Return the file whose weights are tested.

    Raises:
        FileNotFoundError: there is none; random weights are never tested.
    """
    path = cfg.TEST.CHECKPOINT_FILE_PATH or newest_checkpoint(cfg.OUTPUT_DIR)
    if not path:
        raise FileNotFoundError(
            f"there are no weights to test: TEST.CHECKPOINT_FILE_PATH is empty and {cfg.OUTPUT_DIR}/checkpoints holds "
            "no checkpoint; train first, or name a file"
        )
    return str(path)


def evaluate(cfg: CfgNode) -> Result:
    """Test weights on all views of the test list; write scores and accuracies to OUTPUT_DIR.

    Runs in every process of the job, which share the videos. OUTPUT_DIR/test then holds `scores.npz` (arrays scores
    (N, K), labels (N,)), `result.json` and `config.yaml`.

    Returns:
        the accuracies, in every process.

    Raises:
        FileNotFoundError: there are no weights, or no list.
        ValueError: the weights are not of this model, or the list is bad.
        DecodeError: a video cannot be read.
    """
    start_logging(cfg.OUTPUT_DIR, is_main=is_main())
    path = weights_to_test(cfg)
    model = build_model(cfg)
    load_weights(model, path)
    loader = build_loader(cfg, "test")
    views = f"{cfg.TEST.NUM_ENSEMBLE_VIEWS} clips x {cfg.TEST.NUM_SPATIAL_CROPS} crops"
    logger.info(
        "testing %s on %d videos, %s, %d processes",
        path,
        len(loader.dataset),
        views,
        world_size(),
    )
    scores = score_split(cfg, model.to(device()), loader, title="test")
    result = summarise(scores, loader.labels)
    if is_main():
        folder = Path(cfg.OUTPUT_DIR, "test")
        _write_result(folder, result, scores=scores, labels=loader.labels, weights=path)
        (folder / "config.yaml").write_text(cfg.dump())
        logger.info("%s", format_table(result, build_class_names(cfg), title=f"test, {views}"))
        logger.info("scores and accuracies: %s", folder)
        log_json_stats({"_type": "test", "top1": result.top1, "top5": result.top5, "num_videos": result.num_videos})
    wait_for_all()
    return result


def _write_result(folder: Path, result: Result, *, scores: Tensor, labels: Tensor, weights: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "scores.npz", scores=scores.numpy(), labels=labels.numpy())
    text = simplejson.dumps({"weights": weights, **result._asdict()}, indent=2, ignore_nan=True)
    (folder / "result.json").write_text(text + "\n")


def format_table(result: Result, class_names: Sequence[str], *, title: str) -> str:
    """Return a table of the accuracy of each class that has videos, and of all, for a console."""
    width = max(len(name) for name in [*class_names, "all classes"])
    rows = [
        f"  {name:<{width}}  {count:>6}  {top1:>6.2f}"
        for name, count, top1 in zip(class_names, result.class_counts, result.class_top1, strict=True)
        if count
    ]
    head = f"  {'class':<{width}}  {'videos':>6}  {'top-1':>6}"
    foot = f"  {'all classes':<{width}}  {result.num_videos:>6}  {result.top1:>6.2f}    top-5 {result.top5:.2f}"
    return "\n".join([title, head, *rows, foot])
