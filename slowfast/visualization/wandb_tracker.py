"""The tracker Weights & Biases, online or offline (WANDB_MODE=offline)."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import wandb
from numpy.typing import NDArray

from slowfast.visualization.trackers import TrackedRun, Tracker, make_record_folder

_NUM_BINS = 64
_NEEDS_NO_KEY = ("offline", "disabled", "dryrun")


class WandbTracker(Tracker):
    """Records a run of Weights & Biases, whose ID is the one of the run.

    Curves are over `step`, the number of finished training steps. The record does not name the
    host, the user or the folders of the machine, unless the config or the command does.

    Args:
        run: The run.

    Raises:
        OSError: If files cannot be written to its folder.
        ValueError: If nobody is logged in. There is no prompt in the middle of a training.
    """

    def __init__(self, run: TrackedRun) -> None:
        if os.environ.get("WANDB_MODE") not in _NEEDS_NO_KEY and not wandb.login(prompt=False):
            raise ValueError("nobody is logged in. Run wandb login, or set WANDB_MODE=offline")

        self.record_id = run.record_id or run.run_id
        folder = os.environ.get("WANDB_DIR", str(run.folder))
        make_record_folder(Path(folder))
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            group=run.group or None,
            tags=list(run.tags),
            dir=folder,
            id=self.record_id,
            resume="allow",
            config={**run.config, "run_by": dict(run.source)},
            settings=wandb.Settings(silent=True, console="off", host="", x_disable_meta=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Add one point to the curve of each tag."""
        self._run.log({**scalars, "step": step})

    def log_image(self, tag: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Show an image, RGB of shape (H, W, 3)."""
        self._run.log({tag: wandb.Image(image), "step": step})

    def log_histogram(self, tag: str, values: NDArray[np.float32], *, step: int) -> None:
        """Show how values of shape (N,) are distributed."""
        bins = np.histogram(values[np.isfinite(values)], bins=_NUM_BINS)
        self._run.log({tag: wandb.Histogram(np_histogram=bins), "step": step})

    def log_results(self, results: Mapping[str, float], *, step: int) -> None:
        """Show final numbers of the run in its summary."""
        self._run.summary.update(dict(results))

    def close(self, *, is_finished: bool) -> None:
        """Send what is still waiting. A run that is not finished counts as stopped there."""
        self._run.finish(exit_code=0 if is_finished else 1)
