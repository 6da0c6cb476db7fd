"""Multi-view evaluation: scoring all views of each video, for validation and for the test.

Both take the same path. They differ in the views that their loaders ask for.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from slowfast.datasets.build import (
    VideoLoader,
    build_batch_sizes,
    build_class_names,
    build_known_class_names,
    build_loader,
    build_normalize,
)
from slowfast.datasets.normalization import Normalize
from slowfast.datasets.records import Batch
from slowfast.distributed.collectives import (
    device,
    from_main,
    is_main,
    largest_over_ranks,
    wait_for_all,
    world_size,
)
from slowfast.distributed.signals import phase
from slowfast.engine.choose_weights import find_test_weights
from slowfast.engine.losses import LOSSES
from slowfast.engine.memory import explained_out_of_memory
from slowfast.engine.precision import amp_dtype, autocast, set_up_kernels
from slowfast.engine.prefetch import batches_on_device
from slowfast.engine.run_folder import locked
from slowfast.evaluation.metrics import Result, summarize
from slowfast.evaluation.report import format_table, write_result
from slowfast.evaluation.scores import PendingScores, ScoreTable
from slowfast.models.build import build_model
from slowfast.models.weights import load_weights
from slowfast.utils.files import remove_unfinished, write_file
from slowfast.utils.progress import Progress, log_json_stats, log_to_file, start_logging
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

MAX_LOGGED = 10  # videos without scores in the log, result.json lists all of them


def evaluate(cfg: CfgNode) -> Result:
    """Test weights on all views of the test list, and write the result to OUTPUT_DIR/test.

    It runs in every process of the job, and the processes share the videos. OUTPUT_DIR/test then
    holds `scores.npz`, `result.json` (see `write_result`) and `config.yaml`. A video that cannot be
    read has no scores and is never replaced. `result.json` lists it.

    Returns:
        The metrics, in every process.

    Raises:
        FileNotFoundError: If there are no weights or no list.
        ValueError: If the weights do not fit the model, the list is malformed, or no video has
            scores.
        FolderLockedError: If another test writes to this folder.
        OutOfMemoryError: If the device does not have enough memory.
    """
    start_logging(is_main=is_main())
    set_up_kernels(tf32=cfg.TRAIN.TF32)
    folder = Path(cfg.OUTPUT_DIR, "test")
    evaluator = build_evaluator(cfg)
    outcome = _outcome_if_stopped(auto_resume=cfg.TRAIN.AUTO_RESUME) if cfg.TRAIN.ENABLE else ""

    with (
        phase("the test", outcome=outcome, can_continue=cfg.TRAIN.ENABLE),
        explained_out_of_memory(evaluator.memory_remedy),
        locked(cfg.OUTPUT_DIR, purpose="test"),
    ):
        if is_main():
            log_to_file(Path(cfg.OUTPUT_DIR, "stdout.log"))
            remove_unfinished(folder)

        weights = from_main(_build_weights_path(cfg) if is_main() else "")
        model = _build_tested_model(cfg, weights)
        loader = build_loader(cfg, "test")
        num_views = (
            f"{count(cfg.TEST.NUM_ENSEMBLE_VIEWS, 'clip')} x "
            f"{count(cfg.TEST.NUM_SPATIAL_CROPS, 'crop')}"
        )
        logger.info(
            "testing %s on %s, %s, with %s",
            weights,
            count(len(loader.dataset), "video"),
            num_views,
            count(world_size(), "process"),
        )

        table = evaluator.score(model, loader, title="test")
        assert table is not None, "a signal stops a test at once"
        result = summarize(table, loader.labels, loss_fn=LOSSES[cfg.MODEL.LOSS_FUNC])

        if is_main():
            write_result(folder, result, table=table, labels=loader.labels, weights=weights)
            write_file(folder / "config.yaml", cfg.dump())
            title = f"test, {num_views}"
            logger.info("%s", format_table(result, build_class_names(cfg), title=title))
            logger.info("scores and metrics: %s", folder)
            _log_stats(result)
        wait_for_all()
        return result


@dataclass(frozen=True)
class Evaluator:
    """Scores the videos of a loader with a model.

    Args:
        normalize: Function that turns the frames of a batch into the input of the model.
        num_classes: Number of classes.
        are_probabilities: Whether to sum softmax probabilities over the views instead of logits.
        views_per_forward: Largest number of views in one forward pass.
        amp: Autocast dtype, or None for float32.
        prefetch: Whether to copy batches to the GPU while it computes.
        log_period: Batches between two progress lines.
        memory_remedy: Settings that help if memory runs out, for the message.
    """

    normalize: Normalize
    num_classes: int
    are_probabilities: bool
    views_per_forward: int
    amp: torch.dtype | None
    prefetch: bool = True
    log_period: int = 10
    memory_remedy: str = ""

    def score(
        self,
        model: nn.Module,
        loader: VideoLoader,
        *,
        title: str,
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> ScoreTable | None:
        """Return the combined scores of all videos of a loader, the same in every process.

        Args:
            model: Model on its device.
            loader: Loader of a validation or a test.
            title: First words of each progress line.
            is_interrupted: Function that tells whether this process was asked to stop. It is called
                before each batch.

        Returns:
            The table, or None if some process was asked to stop.

        Raises:
            OutOfMemoryError: If the device does not have enough memory.
        """
        table = ScoreTable(
            len(loader.dataset),
            num_views=loader.num_views,
            num_classes=self.num_classes,
            are_probabilities=self.are_probabilities,
        )
        batches = batches_on_device(loader, device()) if self.prefetch else loader
        progress = Progress(batches, title, num_steps=len(loader), period=self.log_period)

        was_training = model.training
        model.eval()
        with explained_out_of_memory(self.memory_remedy):
            is_complete = self.score_batches(model, progress, table, is_interrupted=is_interrupted)
        model.train(was_training)
        if not is_complete:
            return None

        table.combine(video_name=lambda row: loader.dataset.annotations[row].name)
        if is_main():
            _log_unscored(table, title=title)
        return table

    @torch.inference_mode()
    def score_batches(
        self,
        model: nn.Module,
        batches: Progress[Batch],
        table: ScoreTable,
        *,
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Add the scores of the batches of this process to a table.

        The host adds the scores of one forward pass while the device computes the next one.

        Args:
            model: Model in evaluation mode.
            batches: Batches of this process.
            table: Table to add to.
            is_interrupted: See `score`.

        Returns:
            Whether all batches of all processes are scored. It is False if one of them was asked
            to stop.
        """
        is_stopped = False
        pending: PendingScores | None = None
        for batch in batches:
            if is_stopped := is_interrupted():
                break

            for scores in self._forward(model, batch):
                if pending is not None:
                    pending.add_to(table)
                pending = scores
            table.add_unreadable(batch.unreadable)
            if batches.line_is_due():
                batches.write_line()

        if pending is not None:
            pending.add_to(table)
        return not largest_over_ranks(float(is_stopped))

    def _forward(self, model: nn.Module, batch: Batch) -> Iterable[PendingScores]:
        """Run a model on a batch, with a limited number of views at a time."""
        for start in range(0, len(batch.labels), self.views_per_forward):
            views = slice(start, start + self.views_per_forward)
            frames = batch.frames[views].to(device(), non_blocking=True)
            with autocast(self.amp, device()):
                scores = model(self.normalize(frames)).float()
            if self.are_probabilities:
                scores = scores.softmax(dim=1)
            yield PendingScores(
                scores, video=batch.video_indices[views], view=batch.view_indices[views]
            )


def build_evaluator(cfg: CfgNode) -> Evaluator:
    """Return the evaluator of a config."""
    return Evaluator(
        normalize=build_normalize(cfg),
        num_classes=cfg.MODEL.NUM_CLASSES,
        are_probabilities=cfg.DATA.ENSEMBLE_METHOD == "probabilities",
        views_per_forward=build_batch_sizes(cfg).views_per_forward,
        amp=amp_dtype(cfg.TRAIN.AMP, device()),
        prefetch=cfg.TRAIN.PREFETCH,
        log_period=cfg.LOG_PERIOD,
        memory_remedy=(
            f"a smaller TEST.BATCH_SIZE (now {cfg.TEST.BATCH_SIZE}), or a GPU that no other "
            "process uses"
        ),
    )


def _build_weights_path(cfg: CfgNode) -> str:
    return find_test_weights(
        cfg.TEST.CHECKPOINT_FILE_PATH,
        folder=cfg.MODEL.WEIGHTS_DIR,
        output_dir=cfg.OUTPUT_DIR,
        best=cfg.TEST.TEST_BEST,
    )


def _build_tested_model(cfg: CfgNode, weights: str) -> nn.Module:
    model = build_model(cfg)
    load_weights(
        model,
        weights,
        use_ema=cfg.TEST.EMA,
        allowed=cfg.MODEL.ALLOWED_MISMATCH,
        class_names=build_known_class_names(cfg),
    )
    return model.to(device())


def _outcome_if_stopped(*, auto_resume: bool) -> str:
    """Return what remains if a signal stops the test of a finished training."""
    resume = "" if auto_resume else " with TRAIN.AUTO_RESUME True"
    return f"the training is saved. The same command{resume} tests again"


def _log_unscored(table: ScoreTable, *, title: str) -> None:
    unscored = table.unscored
    for video in unscored[:MAX_LOGGED]:
        logger.warning("%s: not scored: %s", title, video.reason)
    if len(unscored) > MAX_LOGGED:
        logger.warning("%s: not scored: %d more", title, len(unscored) - MAX_LOGGED)


def _log_stats(result: Result) -> None:
    metrics = {
        name: value for name, value in result._asdict().items() if not name.startswith("class_")
    }
    log_json_stats({"_type": "test", **metrics})
    if result.num_nonfinite:
        logger.error(
            "%s had non-finite scores: the weights or TRAIN.AMP do not suit this data",
            count(result.num_nonfinite, "video"),
        )
