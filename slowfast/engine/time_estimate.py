"""Estimate of how long a whole run takes, logged after its first steps."""

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from time import perf_counter

from torch import Tensor

from slowfast.distributed.collectives import device, is_main
from slowfast.runs.position import Position
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

LONG_ON_CPU = timedelta(days=1)
VIEWS_PER_CLIP = 3  # Training on a clip takes as long as scoring three views: backward costs two.


@dataclass
class TimeEstimate:
    """Size of a run, and what its first steps show of its speed.

    Args:
        num_epochs: Number of epochs.
        steps_per_epoch: Number of steps of an epoch.
        clips_per_step: Number of clips of a step, over all processes.
        eval_period: Epochs between two validations.
        val_views: Number of views of a validation.
        test_views: Number of views of the test, or 0 if there is no test.
    """

    num_epochs: int
    steps_per_epoch: int
    clips_per_step: int
    eval_period: int
    val_views: int
    test_views: int
    _view_seconds: float | None = None  # over all processes together
    _num_timed: int = 0
    _started_at: float = field(default_factory=perf_counter)

    @property
    def num_clips(self) -> float:
        """The cost of the whole run, as a number of clips to train on."""
        trained = self.num_epochs * self.steps_per_epoch * self.clips_per_step
        num_views = self._num_validations(0) * self.val_views + self.test_views
        return trained + num_views / VIEWS_PER_CLIP

    def set_view_seconds(self, seconds: float, *, num_views: int) -> None:
        """Set the speed of an evaluation from the time that all processes took for some views."""
        self._view_seconds = seconds / num_views

    def start_timing(self) -> None:
        """Start to time a step, so that what came before, such as a rehearsal, does not count."""
        self._started_at = perf_counter()

    def end_step(self, position: Position, *, loss: Tensor) -> None:
        """Log the first step, and after the second one the time that the run still needs.

        Args:
            position: Position after the step.
            loss: Loss of the step. Reading it waits for the device.
        """
        if self._num_timed == 2 or not is_main():
            return

        value = loss.item()
        seconds = perf_counter() - self._started_at
        self._num_timed += 1
        self._started_at = perf_counter()
        if self._num_timed == 1:
            logger.info("first step done in %.1f s, loss %.4f", seconds, value)
        else:
            self._log_time_left(position, step_seconds=seconds)

    def _log_time_left(self, position: Position, *, step_seconds: float) -> None:
        num_steps = (self.num_epochs - position.epoch) * self.steps_per_epoch - position.step
        num_validations = self._num_validations(position.epoch)
        view_seconds = self._view_seconds or step_seconds / self.clips_per_step / VIEWS_PER_CLIP
        seconds = {
            f"{count(num_steps, 'step')} in": num_steps * step_seconds,
            f"{count(num_validations, 'validation')} in": (
                num_validations * self.val_views * view_seconds
            ),
            "test in": self.test_views * view_seconds,
        }

        total = timedelta(seconds=round(sum(seconds.values())))
        details = ", ".join(
            f"{name} {timedelta(seconds=round(value))}" for name, value in seconds.items() if value
        )
        logger.info("time left for the whole run: about %s (%s)", total, details)
        if device().type == "cpu" and total > LONG_ON_CPU:
            logger.warning(
                "that is longer than a day, on a CPU: use a GPU (NUM_GPUS 1), a smaller model or "
                "clip (DATA.NUM_FRAMES, DATA.TRAIN_CROP_SIZE), or fewer epochs (SOLVER.MAX_EPOCH)"
            )

    def _num_validations(self, epoch: int) -> int:
        """Return the number of validations that follow after some finished epochs."""
        period, last = self.eval_period, self.num_epochs
        has_extra = last % period > 0  # A run also validates after its last epoch.
        return max(last // period - epoch // period + has_extra, 0)
