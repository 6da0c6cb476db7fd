"""The training loop."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

from torch import Tensor

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import VideoLoader
from slowfast.datasets.records import Batch
from slowfast.distributed.collectives import (
    copy_buffers_from_main,
    device,
    largest_over_ranks,
    wait_for_all,
)
from slowfast.distributed.signals import StopRequest
from slowfast.engine.batch_norm import recompute_statistics
from slowfast.engine.checkpoints import CheckpointSaver
from slowfast.engine.lr_schedule import LrSchedule
from slowfast.engine.mistakes import WorstMistakes
from slowfast.engine.run_figures import RunFigures
from slowfast.engine.state import TrainingState
from slowfast.engine.step import TrainStep
from slowfast.engine.tally import Tally
from slowfast.engine.time_estimate import TimeEstimate
from slowfast.engine.train_log import TrainLog
from slowfast.engine.validations import Validations
from slowfast.inference.evaluator import Evaluator
from slowfast.inference.prefetch import on_device
from slowfast.utils.progress import Progress
from slowfast.utils.text import count

logger = logging.getLogger(__name__)


class StoppedBySignal(Exception):  # noqa: N818  it is no error
    """A signal asked some process to stop, and all processes have agreed to."""


@dataclass(frozen=True)
class Plan:
    """What a run does, and after which epochs.

    Args:
        num_epochs: Number of epochs.
        eval_period: Epochs between two validations. A run also validates after its last epoch.
        checkpoint_period: Epochs between two checkpoints. A run also saves its last epoch.
        patience: Validations without improvement after which a run stops early. 0 never does.
        best_metric: Metric that improves: top1 | loss.
        num_precise_bn_batches: Training batches for precise BatchNorm statistics. 0 for none.
        use_ema: Whether to validate the moving average of the weights.
        tests_afterward: Whether a test follows the training.
        resumes_by_itself: Whether the same command resumes the run, see TRAIN.AUTO_RESUME.
        prefetch: Whether to copy batches to the GPU while it computes.
        log_period: Steps between two log lines.
    """

    num_epochs: int
    eval_period: int
    checkpoint_period: int
    patience: int
    best_metric: str
    num_precise_bn_batches: int
    use_ema: bool
    tests_afterward: bool
    resumes_by_itself: bool
    prefetch: bool
    log_period: int

    def is_due(self, epoch: int, *, period: int) -> bool:
        """Whether something that happens every few epochs happens after this number of epochs."""
        return epoch > 0 and (epoch >= self.num_epochs or epoch % period == 0)


@dataclass
class Training:
    """A training in progress: its state, what changes the state, and what records it."""

    plan: Plan
    state: TrainingState
    train_step: TrainStep
    lr_schedule: LrSchedule
    loss_fn: Callable[..., Tensor]
    train_loader: VideoLoader
    val_loader: VideoLoader
    evaluator: Evaluator
    class_names: Sequence[str]
    checkpoints: CheckpointSaver
    validations: Validations
    estimate: TimeEstimate
    log: TrainLog
    figures: RunFigures
    stop_request: StopRequest

    def run(self) -> bool:
        """Train until the last epoch, or until a signal asks to stop.

        Returns:
            Whether the run may go on to its test. If it is False, a signal stopped the run and its
            work is saved.

        Raises:
            SkippedStepsError: If too many steps in a row were skipped.
            DecodeError: If too many videos could not be read.
            FloatingPointError: If the scores of a validation are not finite.
            OSError: If a checkpoint cannot be written.
        """
        state, best = self.state, None
        with self.stop_request, self.train_loader.explain_worker_errors():
            try:
                if not state.num_steps:
                    self.figures.draw_start(state.model, self.train_loader)
                self.validate_if_due()  # A run may have stopped before this validation.
                for _ in range(state.epoch, self.plan.num_epochs):
                    if self.stops_early():
                        break
                    self.train_epoch()
                    self.finish_epoch()
                    self.validate_if_due()
                best = self.validations.best
            except StoppedBySignal:
                self.save_and_stop()
                return False
            finally:
                self.log.close(best, num_steps=state.num_steps)
            return not (self.plan.tests_afterward and self.stops_before_test())

    def train_epoch(self) -> None:
        """Train from the current step to the end of the epoch."""
        state, train_step = self.state, self.train_step
        num_steps = self.train_loader.num_steps
        state.model.train()
        self.train_loader.set_epoch(state.epoch, first_step=state.step)
        steps = self.steps_with_progress()
        self.estimate.start_timing()

        for micro_batches in steps:
            lr = self.lr_schedule.lr_at(state.epoch + state.step / num_steps)
            result = train_step.run(
                micro_batches,
                lr=lr,
                stop_requested=self.stop_request.is_requested,
                save_requested=self.checkpoints.is_due(),
            )

            self.estimate.end_step(state.position, loss=result.loss)
            if steps.line_is_due():
                self.log.log_step(state, result, steps, lr=lr)
            if train_step.stop_requested:
                break
            if train_step.save_requested:
                train_step.settle()
                self.checkpoints.save(state)
                train_step.save_requested = False

        train_step.settle()
        if state.step < num_steps:
            raise StoppedBySignal

    def finish_epoch(self) -> None:
        """Synchronize BatchNorm statistics and save a checkpoint if one is due."""
        state, plan = self.state, self.plan
        state.finish_epoch()
        is_validated = plan.is_due(state.epoch, period=plan.eval_period)
        for model in state.models:
            copy_buffers_from_main(model)
            if plan.num_precise_bn_batches and is_validated:
                recompute_statistics(
                    model,
                    self.normalized_frames(plan.num_precise_bn_batches),
                    num_batches=min(plan.num_precise_bn_batches, len(self.train_loader)),
                    amp=self.evaluator.amp,
                )

        if plan.is_due(state.epoch, period=plan.checkpoint_period):
            self.log.wait_for_records()
            self.checkpoints.save(state)
        wait_for_all()
        if self.train_step.stop_requested:
            raise StoppedBySignal

    def validate_if_due(self) -> None:
        """Validate after an epoch that the plan validates, unless that was done before.

        It follows the checkpoint, so that a run that is killed in its validation loses no step.

        Raises:
            FloatingPointError: If scores are not finite.
        """
        state = self.state
        is_due = state.step == 0 and self.plan.is_due(state.epoch, period=self.plan.eval_period)
        if not is_due or self.validations.has(state.epoch):
            return

        num_videos = len(self.val_loader.dataset)
        logger.info("validating after epoch %d on %s", state.epoch, count(num_videos, "video"))
        started_at = perf_counter()
        tally = self.new_tally(
            self.val_loader.dataset.annotations, mistakes=self.figures.new_mistakes()
        )
        model = state.evaluated_model(use_ema=self.plan.use_ema)
        is_complete = self.evaluator.score(
            model,
            self.val_loader,
            title=f"validate epoch {state.epoch}",
            take=tally.add,
            is_interrupted=lambda: self.stop_request.is_requested,
            live_values=tally.so_far,
        )
        if not is_complete:
            raise StoppedBySignal
        tally.combine()
        self.check_finite(tally)

        result = tally.result()
        self.log.log_validation(
            state.epoch,
            result,
            unscored=tally.unscored,
            seconds=perf_counter() - started_at,
        )
        record = {"epoch": state.epoch, **result.headline()}
        is_best = self.validations.is_best(record)
        if is_best:
            self.checkpoints.save_best(state, validation=record)
        self.validations.add(record, is_best=is_best)
        self.validations.write_metrics(result.metrics, epoch=state.epoch)

        # The trackers come last: a run that is killed before repeats what they do not know yet.
        step = state.num_steps
        self.log.track_validation(result, num_steps=step)
        self.figures.draw_validation(
            tally.counts.confusion, tally.mistakes, self.val_loader, step=step
        )
        self.figures.draw_model(model, self.val_loader, self.evaluator, step=step)

    def new_tally(
        self, annotations: Annotations, *, mistakes: WorstMistakes | None = None
    ) -> Tally:
        """Return the tally of a validation of some videos that has not begun."""
        return Tally(
            self.class_names,
            annotations.labels,
            video_name=lambda row: annotations[row].name,
            loss_fn=self.loss_fn,
            mistakes=mistakes,
        )

    def check_finite(self, tally: Tally) -> None:
        """Save a checkpoint and raise an error if scores of a validation are not finite."""
        if not tally.nonfinite:
            return
        self.checkpoints.save(self.state)
        raise FloatingPointError(
            f"validation after epoch {self.state.epoch}: {count(len(tally.nonfinite), 'video')} of "
            f"{len(self.val_loader.dataset)} have non-finite scores. First: "
            f"{tally.nonfinite[0].reason}. The "
            "checkpoint is saved, and best.pyth is not written from it. Set TRAIN.AMP off, or "
            "delete the newest checkpoints and resume with a lower SOLVER.BASE_LR, either with "
            "TRAIN.RESUME_WITH_CHANGES True"
        )

    def stops_early(self) -> bool:
        """Whether the last validations brought no improvement, see TRAIN.EARLY_STOP_PATIENCE."""
        state, patience = self.state, self.plan.patience
        if not patience or state.step or self.validations.num_without_improvement() < patience:
            return False

        logger.info(
            "stopping early after epoch %d: %s without a better %s (TRAIN.EARLY_STOP_PATIENCE)",
            state.epoch,
            count(patience, "validation"),
            self.plan.best_metric,
        )
        self.checkpoints.save(state)
        return True

    def save_and_stop(self) -> None:
        """Save a checkpoint and say how to resume."""
        self.checkpoints.save(self.state)
        wait_for_all()  # A launcher may end the other processes once the first one has left.
        logger.warning(
            "stopped by %s. %s resumes at %s",
            self.signal_name,
            self.resume_command,
            self.state.position,
        )

    def stops_before_test(self) -> bool:
        """Whether a signal came after the last step. The test that follows would not notice it."""
        if not largest_over_ranks(float(self.stop_request.is_requested)):
            return False
        logger.warning(
            "stopped by %s. The training is finished. %s tests",
            self.signal_name,
            self.resume_command,
        )
        return True

    def steps_with_progress(self) -> Progress[tuple[Batch, ...]]:
        """Return the remaining steps of the epoch, as tuples of micro-batches."""
        state, num_steps = self.state, self.train_loader.num_steps
        steps = self.train_loader.steps()
        return Progress(
            on_device(steps, device()) if self.plan.prefetch else steps,
            f"train epoch {state.epoch + 1}/{self.plan.num_epochs}",
            num_steps=num_steps,
            period=self.plan.log_period,
            first=state.step,
            steps_after=(self.plan.num_epochs - state.epoch - 1) * num_steps,
            wait_of_all=largest_over_ranks,
        )

    def normalized_frames(self, num_batches: int) -> Iterator[Tensor]:
        """Iterate over the normalized frames of the first training batches of an epoch."""
        for batch in islice(self.train_loader, num_batches):
            yield self.evaluator.normalize(batch.frames.to(device()), batch.unfilled)

    @property
    def signal_name(self) -> str:
        """Name of the signal that this process received, if it did."""
        return self.stop_request.signal_name or "a signal to another process"

    @property
    def resume_command(self) -> str:
        """What to type to resume the run."""
        resume = "" if self.plan.resumes_by_itself else " with TRAIN.AUTO_RESUME True"
        return f"The same command{resume}"
