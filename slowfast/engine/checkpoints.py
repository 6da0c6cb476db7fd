"""Checkpoints of a run: when they are saved, which of them are kept, and the space they need."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from torch import Tensor
from torch.optim import SGD

from slowfast.distributed.collectives import is_main
from slowfast.distributed.folder_lock import FolderLock, FolderLockedError
from slowfast.engine.skipped_steps import FOLDER_NAME
from slowfast.engine.state import TrainingState
from slowfast.runs.run_checkpoints import own_checkpoints, position_of, resumable_checkpoints
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.checkpoint_files import BEST_NAME, checkpoint_path, prune_checkpoints
from slowfast.utils.files import format_bytes, free_bytes
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

NUM_EXTRA = 4  # best.pyth, two checkpoints within an epoch, and one that is being written


@dataclass(frozen=True)
class Retention:
    """Which checkpoints at the ends of epochs are kept, see `prune_checkpoints`.

    Args:
        keep_last: Number of the newest ones to keep. 0 keeps all.
        keep_every: Epochs between two others to keep. 0 keeps no others.
    """

    keep_last: int
    keep_every: int

    def num_kept(self, *, num_saved: int, num_epochs: int) -> int:
        """Return the largest number of checkpoints that a run keeps.

        Args:
            num_saved: Number of checkpoints that it saves at the ends of epochs.
            num_epochs: Number of epochs of the whole run.
        """
        if not self.keep_last:
            return num_saved
        num_others = num_epochs // self.keep_every if self.keep_every else 0
        return min(num_saved, max(self.keep_last, 2) + num_others)


class CheckpointSaver:
    """Saves the checkpoints of a run and deletes old ones.

    Args:
        output_dir: Directory of the run.
        lock: Lock on that directory, checked before each save. It is None in processes that save
            nothing.
        minutes: Minutes between two checkpoints within an epoch. 0 saves none.
        retention: Which checkpoints to keep.
    """

    def __init__(
        self, output_dir: str, *, lock: FolderLock | None, minutes: float, retention: Retention
    ) -> None:
        self._output_dir = output_dir
        self._lock = lock
        self._seconds = 60 * minutes
        self._retention = retention
        self._saved_at = monotonic()

    def is_due(self) -> bool:
        """Whether the main process wants a checkpoint within the epoch. It is False elsewhere."""
        elapsed = monotonic() - self._saved_at
        return is_main() and 0 < self._seconds <= elapsed

    def save(self, state: TrainingState) -> None:
        """Save a checkpoint in the main process, and delete old ones.

        Raises:
            OSError: If the checkpoint cannot be written.
        """
        self._saved_at = monotonic()
        if not is_main():
            return

        self._check_lock()
        path = checkpoint_path(self._output_dir, epoch=state.epoch, step=state.step)
        save_checkpoint(path, state.state_dict())
        self._saved_at = monotonic()
        self._prune(state, written=path)
        logger.info("saved %s", path)

    def save_best(self, state: TrainingState, *, validation: dict[str, Any]) -> None:
        """Save best.pyth with its validation record in the main process."""
        if is_main():
            self._check_lock()
            content = {**state.state_dict(), "validation": validation}
            save_checkpoint(Path(self._output_dir, BEST_NAME), content)

    def set_streak_aside(self, state: TrainingState) -> Path | None:
        """Move checkpoints within a streak of skipped steps away, to resume from before it.

        They go to the folder of the skipped steps, as evidence.

        Returns:
            The newest checkpoint from before the streak, or None if there is none.
        """
        folder = Path(self._output_dir, FOLDER_NAME)
        folder.mkdir(parents=True, exist_ok=True)
        newest_before = None
        for path in resumable_checkpoints(self._output_dir, state.run_id):  # newest first
            if position_of(path) > state.streak.start:
                path.replace(folder / path.name)
            elif newest_before is None:
                newest_before = path
        return newest_before

    def _prune(self, state: TrainingState, *, written: Path) -> None:
        """Delete old checkpoints, but never the newest one from before a streak."""
        own = own_checkpoints(self._output_dir, state.run_id)
        kept = [written]
        if state.streak.length:
            kept += [path for path in own if position_of(path) <= state.streak.start][:1]
        prune_checkpoints(
            own,
            keep_last=self._retention.keep_last,
            keep_every=self._retention.keep_every,
            keep=kept,
        )

    def _check_lock(self) -> None:
        """Check that no other process took the folder, and renew a lock that someone deleted."""
        if self._lock is None:
            return
        try:
            self._lock.check()
        except FolderLockedError:
            if self._lock.path.exists() or not self._lock.path.parent.is_dir():
                raise
            logger.warning("%s was deleted. Locking the folder again", self._lock.path)
            self._lock.release()
            self._lock.acquire()


def check_disk(
    output_dir: str,
    state: TrainingState,
    *,
    num_epochs: int,
    period: int,
    retention: Retention,
) -> None:
    """Check that all checkpoints that a run will keep fit on its disk.

    Args:
        output_dir: Directory of the run.
        state: State of the run, new or resumed.
        num_epochs: Number of epochs of the whole run.
        period: Epochs between two checkpoints.
        retention: Which checkpoints are kept.

    Raises:
        OSError: If they do not fit.
    """
    num_saved = math.ceil(max(num_epochs - state.epoch, 0) / period)
    num_checkpoints = NUM_EXTRA + retention.num_kept(num_saved=num_saved, num_epochs=num_epochs)
    size = _checkpoint_bytes(state)
    free = free_bytes(Path(output_dir))
    if free is not None and size * num_checkpoints > free:
        raise OSError(
            f"OUTPUT_DIR is {output_dir!r}. Its disk has {format_bytes(free)} free, but this run "
            f"will keep {count(num_checkpoints, 'checkpoint')} of {format_bytes(size)}, "
            f"{format_bytes(size * num_checkpoints)} in all. Make room, choose another disk, or "
            f"keep fewer with TRAIN.KEEP_LAST (now {retention.keep_last}, 0 keeps all) or a longer "
            f"TRAIN.CHECKPOINT_PERIOD (now {period})"
        )


def _checkpoint_bytes(state: TrainingState) -> int:
    num_moments = 1 if isinstance(state.optimizer, SGD) else 2
    trained = [weight for weight in state.model.parameters() if weight.requires_grad]
    optimizer_bytes = num_moments * sum(weight.nbytes for weight in trained)
    return optimizer_bytes + sum(_num_bytes(model.state_dict()) for model in state.models)


def _num_bytes(state_dict: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in state_dict.values())
