"""Log of a training: progress lines, JSON records, and the curves of its trackers."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from slowfast.datasets.records import Batch, UnreadableVideo
from slowfast.distributed.collectives import (
    device,
    is_main,
    largest_over_ranks,
    mean_over_ranks,
)
from slowfast.engine.state import TrainingState
from slowfast.engine.step import StepResult
from slowfast.engine.tally import ValidationResult
from slowfast.engine.unreadable_videos import log_unscored
from slowfast.inference.memory import peak_memory, peak_reserved
from slowfast.utils.progress import Progress, log_json_stats
from slowfast.visualization.background import Trackers

logger = logging.getLogger(__name__)

NOT_PLOTTED = ("step", "num_steps", "eta_seconds")


class TrainLog:
    """Logs the steps and validations of a run.

    Args:
        trackers: Trackers of the run.
        clips_per_step: Number of clips of a step, over all processes.
    """

    def __init__(self, trackers: Trackers, *, clips_per_step: int) -> None:
        self._trackers = trackers
        self._clips_per_step = clips_per_step

    def log_step(
        self,
        state: TrainingState,
        result: StepResult,
        progress: Progress[tuple[Batch, ...]],
        *,
        lr: float,
    ) -> None:
        """Log the step that has just run. All processes call it together."""
        means = mean_over_ranks({"loss": result.loss.item(), "top1": 100 * result.top1.item()})
        values = {**means, "lr": lr, "grad_norm": result.grad_norm.item()}
        peak = largest_over_ranks(peak_memory())
        if device().type == "cuda":
            values["memory_gb"] = peak
            values["reserved_gb"] = largest_over_ranks(peak_reserved())
        else:
            values["ram_gb"] = peak
        if state.scaler.is_enabled():
            values["loss_scale"] = state.scaler.get_scale()

        record = progress.write_line(**values)
        if not is_main():
            return
        record["clips_per_second"] = self._clips_per_step / record["step_seconds"]
        record["skipped_steps"] = state.num_skipped_steps
        log_json_stats({"_type": "train_step", "epoch": state.epoch + 1, **record})
        curves = {
            f"train/{name}": value for name, value in record.items() if name not in NOT_PLOTTED
        }
        num_steps = state.epoch * progress.num_steps + record["step"]
        curves["epoch"] = num_steps / progress.num_steps
        self._trackers.log_scalars(curves, step=num_steps)

    def log_validation(
        self,
        epoch: int,
        result: ValidationResult,
        *,
        unscored: Sequence[UnreadableVideo],
        seconds: float,
    ) -> None:
        """Log the result of a validation after a number of finished epochs."""
        metrics = result.metrics
        logger.info(
            "validation after epoch %d: top-1 %.2f  top-5 %.2f  loss %.4f  "
            "mean class accuracy %.2f  (scored %d/%d, %.1fs)",
            epoch,
            metrics.top1,
            metrics.top5,
            result.loss,
            metrics.mean_class_accuracy,
            metrics.num_scored,
            metrics.num_videos,
            seconds,
        )
        if not is_main():
            return
        reasons = [video.reason for video in unscored]
        log_unscored(f"validate epoch {epoch}", reasons, num_unscored=len(reasons))

        recalls = [entry.recall for entry in metrics.classes]
        stats = {**result.headline(), "class_top1": recalls}
        log_json_stats({"_type": "val_epoch", "epoch": epoch, **stats})

    def track_validation(self, result: ValidationResult, *, num_steps: int) -> None:
        """Send the result of a validation after a number of finished steps to the trackers."""
        curves = {f"val/{name}": value for name, value in result.headline().items()}
        for entry in result.metrics.classes:
            if entry.recall is not None:
                curves[f"val/class_accuracy/{entry.name}"] = entry.recall
        self._trackers.log_scalars(curves, step=num_steps)

    def wait_for_records(self) -> None:
        """Wait until the trackers have told the IDs of their records, but not for long."""
        self._trackers.wait_until_started()

    def close(self, best: Mapping[str, Any] | None, *, num_steps: int) -> None:
        """Close the trackers.

        Args:
            best: Record of the best validation of a finished run, None if the run stops before its
                end or has none.
            num_steps: Number of finished steps.
        """
        if best is not None and self._trackers.are_running:
            results = {f"final/{name}": value for name, value in best.items()}
            self._trackers.log_results(results, step=num_steps)
        self._trackers.close(is_finished=best is not None)
