"""The training loop."""

import logging
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from fvcore.common.config import CfgNode
from fvcore.nn.precise_bn import update_bn_stats
from torch import nn

from slowfast.datasets import VideoLoader, build_loader, build_mix, build_normalise, known_class_names
from slowfast.datasets.records import Batch
from slowfast.engine.bad_steps import BadStepsError
from slowfast.engine.evaluate import Result, score_split, summarise
from slowfast.engine.memory import explained_out_of_memory, peak_memory
from slowfast.engine.optim import amp_dtype, lr_at
from slowfast.engine.prefetch import on_device
from slowfast.engine.rehearse import rehearse
from slowfast.engine.run import Run, Saver, Validations, newest_state
from slowfast.engine.step import Outcome, StepTaker
from slowfast.engine.unread import UnreadVideos
from slowfast.models import count_multiply_adds, count_parameters
from slowfast.models.weights import load_weights
from slowfast.models.zoo import weights_to_start
from slowfast.utils.distributed import (
    copy_buffers_from_main,
    device,
    is_main,
    largest_over_ranks,
    mean_over_ranks,
    wait_for_all,
    world_size,
)
from slowfast.utils.interrupt import Interruption
from slowfast.utils.progress import Progress, log_json_stats, start_logging
from slowfast.visualization.tensorboard import ScalarWriter

logger = logging.getLogger(__name__)


def train(cfg: CfgNode) -> bool:
    """Train a model from OUTPUT_DIR's newest checkpoint, given weights or nothing, up to SOLVER.MAX_EPOCH epochs.

    Runs in every process of the job, which share each batch. OUTPUT_DIR then holds config.yaml, stdout.log,
    checkpoints/, validation.json, best.pyth and, if wanted, tensorboard/.

    Returns:
        whether the training is finished; False: a signal stopped it, its newest checkpoint goes on with the next step.

    Raises:
        FileNotFoundError: a list or the weights to start from are missing.
        ValueError: a list, the weights or the checkpoint to resume from do not fit the config.
        OSError: a checkpoint cannot be written.
        DecodeError: more videos than DATA.MAX_BAD_FRACTION allows cannot be read.
        BadStepsError: losses or gradients are not finite, and going back to the last checkpoint did not help.
        OutOfMemoryError: of the device.
    """
    start_logging(cfg.OUTPUT_DIR, is_main=is_main())
    if is_main():
        Path(cfg.OUTPUT_DIR, "config.yaml").write_text(cfg.dump())
    found = newest_state(cfg.OUTPUT_DIR) if cfg.TRAIN.AUTO_RESUME else None
    parts_per_step = _parts_per_step(cfg, found[0] if found else {})
    train_loader = build_loader(cfg, "train", parts_per_step=parts_per_step)
    val_loader = build_loader(cfg, "val")
    run = Run.build(cfg, labels=train_loader.labels, num_parts=parts_per_step * world_size())
    _log_setup(cfg, run, num_videos=len(train_loader.dataset))
    validations = Validations(cfg.OUTPUT_DIR)
    if found:
        state, path = found
        run.load(state, path=str(path), may_differ=cfg.TRAIN.RESUME_WITH_CHANGES)
        logger.info("going on at %s, from %s", run.place, path)
    elif weights := weights_to_start(cfg):
        load_weights(
            run.model,
            weights,
            may_replace_head=True,
            allowed=cfg.MODEL.ALLOWED_MISMATCH,
            class_names=known_class_names(cfg),
        )
        if run.average is not None:
            run.average.begin_at(run.model)
    validations.forget_after(run.epoch)
    taker = StepTaker(cfg, run, mix=build_mix(cfg), video_name=lambda row: train_loader.dataset.annotations[row].path)
    if cfg.TRAIN.REHEARSE and not found:
        rehearse(cfg, run, taker, train_loader)

    folder = cfg.TENSORBOARD.LOG_DIR or str(Path(cfg.OUTPUT_DIR, "tensorboard"))
    writer = ScalarWriter(folder if cfg.TENSORBOARD.ENABLE and is_main() else None)
    went_back = False
    with Interruption() as interruption, explained_out_of_memory(cfg), train_loader.explained():
        while True:
            try:
                is_finished = _train_epochs(
                    cfg, run, taker, train_loader, val_loader, validations, interruption=interruption, writer=writer
                )
                break
            except BadStepsError as error:
                good = None if went_back else newest_state(cfg.OUTPUT_DIR)
                if good is None:
                    raise
                logger.warning("%s. Going back to %s, once", error, good[1])
                run.load(good[0], path=str(good[1]), may_differ=cfg.TRAIN.RESUME_WITH_CHANGES)
                went_back = True
    writer.close()
    return is_finished


def _train_epochs(
    cfg: CfgNode,
    run: Run,
    taker: StepTaker,
    train_loader: VideoLoader,
    val_loader: VideoLoader,
    validations: Validations,
    *,
    interruption: Interruption,
    writer: ScalarWriter,
) -> bool:
    """Go on to the last epoch; returns whether it was reached."""
    saver = Saver(
        cfg.OUTPUT_DIR,
        minutes=cfg.TRAIN.CHECKPOINT_MINUTES,
        keep_last=1 if cfg.TRAIN.SAVE_LATEST else cfg.TRAIN.KEEP_LAST,
        keep_every=cfg.TRAIN.KEEP_EVERY,
    )
    unread = UnreadVideos(len(train_loader.dataset), max_fraction=cfg.DATA.MAX_BAD_FRACTION)
    while True:
        # After the checkpoint, so that a run that is ended here loses no step, and validates when it goes on.
        if run.step == 0 and _is_due(cfg, run, every=cfg.TRAIN.EVAL_PERIOD) and not validations.has(run.epoch):
            result = validate(cfg, run, val_loader, writer=writer)
            if validations.is_best(result.top1):
                saver.save_best(run)
            validations.add(epoch=run.epoch, top1=result.top1, top5=result.top5)
        if run.epoch == cfg.SOLVER.MAX_EPOCH:
            return True
        train_epoch(cfg, run, taker, train_loader, unread=unread, saver=saver, interruption=interruption, writer=writer)
        if run.step < train_loader.num_steps:
            return _stop(run, saver, interruption)
        run.epoch, run.step, run.num_unread = run.epoch + 1, 0, 0
        for model in run.models:
            copy_buffers_from_main(model)
            if cfg.BN.USE_PRECISE_STATS and _is_due(cfg, run, every=cfg.TRAIN.EVAL_PERIOD):
                _recompute_statistics(cfg, model, train_loader, num_batches=cfg.BN.NUM_BATCHES_PRECISE)
        if cfg.TRAIN.SAVE_LATEST or _is_due(cfg, run, every=cfg.TRAIN.CHECKPOINT_PERIOD):
            saver.save(run)
        wait_for_all()
        if taker.shall_stop:
            return _stop(run, saver, interruption)


def _stop(run: Run, saver: Saver, interruption: Interruption) -> bool:
    saver.save(run)
    logger.warning("stopped by %s; the same command goes on at %s", interruption.signal_name or "another", run.place)
    return False


def _is_due(cfg: CfgNode, run: Run, *, every: int) -> bool:
    """Whether something done after each so many epochs, and after the last, is done now."""
    return run.epoch > 0 and (run.epoch == cfg.SOLVER.MAX_EPOCH or run.epoch % every == 0)


def train_epoch(
    cfg: CfgNode,
    run: Run,
    taker: StepTaker,
    loader: VideoLoader,
    *,
    unread: UnreadVideos,
    saver: Saver,
    interruption: Interruption,
    writer: ScalarWriter,
) -> None:
    """Take the rest of the steps of an epoch, or of those until the run shall stop."""
    run.model.train()
    loader.set_epoch(run.epoch, first_step=run.step)
    unread.start_epoch(num_before=run.num_unread)
    progress = Progress(
        on_device(loader.steps(), device()) if cfg.TRAIN.PREFETCH else loader.steps(),
        f"train epoch {run.epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
        num_steps=loader.num_steps,
        period=cfg.LOG_PERIOD,
        first=run.step,
        steps_after=(cfg.SOLVER.MAX_EPOCH - run.epoch - 1) * loader.num_steps,
        wait_of_all=largest_over_ranks,
    )
    for parts in progress:
        for batch in parts:
            unread.add(batch.unread)
        lr = lr_at(cfg, run.epoch + run.step / loader.num_steps)
        outcome = taker.take(parts, lr=lr, is_interrupted=interruption.is_requested)
        if progress.line_is_due():
            unread.report()
            run.num_unread = unread.num_in_epoch
            _log_step(cfg, run, outcome, progress, writer, lr=lr)
        if taker.shall_stop:
            break
        if saver.is_due():
            saver.save(run)
    taker.settle()


def _log_step(
    cfg: CfgNode, run: Run, outcome: Outcome, progress: Progress[tuple[Batch, ...]], writer: ScalarWriter, *, lr: float
) -> None:
    means = mean_over_ranks({"loss": outcome.loss.item(), "top1": 100 * outcome.top1.item()})
    values = {**means, "lr": lr, "grad_norm": outcome.grad_norm.item(), "memory_gb": largest_over_ranks(peak_memory())}
    if run.scaler.is_enabled():
        values["loss_scale"] = run.scaler.get_scale()
    record = progress.write_line(**values)
    if is_main():
        record["clips_per_second"] = _clips_per_step(cfg) / record["step_seconds"]
        record["bad_steps"] = run.num_bad_steps
        log_json_stats({"_type": "train_step", "epoch": run.epoch + 1, **record})
        shown = {name: value for name, value in record.items() if name not in ("step", "num_steps", "eta_seconds")}
        global_step = run.epoch * progress.num_steps + record["step"]
        writer.write({f"train/{name}": value for name, value in shown.items()}, step=global_step)


def validate(cfg: CfgNode, run: Run, loader: VideoLoader, *, writer: ScalarWriter) -> Result:
    """Score one centred view of each validation video after the last finished epoch, and log the accuracies."""
    start = perf_counter()
    model = run.models[-1] if cfg.TEST.EMA else run.model
    table = score_split(cfg, model, loader, title=f"validate epoch {run.epoch}")
    result = summarise(table, loader.labels)
    logger.info(
        "validation after epoch %d: top-1 %.2f  top-5 %.2f  (scored %d/%d, %.1fs)",
        *(run.epoch, result.top1, result.top5, result.num_scored, result.num_videos, perf_counter() - start),
    )
    if is_main():
        log_json_stats({"_type": "val_epoch", "epoch": run.epoch, "top1": result.top1, "top5": result.top5})
        writer.write({"val/top1": result.top1, "val/top5": result.top5}, step=run.epoch)
    return result


def _recompute_statistics(cfg: CfgNode, model: nn.Module, loader: VideoLoader, *, num_batches: int) -> None:
    """Replace the running BatchNorm statistics by the mean over training batches, and share those of rank 0."""
    normalise = build_normalise(cfg)
    frames = (normalise(batch.frames.to(device()), batch.unfilled) for batch in islice(loader, num_batches))
    was_training = model.training
    update_bn_stats(model.train(), frames, min(num_batches, len(loader)), progress=None)
    model.train(was_training)
    copy_buffers_from_main(model)


def _log_setup(cfg: CfgNode, run: Run, *, num_videos: int) -> None:
    size = {"num_frames": cfg.DATA.NUM_FRAMES, "size": cfg.DATA.TRAIN_CROP_SIZE}
    global_batch = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS
    logger.info(
        "%s: %.2f M parameters, %.2f G multiply-adds per view of %d frames at %d px",
        cfg.MODEL.MODEL_NAME,
        count_parameters(run.model) / 1e6,
        count_multiply_adds(cfg, **size) / 1e9,
        *size.values(),
    )
    logger.info(
        "training on %d videos with %d processes on %s, number format %s; a step takes %d videos (%d clips) in %d "
        "parts, largest learning rate %.3g",
        num_videos,
        world_size(),
        torch.cuda.get_device_name() if device().type == "cuda" else f"CPU ({torch.get_num_threads()} threads each)",
        str(amp_dtype(cfg.TRAIN.AMP, device()) or torch.float32).removeprefix("torch."),
        global_batch,
        _clips_per_step(cfg),
        run.num_parts,
        max(lr_at(cfg, epoch) for epoch in (0, cfg.SOLVER.WARMUP_EPOCHS)),
    )
    logger.info("outputs: %s", cfg.OUTPUT_DIR)


def _clips_per_step(cfg: CfgNode) -> int:
    return cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS * (cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1)


def _parts_per_step(cfg: CfgNode, state: dict[str, Any]) -> int:
    """Parts of a process's share of a step: as given, or so that a run that goes on keeps the parts that it had."""
    if cfg.SOLVER.ACCUM_STEPS:
        return cfg.SOLVER.ACCUM_STEPS
    num_parts = state.get("num_parts", world_size())
    if num_parts % world_size():
        logger.warning(
            "this run divided its steps into %d parts, which %d processes cannot share: BatchNorm will see other "
            "batches than before (the sum of them, the step, is the same)",
            num_parts,
            world_size(),
        )
        return 1
    return num_parts // world_size()
