"""Log of a training: progress lines, JSON records and TensorBoard curves."""

import logging

from slowfast.datasets.records import Batch
from slowfast.distributed.collectives import (
    device,
    is_main,
    largest_over_ranks,
    mean_over_ranks,
)
from slowfast.engine.memory import peak_memory, peak_reserved
from slowfast.engine.state import TrainingState
from slowfast.engine.step import StepResult
from slowfast.evaluation.metrics import Result
from slowfast.utils.progress import Progress, log_json_stats
from slowfast.visualization.tensorboard import ScalarWriter

logger = logging.getLogger(__name__)

NOT_PLOTTED = ("step", "num_steps", "eta_seconds")


class TrainLog:
    """Logs the steps and validations of a run.

    Args:
        log_dir: Directory of the TensorBoard files. If it is empty, there are none.
        clips_per_step: Number of clips of a step, over all processes.
    """

    def __init__(self, log_dir: str, *, clips_per_step: int) -> None:
        self._writer = ScalarWriter(log_dir)
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
        self._writer.write(curves, step=state.epoch * progress.num_steps + record["step"])

    def log_validation(self, epoch: int, result: Result, *, seconds: float) -> None:
        """Log the result of a validation after a number of finished epochs."""
        logger.info(
            "validation after epoch %d: top-1 %.2f  top-5 %.2f  loss %.4f  (scored %d/%d, %.1fs)",
            epoch,
            result.top1,
            result.top5,
            result.loss,
            result.num_scored,
            result.num_videos,
            seconds,
        )
        if is_main():
            metrics = {"top1": result.top1, "top5": result.top5, "loss": result.loss}
            log_json_stats({"_type": "val_epoch", "epoch": epoch, **metrics})
            curves = {f"val/{name}": value for name, value in metrics.items()}
            self._writer.write(curves, step=epoch)

    def close(self) -> None:
        """Close the TensorBoard files."""
        self._writer.close()
