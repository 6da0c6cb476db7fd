"""Checkpoints in the folder of a run: their names, their order, and which of them stay."""

import logging
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

BEST_NAME = "best.pyth"  # the best checkpoint so far, in the folder of the run itself
NUM_KEPT_WITHIN_EPOCH = 2  # checkpoints to keep within the current epoch

_FOLDER = "checkpoints"
_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_step_(\d+))?\.pyth")

logger = logging.getLogger(__name__)


def checkpoint_path(run_folder: str, *, epoch: int, step: int = 0) -> Path:
    """Return the path of a checkpoint.

    Args:
        run_folder: Folder of the run.
        epoch: Number of finished epochs.
        step: Number of finished steps of the next epoch.
    """
    suffix = f"_step_{step:07d}" if step else ""
    return Path(run_folder, _FOLDER, f"checkpoint_epoch_{epoch:05d}{suffix}.pyth")


def list_checkpoints(run_folder: str) -> list[Path]:
    """Return the checkpoints of a run, the newest first, without the best one.

    Every entry with the name of a checkpoint is listed, even a folder or a dangling link, which
    `load_checkpoint` refuses.
    """
    folder = Path(run_folder, _FOLDER)
    if not folder.is_dir():
        return []

    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=position_in_name, reverse=True)


def newest_checkpoint(run_folder: str) -> Path | None:
    """Return the newest checkpoint of a run, or None if there is none."""
    return next(iter(list_checkpoints(run_folder)), None)


def position_in_name(path: Path) -> tuple[int, int]:
    """Return the finished epochs and the finished steps of the next one, from a file name."""
    epoch, step = _NAME.fullmatch(path.name).groups("0")  # type: ignore[union-attr]
    return int(epoch), int(step)


def prune_checkpoints(
    checkpoints: Sequence[Path], *, keep_last: int, keep_every: int, keep: Collection[Path] = ()
) -> None:
    """Delete the old checkpoints of a run. The newest two always stay.

    Entries that are not files (a folder, a dangling link) are ignored. A file that cannot be
    deleted is logged.

    Args:
        checkpoints: The checkpoints, the newest first, see `list_checkpoints`.
        keep_last: Number of end-of-epoch checkpoints to keep. 0: all.
        keep_every: Period in epochs of further checkpoints to keep. 0: no further ones.
        keep: Paths to keep in any case.
    """
    paths = [path for path in checkpoints if os.path.isfile(path)]
    epoch_ends = [path for path in paths if not position_in_name(path)[1]]
    within_epoch = paths[: paths.index(epoch_ends[0])] if epoch_ends else paths

    kept = {*within_epoch[:NUM_KEPT_WITHIN_EPOCH]}
    if keep_last:
        kept.update(epoch_ends[: max(keep_last, 2 - len(within_epoch))])
    else:
        kept.update(epoch_ends)
    if keep_every:
        kept.update(path for path in epoch_ends if position_in_name(path)[0] % keep_every == 0)

    protected = {os.path.realpath(path) for path in keep}
    for path in paths:
        if path not in kept and os.path.realpath(path) not in protected:
            _delete(path)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: cannot be deleted: %s", path, error.strerror)
