"""Rehearsal: everything that a run does until its end, once, on a few videos, before epoch 0."""

import copy
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
    rank,
    wait_for_all,
    world_size,
)
from slowfast.engine.compile import compile_for_inference
from slowfast.engine.run_folder import REHEARSAL_NAME
from slowfast.engine.skipped_steps import FOLDER_NAME
from slowfast.engine.state import TrainingState
from slowfast.engine.tally import FUSION, Tally
from slowfast.engine.time_estimate import VIEWS_PER_CLIP
from slowfast.engine.training import Training
from slowfast.evaluation.result import write_result
from slowfast.evaluation.result_record import ResultRecord
from slowfast.evaluation.view_scores import ViewScores
from slowfast.inference.prefetch import on_device
from slowfast.utils.checkpoint import load_checkpoint, save_checkpoint
from slowfast.utils.cleanup import cleaned_up

logger = logging.getLogger(__name__)

FRACTION_OF_RUN = 0.05  # of the run's time, but at least one step and one video of each split
VIDEOS_PER_PROCESS = 4  # largest number for each split
NUM_STEPS = 2  # The second step runs on the optimizer as the first one left it.


@dataclass(frozen=True)
class RehearsalSplit:
    """A split to evaluate in the rehearsal.

    Args:
        name: val | test.
        annotations: Annotations of the whole split.
        num_views: Number of views of each video.
        build_loader: Function from some of the annotations to their loader.
        is_compiled: Whether a compiled model scores the split (TEST.COMPILE).
    """

    name: str
    annotations: Annotations
    num_views: int
    build_loader: Callable[[Annotations], VideoLoader]
    is_compiled: bool = False


def build_rehearsal_splits(cfg: CfgNode) -> list[RehearsalSplit]:
    """Return the splits that a run evaluates."""
    num_views = {"val": 1}
    if cfg.TEST.ENABLE:
        num_views["test"] = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
    return [
        RehearsalSplit(
            split,
            build_annotations(cfg, split),
            number,
            partial(_build_loader_of, cfg, split),
            is_compiled=split == "test" and cfg.TEST.COMPILE,
        )
        for split, number in num_views.items()
    ]


def _build_loader_of(cfg: CfgNode, split: str, annotations: Annotations) -> VideoLoader:
    return build_loader(cfg, split, annotations=annotations)


def rehearse(training: Training, splits: list[RehearsalSplit], *, output_dir: str) -> None:
    """Train a step or two, save, load, evaluate and write the result, then undo it all.

    Args:
        training: Training of a new run. Its state is the same again afterward, and its time
            estimate has learned how long a view takes.
        splits: Splits that the run evaluates.
        output_dir: Directory of the run.

    Raises:
        FloatingPointError: If a loss, a gradient or a score is not finite.
        Exception: Any error that the run would raise hours later.
    """
    logger.info(
        "rehearsing training, checkpoint, validation and test on a few videos "
        "(TRAIN.REHEARSE False skips it)"
    )
    started_at = perf_counter()
    state = training.state
    before = copy.deepcopy(state.state_dict())
    folder = Path(output_dir, REHEARSAL_NAME)

    with cleaned_up(lambda: shutil.rmtree(folder, ignore_errors=True) if is_main() else None):
        _rehearse_steps(training, dumps=Path(output_dir, FOLDER_NAME))
        _rehearse_checkpoint(state, folder / "checkpoint.pyth")
        for split in splits:
            _rehearse_evaluation(training, split, folder=folder / split.name)
        wait_for_all()

    state.load_state_dict(before, path="the state before the rehearsal")
    seconds = perf_counter() - started_at
    logger.info("rehearsed training, checkpoint, validation and test in %.1f s", seconds)


def _rehearse_steps(training: Training, *, dumps: Path) -> None:
    state, loader = training.state, training.train_loader
    num_steps = NUM_STEPS
    if NUM_STEPS * training.estimate.clips_per_step > _affordable_clips(training):
        num_steps = 1
    state.model.train()
    loader.set_epoch(0, end_step=num_steps)  # The workers would read ahead for nothing.
    steps = loader.steps()

    for micro_batches in on_device(steps, device()) if training.plan.prefetch else steps:
        result = training.train_step.run(micro_batches, lr=training.lr_schedule.lr_at(0))
        if largest_over_ranks(float(not result.loss.isfinite())):
            training.train_step.settle()  # writes down which module it was
            raise FloatingPointError(
                f"the loss of step {state.step} is not finite in the rehearsal, before anything "
                f"was trained. See {dumps} for the module and the videos. Check the weights to "
                "start from, DATA.MEAN, DATA.STD and TRAIN.AMP"
            )

    training.train_step.settle()
    if state.num_skipped_steps and not state.scaler.is_enabled():
        raise FloatingPointError(
            "a gradient is not finite in the rehearsal, before anything was trained. See "
            f"{dumps} for the module and the videos"
        )


def _rehearse_checkpoint(state: TrainingState, path: Path) -> None:
    if is_main():
        save_checkpoint(path, state.state_dict())
    wait_for_all()
    state.load_state_dict(load_checkpoint(path), path=str(path))


def _rehearse_evaluation(training: Training, split: RehearsalSplit, *, folder: Path) -> None:
    largest = min(VIDEOS_PER_PROCESS * world_size(), len(split.annotations))
    affordable = int(_affordable_clips(training) * VIEWS_PER_CLIP / split.num_views)
    num_videos = min(max(affordable, world_size()), largest)

    model = training.state.evaluated_model(use_ema=training.plan.use_ema)
    if split.is_compiled:
        model = copy.deepcopy(model)  # The weights of a compiled model must not change.
        compile_for_inference(model)
        _score(training, split, model, num_videos=num_videos, folder=folder / "compiling")

    started_at = perf_counter()
    tally = _score(training, split, model, num_videos=num_videos, folder=folder / "few")
    seconds = perf_counter() - started_at
    training.estimate.set_view_seconds(seconds, num_views=num_videos * split.num_views)
    if not tally.counts.num_scored and num_videos < largest:
        # A few unreadable videos are no reason to stop.
        tally = _score(training, split, model, num_videos=largest, folder=folder / "more")

    if tally.nonfinite:
        raise FloatingPointError(
            "a score is not finite in the rehearsal, before anything was trained: "
            f"{tally.nonfinite[0].reason}. Check the weights to start from, and set TRAIN.AMP off"
        )
    tally.result()  # raises an error without any scores


def _score(
    training: Training, split: RehearsalSplit, model: nn.Module, *, num_videos: int, folder: Path
) -> Tally:
    """Score some videos of a split, spread over its list, and write the files of a test."""
    rows = np.linspace(0, len(split.annotations) - 1, num_videos).astype(np.int64)
    loader = split.build_loader(split.annotations.select(rows))
    annotations, sampler = loader.dataset.annotations, loader.eval_sampler
    record = ResultRecord(
        identity={"rehearsal": split.name},
        class_names=list(training.class_names),
        num_videos=len(annotations),
        num_clips=sampler.num_clips,
        num_crops=sampler.num_crops,
        views_per_forward=sampler.groups.views_per_forward,
        weights="rehearsal",
        list_path="",
        is_labeled=annotations.is_labeled,
    )
    tally = training.new_tally(_with_any_labels(annotations))

    with record.shards(folder).writer(start=1, rank=rank()) as writer:

        def take(scores: ViewScores) -> None:
            writer.write(scores)
            tally.add(scores)

        training.evaluator.score(model, loader, title=f"rehearse {split.name}", take=take)

    tally.combine()
    if is_main() and tally.counts.num_scored:
        names, labels = annotations.names, annotations.labels
        write_result(folder, record, names=names, labels=labels, fusion=FUSION)
    return tally


def _with_any_labels(annotations: Annotations) -> Annotations:
    """Return annotations with labels, whose values do not matter: no metric is kept."""
    if annotations.is_labeled:
        return annotations
    return Annotations(annotations.names, np.zeros(len(annotations), np.int32))


def _affordable_clips(training: Training) -> float:
    return FRACTION_OF_RUN * training.estimate.num_clips
