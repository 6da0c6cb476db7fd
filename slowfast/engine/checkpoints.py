"""When checkpoints are written and which of them stay; the records of the validations of a run."""

import logging
import math
from pathlib import Path
from time import monotonic
from typing import Any

from torch import Tensor
from torch.optim import SGD

from slowfast.distributed.collectives import is_main
from slowfast.distributed.folder_lock import FolderLock, FolderLockedError
from slowfast.engine.run_folder import own_checkpoints, position_of, resumable_checkpoints
from slowfast.engine.state import TrainingState
from slowfast.utils.checkpoint import BEST_NAME, checkpoint_path, prune_checkpoints, save_checkpoint
from slowfast.utils.files import format_bytes, free_bytes, read_json, write_json
from slowfast.utils.provenance import provenance
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

NUM_EXTRA = 4  # checkpoints beside those at the ends of epochs: best.pyth, two within an epoch, and an unfinished one


class Saver:
    """Writes the checkpoints of a run, and deletes its old ones.

    Args:
        output_dir: Folder of the run.
        lock: The lock on that folder, checked before each file is written; None where this process writes none.
        minutes: Minutes between two checkpoints within an epoch; 0: none.
        keep_last: Number of checkpoints at the ends of epochs that stay, see `prune_checkpoints`.
        keep_every: Epochs between two that stay as well, see `prune_checkpoints`.
    """

    def __init__(
        self,
        output_dir: str,
        lock: FolderLock | None,
        *,
        minutes: float,
        keep_last: int,
        keep_every: int,
    ) -> None:
        self._output_dir = output_dir
        self._lock = lock
        self._seconds = 60 * minutes
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._saved_at = monotonic()

    def is_due(self) -> bool:
        """Whether the main process wants a checkpoint, because so much time has passed; in the others, never."""
        return is_main() and self._seconds > 0 and monotonic() - self._saved_at >= self._seconds

    def save(self, run: TrainingState) -> None:
        """Write a checkpoint of a run, if this is the main process.

        Raises:
            OSError: It cannot be written.
        """
        self._saved_at = monotonic()
        if not is_main():
            return
        self._check_lock()
        path = checkpoint_path(self._output_dir, epoch=run.epoch, step=run.step)
        save_checkpoint(path, run.state())
        self._saved_at = monotonic()
        self._prune(run, written=path)
        logger.info("saved %s", path)

    def save_best(self, run: TrainingState, *, validation: dict[str, Any]) -> None:
        """Write best.pyth with its record, if this is the main process."""
        if is_main():
            self._check_lock()
            save_checkpoint(
                Path(self._output_dir, BEST_NAME), {**run.state(), "validation": validation}
            )

    def put_away_streak(self, run: TrainingState) -> Path | None:
        """Take the checkpoints within a streak of skipped steps out of the way; return the newest one before it.

        They go to the folder skipped_steps, so that the same command resumes before the streak.
        """
        folder = Path(self._output_dir, "skipped_steps")
        folder.mkdir(parents=True, exist_ok=True)
        start = (run.streak.epoch, run.streak.step)
        before = None
        for path in resumable_checkpoints(self._output_dir, run.run_id):
            if position_of(path) > start:
                path.replace(folder / path.name)
            elif before is None:
                before = path
        return before

    def _prune(self, run: TrainingState, *, written: Path) -> None:
        """Delete old checkpoints, but never the newest one from before a streak of skipped steps."""
        own = own_checkpoints(self._output_dir, run.run_id)
        kept = [written]
        if run.streak.length:
            start = (run.streak.epoch, run.streak.step)
            kept += [path for path in own if position_of(path) <= start][:1]
        prune_checkpoints(own, keep_last=self._keep_last, keep_every=self._keep_every, keep=kept)

    def _check_lock(self) -> None:
        """Make sure that no other process has taken the folder; take a lock again that somebody has deleted."""
        if self._lock is None:
            return
        try:
            self._lock.check()
        except FolderLockedError:
            if self._lock.path.exists() or not self._lock.path.parent.is_dir():
                raise
            logger.warning("%s was deleted; locking the folder again", self._lock.path)
            self._lock.release()
            self._lock.acquire()


def check_disk(
    output_dir: str,
    run: TrainingState,
    *,
    num_epochs: int,
    period: int,
    keep_last: int,
    keep_every: int,
) -> None:
    """Compare the size of all checkpoints that a run will keep with the free space of its disk.

    Args:
        output_dir: Folder of the run.
        run: The run, at its beginning or resumed.
        num_epochs: Number of epochs of the whole run.
        period: Epochs between two checkpoints.
        keep_last: See `Saver`.
        keep_every: See `Saver`.

    Raises:
        OSError: There is not enough space.
    """
    num_ends = math.ceil(max(num_epochs - run.epoch, 0) / period)
    if keep_last:
        num_kept_apart = num_epochs // keep_every if keep_every else 0
        num_ends = min(num_ends, max(keep_last, 2) + num_kept_apart)
    num_moments = 1 if isinstance(run.optimizer, SGD) else 2
    optimizer_bytes = num_moments * sum(parameter.nbytes for parameter in run.model.parameters())
    size = sum(_bytes_in(model.state_dict()) for model in run.models) + optimizer_bytes
    free = free_bytes(Path(output_dir))
    needed = size * (num_ends + NUM_EXTRA)
    if free is not None and needed > free:
        raise OSError(
            f"OUTPUT_DIR is {output_dir!r}, whose disk has {format_bytes(free)} free, but this run will keep "
            f"{count(num_ends + NUM_EXTRA, 'checkpoint')} of {format_bytes(size)}, {format_bytes(needed)} in all; make "
            f"room, choose another disk, or keep fewer: TRAIN.KEEP_LAST (now {keep_last}; 0 keeps all) or a longer "
            f"TRAIN.CHECKPOINT_PERIOD (now {period})"
        )


def _bytes_in(state: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in state.values())


class Validations:
    """The records of the validations of a run: in its checkpoints, and for readers in OUTPUT_DIR/validation.json.

    Args:
        output_dir: Folder of the run.
        run: The run, at its beginning or resumed; its list of records grows.
        best: The record of best.pyth; None if there is none.
        metric: What makes a validation the best: top1 | loss.
    """

    def __init__(
        self, output_dir: str, run: TrainingState, *, best: dict[str, Any] | None, metric: str
    ) -> None:
        self._path = Path(output_dir, "validation.json")
        self._run_id = run.run_id
        self._records = run.validations
        self._best = best
        self._metric = metric

    @staticmethod
    def read(output_dir: str, run_id: str, *, max_epoch: int) -> list[dict[str, Any]]:
        """Return a run's records after at most so many epochs: it may have been validated after its last save."""
        path = Path(output_dir, "validation.json")
        try:
            content = read_json(path, remedy="the records in the checkpoint are used")
            if content["run_id"] != run_id:
                return []
            return [record for record in content["validations"] if record["epoch"] <= max_epoch]
        except FileNotFoundError:
            return []
        except (ValueError, OSError, KeyError, TypeError) as error:
            logger.warning(
                "%s",
                error if str(path) in str(error) else f"{path}: is damaged; it is written anew",
            )
            return []

    def has(self, epoch: int) -> bool:
        """Whether there is a record after so many finished epochs."""
        return any(record["epoch"] == epoch for record in self._records)

    def is_best(self, record: dict[str, Any]) -> bool:
        """Whether a validation is better than that of best.pyth."""
        return self._best is None or _score(record, self._metric) > _score(self._best, self._metric)

    def add(self, record: dict[str, Any], *, is_best: bool) -> None:
        """Add a record: epoch (how many are finished), top1, top5, loss."""
        self._records.append(record)
        if is_best:
            self._best = record
        self.write()

    def write(self) -> None:
        """Write the records, if this is the main process."""
        if is_main():
            content = {"run_id": self._run_id, "validations": self._records, "run_by": provenance()}
            write_json(self._path, content)

    def num_without_improvement(self) -> int:
        """Return how many validations have passed since the best one."""
        scores = [_score(record, self._metric) for record in self._records]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def _score(record: dict[str, Any], metric: str) -> float:
    """The higher, the better."""
    value = record[metric]
    return -math.inf if value is None else -value if metric == "loss" else value
