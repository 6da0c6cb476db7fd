"""Trackers: where the curves and figures of a run go, each behind the same few methods."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


_NEEDED_BYTES = 1 << 20  # in the folder of a local record when it starts


class TrackedRun(NamedTuple):
    """What a tracker learns of a run when it starts, or continues, its record of it."""

    run_id: str  # ID of the run, the same in every start
    record_id: str  # ID of the tracker's record in the newest checkpoint, "" if there is none
    num_steps: int | None  # finished steps: what lies beyond will come again. None: nothing will
    project: str
    name: str
    group: str
    tags: Sequence[str]
    folder: Path  # for local files. Other runs may use it too, and it may not exist yet
    config: Mapping[str, Any]  # all settings by key, such as SOLVER.BASE_LR
    hyper_parameters: Mapping[str, Any]  # the settings to compare runs by
    source: Mapping[str, str]  # versions, commit and command


class Tracker:
    """A record of a run. Override what yours can show. The rest is ignored.

    All methods run in one thread that belongs to the tracker, in the main process of a job. They
    may take their time and may raise any error: the training neither waits nor stops.

    Attributes:
        record_id: ID of the record, which the checkpoints of the run keep.
    """

    record_id = ""

    def log_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Add one point to the curve of each tag, such as `train/loss`.

        Args:
            scalars: Values by tag. They may be infinite or NaN.
            step: Number of finished training steps.
        """

    def log_image(self, tag: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Show an image, RGB of shape (H, W, 3)."""

    def log_histogram(self, tag: str, values: NDArray[np.float32], *, step: int) -> None:
        """Show how values of shape (N,) are distributed."""

    def log_graph(self, graph: Any) -> None:
        """Show the graph of the model, as `slowfast.visualization.model_graph` returns it."""

    def log_results(self, results: Mapping[str, float], *, step: int) -> None:
        """Show final numbers of the run, such as `test/top1`. By default, they are scalars."""
        self.log_scalars(results, step=step)

    def close(self, *, is_finished: bool) -> None:
        """Write what is still waiting, and release everything.

        Args:
            is_finished: Whether the run is finished. Otherwise it will be resumed.
        """


class TrackerKind(NamedTuple):
    """A kind of tracker that TRACKERS.NAMES can name.

    Attributes:
        start: Function that starts or continues the record of a run.
        modules: Modules that it needs and that this package does not require.
        install: What to install for them.
    """

    start: Callable[[TrackedRun], Tracker]
    modules: Sequence[str] = ()
    install: str = "'slowfast-uniformer[trackers]'"


def make_record_folder(folder: Path) -> None:
    """Make the folder of a local record, and check that there is room for files.

    Some libraries go on where they cannot write, and complain about each value.

    Raises:
        OSError: If files cannot be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder) as file:
        file.write(bytes(_NEEDED_BYTES))
        file.flush()


# Trackers start in threads. Two threads that import modules which import each other would deadlock,
# and Python ends that with an error in one of them.
IMPORT_LOCK = Lock()


def _start_json_lines(run: TrackedRun) -> Tracker:
    with IMPORT_LOCK:
        from slowfast.visualization.json_lines import JsonLinesTracker

    return JsonLinesTracker(run)


def _start_mlflow(run: TrackedRun) -> Tracker:
    with IMPORT_LOCK:
        from slowfast.visualization.mlflow_tracker import MlflowTracker

    return MlflowTracker(run)


def _start_tensorboard(run: TrackedRun) -> Tracker:
    with IMPORT_LOCK:
        from slowfast.visualization.tensorboard import TensorBoardTracker

    return TensorBoardTracker(run)


def _start_trackio(run: TrackedRun) -> Tracker:
    with IMPORT_LOCK:
        from slowfast.visualization.trackio_tracker import TrackioTracker

    return TrackioTracker(run)


def _start_wandb(run: TrackedRun) -> Tracker:
    with IMPORT_LOCK:
        from slowfast.visualization.wandb_tracker import WandbTracker

    return WandbTracker(run)


TENSORBOARD = "tensorboard"
TRACKERS = {
    TENSORBOARD: TrackerKind(_start_tensorboard),
    "jsonl": TrackerKind(_start_json_lines),
    "mlflow": TrackerKind(_start_mlflow, modules=("mlflow", "sqlalchemy", "alembic")),
    "trackio": TrackerKind(_start_trackio, modules=("trackio",)),
    "wandb": TrackerKind(_start_wandb, modules=("wandb",)),
}


def add_tracker(name: str, kind: TrackerKind) -> None:
    """Add a tracker of your own that TRACKERS.NAMES can name.

    Raises:
        ValueError: If the name is taken.
    """
    if name in TRACKERS:
        raise ValueError(f"a tracker {name!r} already exists. Choose another name")
    TRACKERS[name] = kind


def find_problems(cfg: "CfgNode") -> list[str]:
    """Return one sentence for each tracker of a config that does not exist or is not installed."""
    names = list(cfg.TRACKERS.NAMES)
    problems = []
    for name in dict.fromkeys(names):
        if name == TENSORBOARD:
            problems.append("TRACKERS.NAMES has 'tensorboard'. Set TENSORBOARD.ENABLE True instead")
        elif name not in TRACKERS:
            others = ", ".join(known for known in TRACKERS if known != TENSORBOARD)
            problems.append(f"TRACKERS.NAMES has {name!r}. Choose from {others}")
        elif missing := _find_missing(TRACKERS[name]):
            problems.append(
                f"TRACKERS.NAMES has {name!r}, which needs {' and '.join(missing)}. Run: pip "
                f"install {TRACKERS[name].install}, or leave it out"
            )
        elif names.count(name) > 1:
            problems.append(f"TRACKERS.NAMES has {name!r} more than once. Name it once")
    return problems


def _find_missing(kind: TrackerKind) -> list[str]:
    return [module for module in kind.modules if importlib.util.find_spec(module) is None]
