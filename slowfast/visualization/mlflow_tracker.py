"""The tracker MLflow: a server, a database or a folder (MLFLOW_TRACKING_URI), or a SQLite file."""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from slowfast.visualization.trackers import TrackedRun, Tracker

_RUN_TAG = "slowfast.run_id"
_COMMIT_TAG = "mlflow.source.git.commit"
_MAX_VALUE = 6000  # characters of a parameter
_AT_ONCE = 100  # parameters or tags in a request
_METRICS_AT_ONCE = 1000

_SQLITE = "sqlite:///"

Item = TypeVar("Item")


class MlflowTracker(Tracker):
    """Records a run of MLflow.

    Args:
        run: The run. Its project is the experiment.
    """

    def __init__(self, run: TrackedRun) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        address = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not address:
            address = f"{_SQLITE}{run.folder.absolute() / 'mlflow' / 'mlflow.db'}"
        elif urlsplit(address).scheme in ("", "file"):
            # MLflow refuses folders of plain files unless they are asked for. The address does.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

        self._client = MlflowClient(tracking_uri=address)
        experiment_id = self._find_experiment(run.project, artifacts=_artifacts_of(address))
        found = self._find_record(run, experiment_id=experiment_id)
        if found is None:
            found = self._create_record(run, experiment_id=experiment_id)
        self.record_id = found.info.run_id
        self._client.update_run(self.record_id, status="RUNNING")

    def log_scalars(self, scalars: Mapping[str, float], *, step: int) -> None:
        """Add one point to the curve of each tag."""
        now = int(time.time() * 1000)
        metrics = [Metric(_key(tag), float(value), now, step) for tag, value in scalars.items()]
        for chunk in _chunks(metrics, _METRICS_AT_ONCE):
            self._client.log_batch(self.record_id, metrics=chunk)

    def log_image(self, tag: str, image: NDArray[np.uint8], *, step: int) -> None:
        """Show an image, RGB of shape (H, W, 3)."""
        self._client.log_image(self.record_id, image, key=_key(tag), step=step)

    def close(self, *, is_finished: bool) -> None:
        """Set the status of the record."""
        self._client.set_terminated(self.record_id, "FINISHED" if is_finished else "KILLED")

    def _find_experiment(self, name: str, *, artifacts: str | None) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        try:
            return str(self._client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:  # Another run has just created it.
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)

    def _find_record(self, run: TrackedRun, *, experiment_id: str) -> Run | None:
        """Return the record of a run: the one in its checkpoint, or else the one with its ID."""
        if run.record_id:
            try:
                return self._client.get_run(run.record_id)
            except MlflowException:  # The store is another one now.
                pass
        has_id = f"tags.`{_RUN_TAG}` = '{run.run_id}'"
        return next(iter(self._client.search_runs([experiment_id], has_id)), None)

    def _create_record(self, run: TrackedRun, *, experiment_id: str) -> Run:
        record = self._client.create_run(
            experiment_id, run_name=run.name, tags={_RUN_TAG: run.run_id}
        )
        tags = {f"slowfast.{name}": value for name, value in run.source.items()}
        tags |= {_COMMIT_TAG: run.source.get("commit", ""), "slowfast.group": run.group}
        tags |= {f"slowfast.tag.{tag}": "true" for tag in run.tags}
        run_tags = [RunTag(_key(name), value) for name, value in tags.items() if value]
        params = [Param(_key(name), str(value)[:_MAX_VALUE]) for name, value in run.config.items()]

        for tag_chunk in _chunks(run_tags, _AT_ONCE):
            self._client.log_batch(record.info.run_id, tags=tag_chunk)
        for param_chunk in _chunks(params, _AT_ONCE):
            self._client.log_batch(record.info.run_id, params=param_chunk)
        return record


def _artifacts_of(address: str) -> str | None:
    """Return where the images of a new experiment go, None for where MLflow chooses.

    With a SQLite file, MLflow chooses the current folder. They belong beside the file, whose folder
    this makes.
    """
    path = address.removeprefix(_SQLITE).partition("?")[0]
    if path == address or not path or path == ":memory:":
        return None
    folder = Path(path).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "artifacts").as_uri()


def _key(tag: str) -> str:
    """Return a tag in the letters that MLflow allows. Class names may have others."""
    return re.sub(r"[^\w\-. /:]", "_", tag, flags=re.ASCII)


def _chunks(items: Sequence[Item], size: int) -> list[list[Item]]:
    iterator = iter(items)
    return list(iter(lambda: list(islice(iterator, size)), []))
