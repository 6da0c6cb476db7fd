"""Validation records of a run, in its checkpoints and in `validation.json`."""

import logging
import math
from pathlib import Path
from typing import Any

from slowfast.distributed.collectives import is_main
from slowfast.evaluation.metrics import Metrics
from slowfast.utils.files import read_json, write_json
from slowfast.utils.provenance import provenance

logger = logging.getLogger(__name__)

FILE_NAME = "validation.json"
METRICS_NAME = "validation_metrics.json"  # of the last validation, with its confusion matrix


class Validations:
    """Validation records of a run, and which of them is the best.

    A record has the keys epoch (finished epochs), top1, top5, mean_class_accuracy (in percent) and
    loss.

    Args:
        output_dir: Directory of the run.
        run_id: ID of the run.
        records: Records in the training state. The list grows.
        best: Record of best.pyth, or None if there is none.
        metric: Metric that makes a validation the best: top1 | loss.
    """

    def __init__(
        self,
        output_dir: str,
        *,
        run_id: str,
        records: list[dict[str, Any]],
        best: dict[str, Any] | None,
        metric: str,
    ) -> None:
        self._path = Path(output_dir, FILE_NAME)
        self._run_id = run_id
        self._records = records
        self._best = best
        self._metric = metric

    @property
    def best(self) -> dict[str, Any] | None:
        """Record of best.pyth, None if there is none."""
        return self._best

    def has(self, epoch: int) -> bool:
        """Whether there is a record after this number of finished epochs."""
        return any(record["epoch"] == epoch for record in self._records)

    def is_best(self, record: dict[str, Any]) -> bool:
        """Whether a validation is better than that of best.pyth."""
        return self._best is None or self._score(record) > self._score(self._best)

    def add(self, record: dict[str, Any], *, is_best: bool) -> None:
        """Add a record and write the file."""
        self._records.append(record)
        if is_best:
            self._best = record
        self.write()

    def write_metrics(self, metrics: Metrics, *, epoch: int) -> None:
        """Write all metrics of a validation in the main process, in place of those before."""
        if is_main():
            content = {"run_id": self._run_id, "epoch": epoch, **metrics.as_json()}
            write_json(self._path.with_name(METRICS_NAME), content)

    def write(self) -> None:
        """Write the records to the file in the main process."""
        if is_main():
            content = {"run_id": self._run_id, "validations": self._records}
            write_json(self._path, {**content, "run_by": provenance()})

    def num_without_improvement(self) -> int:
        """Return the number of validations since the best one."""
        scores = [self._score(record) for record in self._records]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    def _score(self, record: dict[str, Any]) -> float:
        """Return a number that is larger for a better validation."""
        value = record[self._metric]
        if value is None:
            return -math.inf
        return -value if self._metric == "loss" else value


def read_validations(output_dir: str, run_id: str, *, max_epoch: int) -> list[dict[str, Any]]:
    """Return the records of a run in `validation.json`, up to a number of finished epochs.

    A run may have been validated after its last checkpoint. A damaged file is logged and counts as
    empty, since the run writes it again.
    """
    path = Path(output_dir, FILE_NAME)
    try:
        content = read_json(path, remedy="The records in the checkpoint are used")
        if content["run_id"] != run_id:
            return []
        return [record for record in content["validations"] if record["epoch"] <= max_epoch]
    except FileNotFoundError:
        return []
    except (ValueError, OSError, KeyError, TypeError) as error:
        is_explained = str(path) in str(error)
        logger.warning("%s", error if is_explained else f"{path}: is damaged and written again")
        return []
