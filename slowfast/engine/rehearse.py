"""A dress rehearsal: all that a run will do at its end is done once, on little data, before it begins."""

import copy
import logging
import shutil
from itertools import islice
from pathlib import Path
from time import perf_counter

import numpy as np
from fvcore.common.config import CfgNode
from torch import nn

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import VideoLoader, build_annotations, build_loader
from slowfast.distributed.collectives import (
    device,
    is_main,
    largest_over_ranks,
    wait_for_all,
    world_size,
)
from slowfast.engine.estimate import VIEWS_PER_CLIP, Estimate, clips_per_step
from slowfast.engine.evaluate import ScoreTable, score_split, summarize, write_result
from slowfast.engine.optim import lr_at
from slowfast.engine.prefetch import on_device
from slowfast.engine.run_folder import REHEARSAL_NAME
from slowfast.engine.state import TrainingState
from slowfast.engine.step import TrainStep
from slowfast.utils.checkpoint import load_checkpoint, save_checkpoint
from slowfast.utils.cleanup import cleaned_up

logger = logging.getLogger(__name__)

SHARE_OF_RUN = 0.05  # most of a run's time that its rehearsal may take, beyond one step and one video of each split
VIDEOS_PER_PROCESS = 4  # at most, of each split
NUM_STEPS = 2  # the second one finds the optimizer as the first one has left it


def rehearse(
    cfg: CfgNode, run: TrainingState, taker: TrainStep, loader: VideoLoader, estimate: Estimate
) -> None:
    """Train a step or two, save, load, validate, test and write the result, each as the run will; then forget it all.

    Args:
        cfg: The config.
        run: The run at its beginning, where it is again afterwards.
        taker: What takes its steps.
        loader: The training videos.
        estimate: The size of the run, which the rehearsal is scaled to; learns how long a view takes.

    Raises:
        FloatingPointError: A loss or a score is not finite.
        Exception: Whatever the run would have raised, hours later.
    """
    logger.info(
        "rehearsing training, checkpoint, validation and test on a few videos (TRAIN.REHEARSE False skips it)"
    )
    start = perf_counter()
    beginning = copy.deepcopy(run.state())
    folder = Path(cfg.OUTPUT_DIR, REHEARSAL_NAME)
    budget = SHARE_OF_RUN * estimate.num_clips  # clips

    with cleaned_up(lambda: shutil.rmtree(folder, ignore_errors=True) if is_main() else None):
        num_steps = NUM_STEPS if NUM_STEPS * clips_per_step(cfg) <= budget else 1
        _train(cfg, run, taker, loader, num_steps=num_steps)
        path = folder / "checkpoint.pyth"
        if is_main():
            save_checkpoint(path, run.state())
        wait_for_all()
        run.load(load_checkpoint(path), path=str(path))
        for split in ["val", "test"] if cfg.TEST.ENABLE else ["val"]:
            _evaluate(cfg, run, split, folder=folder, budget=budget, estimate=estimate)
        wait_for_all()
    run.load(beginning, path="the state before the rehearsal")
    logger.info(
        "rehearsed training, checkpoint, validation and test in %.1f s", perf_counter() - start
    )


def _train(
    cfg: CfgNode, run: TrainingState, taker: TrainStep, loader: VideoLoader, *, num_steps: int
) -> None:
    run.model.train()
    loader.set_epoch(0)
    steps = islice(loader.steps(), num_steps)
    for parts in on_device(steps, device()) if cfg.TRAIN.PREFETCH else steps:
        outcome = taker.take(parts, lr=lr_at(cfg, 0))
        if largest_over_ranks(float(not outcome.loss.isfinite())):
            taker.settle()  # writes down which module it was
            raise FloatingPointError(
                f"the loss of step {run.step} is not finite in the rehearsal, before anything was trained; see "
                f"{Path(cfg.OUTPUT_DIR, 'skipped_steps')} for the module and the videos. Check the weights to start from, "
                "DATA.MEAN, DATA.STD and TRAIN.AMP"
            )
    taker.settle()
    if run.num_skipped_steps and not run.scaler.is_enabled():
        raise FloatingPointError(
            f"a gradient is not finite in the rehearsal, before anything was trained; see "
            f"{Path(cfg.OUTPUT_DIR, 'skipped_steps')} for the module and the videos"
        )


def _evaluate(
    cfg: CfgNode, run: TrainingState, split: str, *, folder: Path, budget: float, estimate: Estimate
) -> None:
    annotations = build_annotations(cfg, split)
    num_views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS if split == "test" else 1
    model = run.models[-1] if cfg.TEST.EMA else run.model
    most = min(VIDEOS_PER_PROCESS * world_size(), len(annotations))
    affordable = int(budget * VIEWS_PER_CLIP / num_views)
    num_videos = min(max(affordable, world_size()), most)

    start = perf_counter()
    table, loader = _score(cfg, model, annotations, split, num_videos=num_videos)
    estimate.note_views(perf_counter() - start, num_views=num_videos * num_views)
    if (
        not table.is_scored.any() and num_videos < most
    ):  # a few unreadable videos are no reason to stop
        table, loader = _score(cfg, model, annotations, split, num_videos=most)
    if table.not_finite:
        raise FloatingPointError(
            f"a score is not finite in the rehearsal, before anything was trained: {table.not_finite[0].reason}; check "
            "the weights to start from, and set TRAIN.AMP off"
        )
    result = summarize(table, loader.labels, loss_name=cfg.MODEL.LOSS_FUNC)
    if is_main():
        write_result(folder / split, result, table=table, labels=loader.labels, weights="rehearsal")


def _score(
    cfg: CfgNode, model: nn.Module, annotations: Annotations, split: str, *, num_videos: int
) -> tuple[ScoreTable, VideoLoader]:
    """Score some videos of a split, spread over its list."""
    rows = np.linspace(0, len(annotations) - 1, num_videos).astype(np.int64)
    loader = build_loader(cfg, split, annotations=annotations.select(rows))
    table = score_split(cfg, model, loader, title=f"rehearse {split}")
    assert table is not None, "a signal stops a rehearsal at once"
    return table, loader
