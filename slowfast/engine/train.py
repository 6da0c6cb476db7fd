"""Entry point of a training: from the config to a finished run."""

import logging
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from slowfast.datasets.build import (
    VideoLoader,
    build_annotations,
    build_batch_sizes,
    build_class_names,
    build_loader,
)
from slowfast.distributed.collectives import device, from_main, is_main, world_size
from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job_lock import locked
from slowfast.distributed.signals import StopRequest, phase
from slowfast.engine.build import build_lr_schedule, build_train_step
from slowfast.engine.build_tracking import build_figures, build_trackers
from slowfast.engine.checkpoints import CheckpointSaver, Retention, check_disk
from slowfast.engine.losses import LOSSES
from slowfast.engine.rehearse import build_rehearsal_splits, rehearse
from slowfast.engine.resume import start_run
from slowfast.engine.run_folder import remove_leftovers
from slowfast.engine.skipped_steps import SkippedStepsError
from slowfast.engine.state import TrainingState
from slowfast.engine.time_estimate import TimeEstimate
from slowfast.engine.train_log import TrainLog
from slowfast.engine.training import Plan, Training
from slowfast.engine.validations import Validations
from slowfast.inference.evaluator import build_evaluator
from slowfast.inference.memory import explained_out_of_memory
from slowfast.inference.precision import amp_dtype, dtype_name, set_up_kernels
from slowfast.models.build import build_model, count_multiply_adds, count_parameters
from slowfast.runs.run_checkpoints import best_validation, is_resumable
from slowfast.utils.progress import start_logging
from slowfast.utils.provenance import provenance
from slowfast.utils.text import count

logger = logging.getLogger(__name__)


def train(cfg: CfgNode) -> bool:
    """Train a model up to SOLVER.MAX_EPOCH epochs, and resume if OUTPUT_DIR holds the run.

    A new run starts from the given weights or from random ones. The function runs in every process
    of the job, and the processes share each step. OUTPUT_DIR then holds run.json, config.yaml,
    stdout.log, checkpoints/, validation.json, best.pyth and what the trackers write.

    Returns:
        Whether the training is finished. If it is False, a signal stopped it, and the same command
        continues with the next step.

    Raises:
        FileNotFoundError: If a list or the weights to start from are missing.
        ValueError: If a list, the weights or the checkpoint to resume do not fit the config.
        OSError: If another training writes to OUTPUT_DIR, a checkpoint cannot be written, or the
            disk is too small.
        DecodeError: If more videos are unreadable than DATA.MAX_BAD_FRACTION allows.
        FloatingPointError: If the numbers of many steps in a row, or scores of a validation, are
            not finite.
        OutOfMemoryError: If the device does not have enough memory.
    """
    start_logging(is_main=is_main())
    set_up_kernels(tf32=cfg.TRAIN.TF32)

    with (
        explained_out_of_memory(_build_memory_remedies(cfg)),
        locked(cfg.OUTPUT_DIR, purpose="training") as lock,
    ):
        if is_main():
            remove_leftovers(cfg.OUTPUT_DIR)
        can_continue = from_main(
            is_main() and is_resumable(cfg.OUTPUT_DIR, auto_resume=cfg.TRAIN.AUTO_RESUME)
        )
        outcome = "what is saved stays. Run the same command again" if can_continue else ""
        with phase("the start of the training", outcome=outcome, can_continue=can_continue):
            training, is_resumed = build_training(cfg, lock)

        if cfg.TRAIN.REHEARSE and not is_resumed:
            with phase("the rehearsal"):
                rehearse(training, build_rehearsal_splits(cfg), output_dir=cfg.OUTPUT_DIR)
        try:
            return training.run()
        except SkippedStepsError as error:
            checkpoint = None
            if is_main() and training.state.streak.length:
                checkpoint = training.checkpoints.set_streak_aside(training.state)
            advice = _build_advice(cfg, from_main(checkpoint))
            raise SkippedStepsError(f"{error}. {advice}") from error


def build_training(cfg: CfgNode, lock: FolderLock | None) -> tuple[Training, bool]:
    """Return the training of a new or resumed run, and whether it is resumed.

    Args:
        cfg: The config.
        lock: Lock on OUTPUT_DIR in the main process, None in the others.
    """
    state, train_loader, is_resumed = start_run(cfg)
    val_loader = build_loader(cfg, "val")
    for line in _build_summary(cfg, state, num_videos=len(train_loader.dataset)):
        logger.info("%s", line)

    best = None
    if is_main():
        best = best_validation(cfg.OUTPUT_DIR, state.run_id, max_epoch=state.epoch)
    validations = Validations(
        cfg.OUTPUT_DIR,
        run_id=state.run_id,
        records=state.validations,
        best=from_main(best),
        metric=cfg.TRAIN.BEST_METRIC,
    )
    annotations = train_loader.dataset.annotations
    trackers = build_trackers(
        cfg,
        run_id=state.run_id,
        record_ids=state.tracker_records,
        num_steps=state.num_steps,
    )
    training = Training(
        plan=build_plan(cfg),
        state=state,
        train_step=build_train_step(
            cfg,
            state,
            num_videos=len(annotations),
            video_name=lambda row: annotations[row].name,
        ),
        lr_schedule=build_lr_schedule(cfg),
        loss_fn=LOSSES[cfg.MODEL.LOSS_FUNC],
        train_loader=train_loader,
        val_loader=val_loader,
        evaluator=build_evaluator(cfg),
        class_names=build_class_names(cfg),
        checkpoints=_build_checkpoint_saver(cfg, state, lock, is_resumed=is_resumed),
        validations=validations,
        estimate=_build_estimate(cfg, train_loader, num_val_videos=len(val_loader.dataset)),
        log=TrainLog(trackers, clips_per_step=build_batch_sizes(cfg).clips_per_step),
        figures=build_figures(cfg, trackers),
        stop_request=StopRequest(),
    )
    validations.write()
    return training, is_resumed


def build_plan(cfg: CfgNode) -> Plan:
    """Return what a run does after which epochs."""
    return Plan(
        num_epochs=cfg.SOLVER.MAX_EPOCH,
        eval_period=cfg.TRAIN.EVAL_PERIOD,
        checkpoint_period=1 if cfg.TRAIN.SAVE_LATEST else cfg.TRAIN.CHECKPOINT_PERIOD,
        patience=cfg.TRAIN.EARLY_STOP_PATIENCE,
        best_metric=cfg.TRAIN.BEST_METRIC,
        num_precise_bn_batches=cfg.BN.NUM_BATCHES_PRECISE if cfg.BN.USE_PRECISE_STATS else 0,
        use_ema=cfg.TEST.EMA,
        tests_afterward=cfg.TEST.ENABLE,
        resumes_by_itself=cfg.TRAIN.AUTO_RESUME,
        prefetch=cfg.TRAIN.PREFETCH,
        log_period=cfg.LOG_PERIOD,
    )


def _build_checkpoint_saver(
    cfg: CfgNode, state: TrainingState, lock: FolderLock | None, *, is_resumed: bool
) -> CheckpointSaver:
    retention = Retention(
        keep_last=1 if cfg.TRAIN.SAVE_LATEST else cfg.TRAIN.KEEP_LAST,
        keep_every=cfg.TRAIN.KEEP_EVERY,
    )
    if is_main() and not is_resumed:
        check_disk(
            cfg.OUTPUT_DIR,
            state,
            num_epochs=cfg.SOLVER.MAX_EPOCH,
            period=build_plan(cfg).checkpoint_period,
            retention=retention,
        )
    return CheckpointSaver(
        cfg.OUTPUT_DIR, lock=lock, minutes=cfg.TRAIN.CHECKPOINT_MINUTES, retention=retention
    )


def _build_estimate(
    cfg: CfgNode, train_loader: VideoLoader, *, num_val_videos: int
) -> TimeEstimate:
    num_test_views = 0
    if cfg.TEST.ENABLE:
        views_per_video = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
        num_test_views = views_per_video * len(build_annotations(cfg, "test"))
    return TimeEstimate(
        num_epochs=cfg.SOLVER.MAX_EPOCH,
        steps_per_epoch=train_loader.num_steps,
        clips_per_step=build_batch_sizes(cfg).clips_per_step,
        eval_period=cfg.TRAIN.EVAL_PERIOD,
        val_views=num_val_videos,
        test_views=num_test_views,
    )


def _build_memory_remedies(cfg: CfgNode) -> str:
    return (
        "MODEL.USE_CHECKPOINT True with higher MODEL.CHECKPOINT_NUM "
        f"(now {cfg.MODEL.CHECKPOINT_NUM}), higher SOLVER.ACCUM_STEPS "
        f"(now {cfg.SOLVER.ACCUM_STEPS}, the same step in smaller micro-batches), or a smaller "
        f"TRAIN.BATCH_SIZE (now {cfg.TRAIN.BATCH_SIZE}, with SOLVER.BASE_LR in proportion)"
    )


def _build_advice(cfg: CfgNode, checkpoint: Path | None) -> str:
    """Return what to type after too many steps in a row were skipped."""
    settings = f"SOLVER.BASE_LR {cfg.SOLVER.BASE_LR / 2:.3g}"
    if cfg.TRAIN.AMP != "off":
        settings += " TRAIN.AMP off"

    if checkpoint:
        settings = f"TRAIN.RESUME_WITH_CHANGES True {settings}"
        if not cfg.TRAIN.AUTO_RESUME:
            settings = f"TRAIN.AUTO_RESUME True {settings}"
        start = f"To resume from {checkpoint}, before them,"
    else:
        start = "No checkpoint is from before them. To start again"
    return (
        f"{start} with a lower learning rate: {provenance()['command']} {settings}. Longer "
        "SOLVER.WARMUP_EPOCHS and a lower SOLVER.CLIP_GRADIENT help too. Also look at the videos"
    )


def _build_summary(cfg: CfgNode, state: TrainingState, *, num_videos: int) -> list[str]:
    """Return what the log says of the model and of the training before the first step."""
    num_frames, side = cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE
    multiply_adds = count_multiply_adds(partial(build_model, cfg), num_frames=num_frames, size=side)
    batch_sizes = build_batch_sizes(cfg)
    return [
        f"{cfg.MODEL.MODEL_NAME}: {_describe_parameters(state)}, "
        f"{multiply_adds / 1e9:.2f} G multiply-adds per view of {num_frames} frames at {side} px",
        f"training on {count(num_videos, 'video')} with {count(world_size(), 'process')} on "
        f"{_device_name()}, {dtype_name(amp_dtype(cfg.TRAIN.AMP, device()))}",
        f"a step takes {count(batch_sizes.videos_per_step, 'video')} "
        f"({count(batch_sizes.clips_per_step, 'clip')}) in "
        f"{count(state.num_micro_batches, 'micro-batch')}, and the largest learning rate is "
        f"{build_lr_schedule(cfg).largest_lr:.3g}",
        f"outputs: {cfg.OUTPUT_DIR}",
    ]


def _describe_parameters(state: TrainingState) -> str:
    total = sum(parameter.numel() for parameter in state.model.parameters())
    text = f"{total / 1e6:.2f} M parameters"
    trainable = count_parameters(state.model)
    return text if trainable == total else f"{text} ({trainable / 1e6:.2f} M trainable)"


def _device_name() -> str:
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({count(torch.get_num_threads(), 'thread')} each)"
