"""Multi-view evaluation: the scores of all views of each video, summed in one table, and what the table says.

Validation and test are this one path; they differ in the views that their loaders ask for.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from slowfast.datasets.build import (
    VideoLoader,
    build_class_names,
    build_loader,
    build_normalize,
    forward_size,
    known_class_names,
)
from slowfast.datasets.records import Batch, UnreadableVideo
from slowfast.datasets.transforms import Normalize
from slowfast.distributed.collectives import (
    device,
    from_main,
    gather_over_ranks,
    is_main,
    largest_over_ranks,
    sum_over_ranks,
    wait_for_all,
    world_size,
)
from slowfast.distributed.signals import phase
from slowfast.engine.memory import explained_out_of_memory
from slowfast.engine.optim import LOSSES, amp_dtype, autocast
from slowfast.engine.precision import set_up_kernels
from slowfast.engine.prefetch import batches_on_device
from slowfast.engine.run_folder import locked
from slowfast.models.build import build_model
from slowfast.models.weights import load_weights
from slowfast.models.zoo import weights_to_test
from slowfast.utils.files import remove_unfinished, write_file, write_json
from slowfast.utils.metrics import accuracy_by_class, hits_at
from slowfast.utils.progress import Progress, log_json_stats, log_to_file, start_logging
from slowfast.utils.provenance import provenance
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

MAX_NAMED = 10  # videos without scores in the log; result.json names all


class ScoreTable:
    """The summed scores of each video of a list, one row each, and the videos that have none, with the reasons.

    Args:
        num_videos: Number of videos, the rows of the table.
        num_views: Number of views that each video must have in the end.
        num_classes: Number of classes, the columns.
        are_probabilities: whether the scores are softmax probabilities, not logits.
    """

    def __init__(
        self, num_videos: int, *, num_views: int, num_classes: int, are_probabilities: bool = False
    ) -> None:
        self.num_views = num_views
        self.are_probabilities = are_probabilities
        self.scores = torch.zeros(num_videos, num_classes)
        self.seen = torch.zeros(num_videos, num_views, dtype=torch.int32)
        self.unreadable: list[UnreadableVideo] = []
        self.not_finite: list[
            UnreadableVideo
        ] = []  # videos with scores that are not finite, which are never right

    def add(self, scores: Tensor, *, video: Tensor, view: Tensor) -> None:
        """Add the scores (B, K) of B views to their videos."""
        self.scores.index_add_(0, video, scores)
        self.seen.index_put_(
            (video, view), torch.ones_like(view, dtype=torch.int32), accumulate=True
        )

    def leave_out(self, unreadable: Sequence[UnreadableVideo]) -> None:
        """Note videos that cannot be scored."""
        self.unreadable += unreadable

    @property
    def unscored(self) -> list[UnreadableVideo]:
        """The videos without scores, in the order of the list."""
        return sorted([*self.unreadable, *self.not_finite])

    @property
    def is_scored(self) -> Tensor:
        """Which videos have scores, (N,), bool."""
        is_scored = torch.ones(len(self.scores), dtype=torch.bool)
        is_scored[[unscored.video for unscored in self.unscored]] = False
        return is_scored

    def combine(self, *, path_of: Callable[[int], str] = str) -> None:
        """Bring the rows of all processes together, in every process; call it once, at the end.

        Args:
            path_of: Function from a row to the path of its video.

        Raises:
            RuntimeError: a view is missing or was scored twice.
        """
        self.unreadable = sorted(gather_over_ranks(self.unreadable))
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
        bad_rows = (~self.scores.isfinite().all(dim=1)).nonzero().flatten().tolist()
        self.not_finite = [
            UnreadableVideo(row, f"{path_of(row)}: its scores are not finite") for row in bad_rows
        ]


class PendingScores:
    """The scores (B, K) of B views on their way from the device, which the host waits for only when it adds them."""

    def __init__(self, scores: Tensor, *, video: Tensor, view: Tensor) -> None:
        self._video = video
        self._view = view
        self._copied = torch.cuda.Event(blocking=True) if scores.is_cuda else None
        self._scores = torch.empty(scores.shape, pin_memory=True) if scores.is_cuda else scores
        if self._copied is not None:
            self._scores.copy_(scores, non_blocking=True)
            self._copied.record()

    def add_to(self, table: ScoreTable) -> None:
        """Add them to a table once they have come."""
        if self._copied is not None:
            self._copied.synchronize()
        table.add(self._scores, video=self._video, view=self._view)


class Result(NamedTuple):
    """What a score table says, accuracies in percent."""

    num_videos: int  # of the list
    num_scored: int  # of which the files could be read, and the scores are finite
    num_not_finite: int  # of which the scores are not finite
    top1: float  # of the scored videos, as all that does not say otherwise
    top5: float
    top1_listed: float  # of all videos of the list; those without scores count as wrong
    top5_listed: float
    loss: float  # mean loss of the scored videos
    class_top1: list[float]  # nan for a class without scored videos
    class_counts: list[int]


def summarize(table: ScoreTable, labels: Tensor, *, loss_name: str = "cross_entropy") -> Result:
    """Return the accuracies and the loss of a combined table.

    Args:
        table: The table.
        labels: Class numbers of its videos, shape (N,).
        loss_name: The loss, see LOSSES; of the scores divided by the number of views, against the plain labels.

    Raises:
        ValueError: No video has scores.
    """
    is_scored = table.is_scored
    num_videos, num_scored = len(labels), int(is_scored.sum())
    if not num_scored:
        raise ValueError(
            f"no video of {num_videos} has scores; the first: {table.unscored[0].reason}"
        )
    scores, labels = table.scores[is_scored], labels[is_scored]
    shares, counts = accuracy_by_class(scores, labels)
    top1, top5 = (100 * hits_at(scores, labels, k=k).double().mean().item() for k in (1, 5))
    listed = num_scored / num_videos
    return Result(
        num_videos=num_videos,
        num_scored=num_scored,
        num_not_finite=len(table.not_finite),
        top1=top1,
        top5=top5,
        top1_listed=top1 * listed,
        top5_listed=top5 * listed,
        loss=_loss(table, scores, labels, loss_name=loss_name),
        class_top1=(100 * shares).tolist(),
        class_counts=counts.tolist(),
    )


def _loss(table: ScoreTable, scores: Tensor, labels: Tensor, *, loss_name: str) -> float:
    mean = scores.double() / table.num_views
    if table.are_probabilities:
        return F.nll_loss(mean.log(), labels).item()
    return LOSSES[loss_name](mean, labels).item()


@torch.inference_mode()
def score_views(
    model: nn.Module,
    loader: Progress[Batch],
    table: ScoreTable,
    *,
    normalize: Normalize,
    views_per_forward: int,
    amp: torch.dtype | None,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Run a model over the views of a loader and add their scores to a table.

    Args:
        model: in evaluation mode.
        loader: the batches of this process.
        table: filled; its scores are logits, or softmax probabilities if it says so.
        normalize: frames of uint8.
        views_per_forward: most views in one forward pass.
        amp: number format of the forward pass; None for float32.
        is_interrupted: whether this process was asked to stop, looked at before each batch.

    Returns:
        whether all is scored, the same in all processes: False, if one of them was asked to stop.
    """
    place = device()
    is_stopped = False
    pending: PendingScores | None = None  # while the next ones are computed
    for batch in loader:
        if is_stopped := is_interrupted():
            break
        for start in range(0, len(batch.label), views_per_forward):
            part = slice(start, start + views_per_forward)
            with autocast(amp, place):
                scores = model(normalize(batch.frames[part].to(place, non_blocking=True))).float()
            if table.are_probabilities:
                scores = scores.softmax(dim=1)
            before, pending = (
                pending,
                PendingScores(scores, video=batch.video[part], view=batch.view[part]),
            )
            if before is not None:
                before.add_to(table)
        table.leave_out(batch.unreadable)
        if loader.line_is_due():
            loader.write_line()
    if pending is not None:
        pending.add_to(table)
    return not largest_over_ranks(float(is_stopped))


def score_split(
    cfg: CfgNode,
    model: nn.Module,
    loader: VideoLoader,
    *,
    title: str,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> ScoreTable | None:
    """Return the combined table of all videos of a loader, the same in every process; None if a process was stopped.

    Args:
        cfg: The config.
        model: The model.
        loader: The loader of a validation or a test.
        title: The first words of each line of progress.
        is_interrupted: Whether this process was asked to stop, looked at before each batch.
    """
    table = ScoreTable(
        len(loader.dataset),
        num_views=loader.num_views,
        num_classes=cfg.MODEL.NUM_CLASSES,
        are_probabilities=cfg.DATA.ENSEMBLE_METHOD == "probabilities",
    )
    was_training = model.training
    model.eval()
    batches = batches_on_device(loader, device()) if cfg.TRAIN.PREFETCH else loader
    with explained_out_of_memory(_remedy(cfg)):
        is_complete = score_views(
            model,
            Progress(batches, title, num_steps=len(loader), period=cfg.LOG_PERIOD),
            table,
            normalize=build_normalize(cfg),
            views_per_forward=forward_size(cfg),
            amp=amp_dtype(cfg.TRAIN.AMP, device()),
            is_interrupted=is_interrupted,
        )
    model.train(was_training)
    if not is_complete:
        return None

    table.combine(path_of=lambda row: loader.dataset.annotations[row].name)
    if is_main():
        for unscored in table.unscored[:MAX_NAMED]:
            logger.warning("%s: not scored: %s", title, unscored.reason)
        if len(table.unscored) > MAX_NAMED:
            logger.warning("%s: not scored: %d more", title, len(table.unscored) - MAX_NAMED)
    return table


def evaluate(cfg: CfgNode) -> Result:
    """Test weights on all views of the test list; write scores and accuracies to OUTPUT_DIR.

    Runs in every process of the job, which share the videos. OUTPUT_DIR/test then holds `scores.npz` (arrays scores
    (N, K), labels (N,), is_scored (N,)), `result.json` and `config.yaml`. A video that cannot be read has no scores and
    is never replaced by another; `result.json` lists it.

    Returns:
        The accuracies, in every process.

    Raises:
        FileNotFoundError: There are no weights, or no list.
        ValueError: The weights are not of this model, the list is bad, or no video has scores.
        FolderLockedError: Another test writes to this folder.
        OutOfMemoryError: The device has not enough memory.
    """
    start_logging(is_main=is_main())
    folder = Path(cfg.OUTPUT_DIR, "test")
    same_command = (
        "the same command"
        if cfg.TRAIN.AUTO_RESUME
        else "the same command with TRAIN.AUTO_RESUME True"
    )
    outcome = f"the training is saved; {same_command} tests again" if cfg.TRAIN.ENABLE else ""
    with (
        phase("the test", outcome=outcome, can_continue=cfg.TRAIN.ENABLE),
        explained_out_of_memory(_remedy(cfg)),
        locked(cfg.OUTPUT_DIR, purpose="test"),
    ):
        if is_main():
            log_to_file(cfg.OUTPUT_DIR)
            remove_unfinished(folder)
        return _evaluate(cfg, folder)


def _remedy(cfg: CfgNode) -> str:
    """What helps where a validation or a test runs out of memory."""
    return f"a smaller TEST.BATCH_SIZE (now {cfg.TEST.BATCH_SIZE}), or a GPU that no other process uses"


def _evaluate(cfg: CfgNode, folder: Path) -> Result:
    set_up_kernels(tf32=cfg.TRAIN.TF32)
    path = from_main(weights_to_test(cfg) if is_main() else "")
    model = build_model(cfg)
    load_weights(
        model,
        path,
        averaged=cfg.TEST.EMA,
        allowed=cfg.MODEL.ALLOWED_MISMATCH,
        class_names=known_class_names(cfg),
    )
    loader = build_loader(cfg, "test")
    views = f"{count(cfg.TEST.NUM_ENSEMBLE_VIEWS, 'clip')} x {count(cfg.TEST.NUM_SPATIAL_CROPS, 'crop')}"
    num_videos, num_processes = count(len(loader.dataset), "video"), count(world_size(), "process")
    logger.info("testing %s on %s, %s, %s", path, num_videos, views, num_processes)

    table = score_split(cfg, model.to(device()), loader, title="test")
    assert table is not None, "a signal stops a test at once"
    result = summarize(table, loader.labels, loss_name=cfg.MODEL.LOSS_FUNC)
    if is_main():
        write_result(folder, result, table=table, labels=loader.labels, weights=path)
        write_file(folder / "config.yaml", cfg.dump())
        logger.info("%s", format_table(result, build_class_names(cfg), title=f"test, {views}"))
        logger.info("scores and accuracies: %s", folder)
        numbers = {
            name: value for name, value in result._asdict().items() if not name.startswith("class_")
        }
        log_json_stats({"_type": "test", **numbers})
        if result.num_not_finite:
            logger.error(
                "%s had scores that are not finite: the weights or TRAIN.AMP are not fit for this data",
                count(result.num_not_finite, "video"),
            )
    wait_for_all()
    return result


def write_result(
    folder: Path, result: Result, *, table: ScoreTable, labels: Tensor, weights: str
) -> None:
    """Write scores.npz and result.json, see `evaluate`, to a folder."""
    arrays: dict[str, Any] = {
        "scores": table.scores.numpy(),
        "labels": labels.numpy(),
        "is_scored": table.is_scored.numpy(),
    }
    write_file(folder / "scores.npz", lambda file: np.savez_compressed(file, **arrays))
    unscored = [{"video": unscored.video, "reason": unscored.reason} for unscored in table.unscored]
    write_json(
        folder / "result.json",
        {"weights": weights, **result._asdict(), "unscored": unscored, "run_by": provenance()},
    )


def format_table(result: Result, class_names: Sequence[str], *, title: str) -> str:
    """Return a table of the accuracy of each class that has videos, and of all, for a console."""
    width = max(len(name) for name in [*class_names, "all classes"])
    rows = [
        f"  {name:<{width}}  {count:>6}  {top1:>6.2f}"
        for name, count, top1 in zip(
            class_names, result.class_counts, result.class_top1, strict=True
        )
        if count
    ]
    head = f"  {'class':<{width}}  {'videos':>6}  {'top-1':>6}"
    foot = f"  {'all classes':<{width}}  {result.num_scored:>6}  {result.top1:>6.2f}    top-5 {result.top5:.2f}"
    scored = f"  scored {result.num_scored}/{result.num_videos}"
    if result.num_scored < result.num_videos:
        scored += f"; the others counted as wrong: top-1 {result.top1_listed:.2f}  top-5 {result.top5_listed:.2f}"
    return "\n".join([title, head, *rows, foot, scored])
