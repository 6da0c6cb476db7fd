"""How long a whole run will take: told after its first steps, with validation and test."""

import logging
from datetime import timedelta
from time import perf_counter

from fvcore.common.config import CfgNode
from torch import Tensor

from slowfast.datasets.build import build_annotations
from slowfast.distributed.collectives import device, is_main
from slowfast.engine.state import TrainingState
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

LONG_ON_CPU = timedelta(days=1)
VIEWS_PER_CLIP = 3  # a clip is trained in about three times the time that a view is scored in: backward costs twice


class Estimate:
    """The size of a run, and what is measured of its speed.

    Args:
        cfg: The config.
        num_steps: Number of steps in an epoch.
        num_val: Number of validation videos.
    """

    def __init__(self, cfg: CfgNode, *, num_steps: int, num_val: int) -> None:
        self._cfg = cfg
        self._steps_per_epoch = num_steps
        self._num_val = num_val
        num_views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
        self.test_views = len(build_annotations(cfg, "test")) * num_views if cfg.TEST.ENABLE else 0
        self._view_seconds: float | None = None  # of one view, over all processes together
        self._num_noted = 0
        self._asked = perf_counter()

    @property
    def num_clips(self) -> float:
        """The clips of the whole run, as many as would be trained in its time."""
        trained = self._cfg.SOLVER.MAX_EPOCH * self._steps_per_epoch * clips_per_step(self._cfg)
        return (
            trained + (self._num_validations(0) * self._num_val + self.test_views) / VIEWS_PER_CLIP
        )

    def note_views(self, seconds: float, *, num_views: int) -> None:
        """Note how long all processes together have taken to score so many views."""
        self._view_seconds = seconds / num_views

    def begin(self) -> None:
        """Begin to measure a step: what came before it, such as a rehearsal, was none."""
        self._asked = perf_counter()

    def note_step(self, run: TrainingState, *, loss: Tensor) -> None:
        """Note the end of a step; after the first one and the second one, log what is known by then."""
        if self._num_noted == 2 or not is_main():
            return
        value = loss.item()  # waits for a GPU
        seconds = perf_counter() - self._asked
        self._num_noted, self._asked = self._num_noted + 1, perf_counter()
        if self._num_noted == 1:
            logger.info("first step done in %.1f s, loss %.4f", seconds, value)
        else:
            self._log(run, step_seconds=seconds)

    def _log(self, run: TrainingState, *, step_seconds: float) -> None:
        cfg = self._cfg
        num_steps = (cfg.SOLVER.MAX_EPOCH - run.epoch) * self._steps_per_epoch - run.step
        view_seconds = self._view_seconds or step_seconds / clips_per_step(cfg) / VIEWS_PER_CLIP
        num_validations = self._num_validations(run.epoch)
        parts = {
            f"{count(num_steps, 'step')} in": num_steps * step_seconds,
            f"{count(num_validations, 'validation')} in": num_validations
            * self._num_val
            * view_seconds,
            "test in": self.test_views * view_seconds,
        }
        total = timedelta(seconds=round(sum(parts.values())))
        shown = ", ".join(
            f"{name} {timedelta(seconds=round(seconds))}"
            for name, seconds in parts.items()
            if seconds
        )
        logger.info("time left for the whole run: about %s (%s)", total, shown)
        if device().type == "cpu" and total > LONG_ON_CPU:
            logger.warning(
                "that is longer than a day, on a CPU: use a GPU (NUM_GPUS 1), a smaller model or clip "
                "(DATA.NUM_FRAMES, DATA.TRAIN_CROP_SIZE), or fewer epochs (SOLVER.MAX_EPOCH)"
            )

    def _num_validations(self, epoch: int) -> int:
        period, last = self._cfg.TRAIN.EVAL_PERIOD, self._cfg.SOLVER.MAX_EPOCH
        return max(last // period - epoch // period + (last % period > 0), 0)


def clips_per_step(cfg: CfgNode) -> int:
    """Return the number of clips of a step, over all processes."""
    num_copies: int = cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1
    num_videos: int = cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS
    return num_videos * num_copies
