"""The tracker Trackio: a SQLite file, or a Space of Hugging Face (TRACKIO_SPACE_ID)."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slowfast.visualization.trackers import IMPORT_LOCK, TrackedRun, Tracker, make_record_folder

logger = logging.getLogger(__name__)


class TrackioTracker(Tracker):
    """Records a run of Trackio, which identifies it by its name.

    Args:
        run: The run.

    Raises:
        OSError: If files cannot be written to its folder.
    """

    def __init__(self, run: TrackedRun) -> None:
        # Trackio reads its folder from the environment, once.
        os.environ.setdefault("TRACKIO_DIR", str(run.folder.absolute() / "trackio"))
        make_record_folder(Path(os.environ["TRACKIO_DIR"]))
        with IMPORT_LOCK:
            # Trackio looks into matplotlib.figure for each value as soon as any thread begins to
            # import it, and drops the values while that import is not complete.
            import matplotlib.figure  # noqa: F401
            import trackio
            import trackio.run
            import trackio.utils

        # Trackio prints, in colors and with no way to turn it off, between the lines of the log.
        for module in (trackio, trackio.run, trackio.utils):
            vars(module)["print"] = logger.debug
        self._trackio = trackio
        self.record_id = run.record_id or f"{run.name}-{run.run_id}"
        self._run = trackio.init(
            project=run.project,
            name=self.record_id,
            group=run.group or None,
            config={**run.config, "tags": list(run.tags), "run_by": dict(run.source)},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Add one point to the curve of each tag."""
        self._run.log(dict(scalars), step=step)

    def log_image(self, tag: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Show an image, RGB of shape (H, W, 3)."""
        self._run.log({tag: self._trackio.Image(image)}, step=step)

    def close(self, *, is_finished: bool) -> None:
        """Write what is still waiting."""
        self._run.finish()
