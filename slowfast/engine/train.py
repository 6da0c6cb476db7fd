"""The training loop."""

import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

import torch
from fvcore.common.config import CfgNode
from fvcore.nn.precise_bn import update_bn_stats
from torch import nn

from slowfast.datasets.build import VideoLoader, build_loader, build_normalize
from slowfast.datasets.records import Batch
from slowfast.distributed.collectives import (
    copy_buffers_from_main,
    device,
    from_main,
    is_main,
    largest_over_ranks,
    mean_over_ranks,
    wait_for_all,
    world_size,
)
from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.signals import Interruption, phase
from slowfast.engine.build import build_train_step
from slowfast.engine.checkpoints import Saver, Validations, check_disk
from slowfast.engine.estimate import Estimate, clips_per_step
from slowfast.engine.evaluate import score_split, summarize
from slowfast.engine.memory import explained_out_of_memory, peak_memory, peak_reserved
from slowfast.engine.optim import amp_dtype, autocast, dtype_name, lr_at
from slowfast.engine.precision import set_up_kernels
from slowfast.engine.prefetch import on_device
from slowfast.engine.rehearse import rehearse
from slowfast.engine.resume import start_run
from slowfast.engine.run_folder import best_validation, is_resumable, locked, remove_leftovers
from slowfast.engine.skipped_steps import SkippedStepsError
from slowfast.engine.state import TrainingState
from slowfast.engine.step import Outcome, TrainStep
from slowfast.engine.unreadable_videos import UnreadableVideos
from slowfast.models.build import count_multiply_adds, count_parameters
from slowfast.utils.progress import Progress, log_json_stats, start_logging
from slowfast.utils.provenance import provenance
from slowfast.utils.text import count
from slowfast.visualization.tensorboard import ScalarWriter

logger = logging.getLogger(__name__)


def train(cfg: CfgNode) -> bool:
    """Train a model from OUTPUT_DIR's newest checkpoint, given weights or nothing, up to SOLVER.MAX_EPOCH epochs.

    Runs in every process of the job, which share each batch. OUTPUT_DIR then holds run.json, config.yaml, stdout.log,
    checkpoints/, validation.json, best.pyth and, if wanted, tensorboard/.

    Returns:
        Whether the training is finished; False: a signal stopped it, the same command continues with the next step.

    Raises:
        FileNotFoundError: A list or the weights to start from are missing.
        ValueError: A list, the weights or the checkpoint to resume from do not fit the config.
        OSError: Another training writes to OUTPUT_DIR, a checkpoint cannot be written, or the disk is too small.
        DecodeError: More videos than DATA.MAX_BAD_FRACTION allows cannot be read.
        FloatingPointError: Losses or gradients of many steps in a row, or scores of a validation, are not finite.
        OutOfMemoryError: The device has not enough memory.
    """
    start_logging(is_main=is_main())
    set_up_kernels(tf32=cfg.TRAIN.TF32)
    with (
        explained_out_of_memory(_remedies(cfg)),
        locked(cfg.OUTPUT_DIR, purpose="training") as lock,
    ):
        if is_main():
            remove_leftovers(cfg.OUTPUT_DIR)
        can_continue = from_main(
            is_main() and is_resumable(cfg.OUTPUT_DIR, auto_resume=cfg.TRAIN.AUTO_RESUME)
        )
        saved = "what is saved stays; run the same command again" if can_continue else ""
        with phase("the start of the training", outcome=saved, can_continue=can_continue):
            run, train_loader, is_resumed = start_run(cfg)
            val_loader = build_loader(cfg, "val")
            _log_setup(cfg, run, num_videos=len(train_loader.dataset))
            saver = _build_saver(cfg, run, lock, is_resumed=is_resumed)
            best = (
                best_validation(cfg.OUTPUT_DIR, run.run_id, max_epoch=run.epoch)
                if is_main()
                else None
            )
            validations = Validations(
                cfg.OUTPUT_DIR, run, best=from_main(best), metric=cfg.TRAIN.BEST_METRIC
            )
            validations.write()
            annotations = train_loader.dataset.annotations
            taker = build_train_step(
                cfg,
                run,
                unreadable=UnreadableVideos(
                    len(annotations), max_fraction=cfg.DATA.MAX_BAD_FRACTION
                ),
                video_name=lambda row: annotations[row].name,
            )

        estimate = Estimate(cfg, num_steps=train_loader.num_steps, num_val=len(val_loader.dataset))
        if cfg.TRAIN.REHEARSE and not is_resumed:
            with phase("the rehearsal"):
                rehearse(cfg, run, taker, train_loader, estimate)

        # A folder outside OUTPUT_DIR may be shared by many runs: each has its own below it.
        log_dir = Path(cfg.TENSORBOARD.LOG_DIR, run.run_id) if cfg.TENSORBOARD.LOG_DIR else None
        log_dir = log_dir or Path(cfg.OUTPUT_DIR, "tensorboard")
        writer = ScalarWriter(str(log_dir) if cfg.TENSORBOARD.ENABLE and is_main() else None)
        training = _Training(
            cfg,
            run,
            taker,
            train_loader,
            val_loader,
            saver,
            validations,
            estimate,
            writer,
            Interruption(),
        )
        with training.interruption, train_loader.explained():
            try:
                return training.run_epochs()
            except SkippedStepsError as error:
                before = from_main(
                    saver.put_away_streak(run) if is_main() and run.streak.length else None
                )
                raise SkippedStepsError(f"{error}. {_how_to_continue(cfg, before)}") from error
            finally:
                writer.close()


def _build_saver(
    cfg: CfgNode, run: TrainingState, lock: FolderLock | None, *, is_resumed: bool
) -> Saver:
    retention = {
        "keep_last": 1 if cfg.TRAIN.SAVE_LATEST else cfg.TRAIN.KEEP_LAST,
        "keep_every": cfg.TRAIN.KEEP_EVERY,
    }
    if is_main() and not is_resumed:
        period = 1 if cfg.TRAIN.SAVE_LATEST else cfg.TRAIN.CHECKPOINT_PERIOD
        check_disk(cfg.OUTPUT_DIR, run, num_epochs=cfg.SOLVER.MAX_EPOCH, period=period, **retention)
    return Saver(cfg.OUTPUT_DIR, lock, minutes=cfg.TRAIN.CHECKPOINT_MINUTES, **retention)


def _remedies(cfg: CfgNode) -> str:
    """What helps where a training runs out of memory."""
    return (
        f"MODEL.USE_CHECKPOINT True with higher MODEL.CHECKPOINT_NUM (now {cfg.MODEL.CHECKPOINT_NUM}), "
        f"higher SOLVER.ACCUM_STEPS (now {cfg.SOLVER.ACCUM_STEPS}; the same step in smaller parts), "
        f"a smaller TRAIN.BATCH_SIZE (now {cfg.TRAIN.BATCH_SIZE}; with SOLVER.BASE_LR in proportion)"
    )


def _how_to_continue(cfg: CfgNode, checkpoint: Path | None) -> str:
    """What to type after too many steps were skipped."""
    remedies = f"SOLVER.BASE_LR {cfg.SOLVER.BASE_LR / 2:.3g}"
    if cfg.TRAIN.AMP != "off":
        remedies += " TRAIN.AMP off"
    where = (
        f"To resume from {checkpoint}, before them,"
        if checkpoint
        else "No checkpoint is from before them; to begin anew,"
    )
    if checkpoint:
        remedies = f"TRAIN.RESUME_WITH_CHANGES True {remedies}"
        remedies = remedies if cfg.TRAIN.AUTO_RESUME else f"TRAIN.AUTO_RESUME True {remedies}"
    return (
        f"{where} with a lower learning rate: {provenance()['command']} {remedies}. Longer "
        "SOLVER.WARMUP_EPOCHS and a lower SOLVER.CLIP_GRADIENT help as well; look at the videos, too"
    )


@dataclass
class _Training:
    """The parts of a training under way, and its loops."""

    cfg: CfgNode
    run: TrainingState
    taker: TrainStep
    train_loader: VideoLoader
    val_loader: VideoLoader
    saver: Saver
    validations: Validations
    estimate: Estimate
    writer: ScalarWriter
    interruption: Interruption

    def run_epochs(self) -> bool:
        """Train up to the last epoch; returns whether it was reached."""
        cfg, run = self.cfg, self.run
        while True:
            # After the checkpoint, so that a run that is ended here loses no step, and validates when it is resumed.
            is_due = run.step == 0 and self._is_due(every=cfg.TRAIN.EVAL_PERIOD)
            if is_due and not self.validations.has(run.epoch) and not self.validate():
                return self._stop()
            if run.epoch >= cfg.SOLVER.MAX_EPOCH or self._stops_early():
                return not (cfg.TEST.ENABLE and self._stops_before_test())

            self.train_epoch()
            if run.step < self.train_loader.num_steps:
                return self._stop()
            run.epoch, run.step, run.unreadable = run.epoch + 1, 0, set()
            for model in run.models:
                copy_buffers_from_main(model)
                if cfg.BN.USE_PRECISE_STATS and self._is_due(every=cfg.TRAIN.EVAL_PERIOD):
                    _recompute_statistics(
                        cfg, model, self.train_loader, num_batches=cfg.BN.NUM_BATCHES_PRECISE
                    )
            if cfg.TRAIN.SAVE_LATEST or self._is_due(every=cfg.TRAIN.CHECKPOINT_PERIOD):
                self.saver.save(run)
            wait_for_all()
            if self.taker.shall_stop:
                return self._stop()

    def train_epoch(self) -> None:
        """Take the rest of the steps of an epoch, or of those until the run shall stop."""
        cfg, run, taker = self.cfg, self.run, self.taker
        run.model.train()
        self.train_loader.set_epoch(run.epoch, first_step=run.step)
        num_steps = self.train_loader.num_steps
        steps = self.train_loader.steps()
        progress = Progress(
            on_device(steps, device()) if cfg.TRAIN.PREFETCH else steps,
            f"train epoch {run.epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
            num_steps=num_steps,
            period=cfg.LOG_PERIOD,
            first=run.step,
            steps_after=(cfg.SOLVER.MAX_EPOCH - run.epoch - 1) * num_steps,
            wait_of_all=largest_over_ranks,
        )

        self.estimate.begin()
        for parts in progress:
            lr = lr_at(cfg, run.epoch + run.step / num_steps)
            outcome = taker.take(
                parts,
                lr=lr,
                is_interrupted=self.interruption.is_requested,
                save_is_due=self.saver.is_due(),
            )
            self.estimate.note_step(run, loss=outcome.loss)
            if progress.line_is_due():
                _log_step(cfg, run, outcome, progress, self.writer, lr=lr)
            if taker.shall_stop:
                break
            if taker.shall_save:
                taker.settle()
                self.saver.save(run)
                taker.shall_save = False
        taker.settle()

    def validate(self) -> bool:
        """Score one centered view of each validation video; returns False if a signal stopped it.

        Raises:
            FloatingPointError: Scores are not finite.
        """
        cfg, run, start = self.cfg, self.run, perf_counter()
        model = run.models[-1] if cfg.TEST.EMA else run.model
        title = f"validate epoch {run.epoch}"
        logger.info(
            "validating after epoch %d on %s",
            run.epoch,
            count(len(self.val_loader.dataset), "video"),
        )
        table = score_split(
            cfg,
            model,
            self.val_loader,
            title=title,
            is_interrupted=lambda: self.interruption.is_requested,
        )
        if table is None:
            return False
        if table.not_finite:
            self.saver.save(run)
            raise FloatingPointError(
                f"validation after epoch {run.epoch}: {count(len(table.not_finite), 'video')} of {len(table.scores)} "
                f"have scores that are not finite, first {table.not_finite[0].reason}; the checkpoint is saved, and "
                "best.pyth is not written from it. Set TRAIN.AMP off, or delete the newest checkpoints and resume with "
                "a lower SOLVER.BASE_LR, either with TRAIN.RESUME_WITH_CHANGES True"
            )
        result = summarize(table, self.val_loader.labels, loss_name=cfg.MODEL.LOSS_FUNC)

        logger.info(
            "validation after epoch %d: top-1 %.2f  top-5 %.2f  loss %.4f  (scored %d/%d, %.1fs)",
            *(
                run.epoch,
                result.top1,
                result.top5,
                result.loss,
                result.num_scored,
                result.num_videos,
            ),
            perf_counter() - start,
        )
        numbers = {"top1": result.top1, "top5": result.top5, "loss": result.loss}
        if is_main():
            log_json_stats({"_type": "val_epoch", "epoch": run.epoch, **numbers})
            self.writer.write(
                {f"val/{name}": value for name, value in numbers.items()}, step=run.epoch
            )
        record = {"epoch": run.epoch, **numbers}
        is_best = self.validations.is_best(record)
        if is_best:
            self.saver.save_best(run, validation=record)
        self.validations.add(record, is_best=is_best)
        return True

    def _stops_early(self) -> bool:
        """Whether enough validations in a row have brought nothing better, see TRAIN.EARLY_STOP_PATIENCE."""
        cfg, run = self.cfg, self.run
        patience = cfg.TRAIN.EARLY_STOP_PATIENCE
        if not patience or run.step or self.validations.num_without_improvement() < patience:
            return False
        logger.info(
            "stopping early after epoch %d: %s without a better %s (TRAIN.EARLY_STOP_PATIENCE)",
            *(run.epoch, count(patience, "validation"), cfg.TRAIN.BEST_METRIC),
        )
        self.saver.save(run)
        return True

    def _stops_before_test(self) -> bool:
        """Whether a signal came after the last step, which the test that follows would not hear of."""
        if not largest_over_ranks(float(self.interruption.is_requested)):
            return False
        logger.warning(
            "stopped by %s; the training is finished, and %s tests",
            self._signal,
            self._same_command,
        )
        return True

    def _stop(self) -> bool:
        self.saver.save(self.run)
        wait_for_all()  # a launcher may end the processes that are left when the first one has gone
        logger.warning(
            "stopped by %s; %s resumes at %s", self._signal, self._same_command, self.run.place
        )
        return False

    @property
    def _signal(self) -> str:
        return self.interruption.signal_name or "a signal to another process"

    @property
    def _same_command(self) -> str:
        return "the same command" + (
            "" if self.cfg.TRAIN.AUTO_RESUME else " with TRAIN.AUTO_RESUME True"
        )

    def _is_due(self, *, every: int) -> bool:
        """Whether something done after each so many epochs, and after the last, is done now."""
        epoch = self.run.epoch
        return epoch > 0 and (epoch >= self.cfg.SOLVER.MAX_EPOCH or epoch % every == 0)


def _log_step(
    cfg: CfgNode,
    run: TrainingState,
    outcome: Outcome,
    progress: Progress[tuple[Batch, ...]],
    writer: ScalarWriter,
    *,
    lr: float,
) -> None:
    means = mean_over_ranks({"loss": outcome.loss.item(), "top1": 100 * outcome.top1.item()})
    memory = "memory_gb" if device().type == "cuda" else "ram_gb"
    values = {
        **means,
        "lr": lr,
        "grad_norm": outcome.grad_norm.item(),
        memory: largest_over_ranks(peak_memory()),
    }
    if device().type == "cuda":
        values["reserved_gb"] = largest_over_ranks(peak_reserved())
    if run.scaler.is_enabled():
        values["loss_scale"] = run.scaler.get_scale()
    record = progress.write_line(**values)
    if is_main():
        record["clips_per_second"] = clips_per_step(cfg) / record["step_seconds"]
        record["skipped_steps"] = run.num_skipped_steps
        log_json_stats({"_type": "train_step", "epoch": run.epoch + 1, **record})
        shown = {
            name: value
            for name, value in record.items()
            if name not in ("step", "num_steps", "eta_seconds")
        }
        global_step = run.epoch * progress.num_steps + record["step"]
        writer.write({f"train/{name}": value for name, value in shown.items()}, step=global_step)


def _recompute_statistics(
    cfg: CfgNode, model: nn.Module, loader: VideoLoader, *, num_batches: int
) -> None:
    """Replace the running BatchNorm statistics by the mean over training batches, and share those of rank 0."""
    normalize = build_normalize(cfg)
    frames = (
        normalize(batch.frames.to(device()), batch.unfilled)
        for batch in islice(loader, num_batches)
    )
    was_training = model.training
    with autocast(
        amp_dtype(cfg.TRAIN.AMP, device()), device()
    ):  # as in training, whose statistics they stand for
        update_bn_stats(model.train(), frames, min(num_batches, len(loader)), progress=None)
    model.train(was_training)
    copy_buffers_from_main(model)


def _log_setup(cfg: CfgNode, run: TrainingState, *, num_videos: int) -> None:
    size = {"num_frames": cfg.DATA.NUM_FRAMES, "size": cfg.DATA.TRAIN_CROP_SIZE}
    logger.info(
        "%s: %.2f M parameters, %.2f G multiply-adds per view of %d frames at %d px",
        cfg.MODEL.MODEL_NAME,
        count_parameters(run.model) / 1e6,
        count_multiply_adds(cfg, **size) / 1e9,
        *size.values(),
    )
    logger.info(
        "training on %s with %s on %s, number format %s; a step takes %s (%s) in %s, largest learning rate %.3g",
        count(num_videos, "video"),
        count(world_size(), "process"),
        _device_name(),
        dtype_name(amp_dtype(cfg.TRAIN.AMP, device())),
        count(cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS, "video"),
        count(clips_per_step(cfg), "clip"),
        count(run.num_parts, "part"),
        max(lr_at(cfg, epoch) for epoch in (0, cfg.SOLVER.WARMUP_EPOCHS)),
    )
    logger.info("outputs: %s", cfg.OUTPUT_DIR)


def _device_name() -> str:
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({count(torch.get_num_threads(), 'thread')} each)"
