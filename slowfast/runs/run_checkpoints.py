"""Which checkpoints in a directory belong to its run, and which of them to resume or to test."""

import logging
from pathlib import Path
from typing import Any

from slowfast.runs.position import Position
from slowfast.runs.run_record import FILE_NAME, has_run, header_of, read_record
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import BEST_NAME, list_checkpoints, position_in_name

logger = logging.getLogger(__name__)

DAMAGED_SUFFIX = ".damaged"  # added to the name of a checkpoint that cannot be read


def own_checkpoints(output_dir: str, run_id: str) -> list[Path]:
    """Return the checkpoints of a run, newest first, without those of other runs.

    A checkpoint that cannot be read counts as one of the run. Whoever loads it reports the damage.
    """
    return [
        path
        for path in list_checkpoints(output_dir)
        if header_of(path).get("run_id", run_id) == run_id
    ]


def resumable_checkpoints(output_dir: str, run_id: str) -> list[Path]:
    """Return what a run can be resumed from, newest first: its checkpoints and best.pyth."""
    paths = own_checkpoints(output_dir, run_id)
    best = Path(output_dir, BEST_NAME)
    if header_of(best).get("run_id") == run_id:
        paths.append(best)
    return sorted(paths, key=position_of, reverse=True)


def is_resumable(output_dir: str, *, auto_resume: bool) -> bool:
    """Whether a training in a directory resumes from a checkpoint, see `find_run`."""
    if not has_run(output_dir, auto_resume=auto_resume):
        return False
    try:
        record = read_record(output_dir)
    except ValueError:
        return True  # The training reports what is wrong.
    return record is not None and bool(resumable_checkpoints(output_dir, record.run_id))


def position_of(checkpoint: Path) -> Position:
    """Return the position of the run when it saved a checkpoint."""
    if checkpoint.name != BEST_NAME:
        return Position(*position_in_name(checkpoint))
    header = header_of(checkpoint)
    return Position(header.get("epoch", 0), header.get("step", 0))


def checkpoint_to_test(output_dir: str, *, best: bool) -> Path:
    """Return the checkpoint that a test takes: the newest one of the run, or best.pyth.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If best.pyth belongs to another run.
    """
    try:
        record = read_record(output_dir)
    except ValueError:
        record = None  # Checkpoints without a record may still be tested.
    run_id = record.run_id if record else None
    if best:
        return _best_to_test(output_dir, run_id)

    paths = own_checkpoints(output_dir, run_id) if run_id else list_checkpoints(output_dir)
    for path in paths:
        if path.is_file():
            return path
        logger.warning("%s is not a file, taking the checkpoint before it", path)
    raise FileNotFoundError(
        f"there are no weights to test: TEST.CHECKPOINT_FILE_PATH is empty and "
        f"{output_dir}/checkpoints holds no checkpoint. Train first, or name a file"
    )


def _best_to_test(output_dir: str, run_id: str | None) -> Path:
    path = Path(output_dir, BEST_NAME)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file, but TEST.TEST_BEST is True. Train first, or set it False"
        )
    if run_id and header_of(path).get("run_id", run_id) != run_id:
        raise ValueError(
            f"{path} belongs to another run than {Path(output_dir, FILE_NAME)}. To test it, set "
            "TEST.CHECKPOINT_FILE_PATH to it"
        )
    return path


def best_validation(output_dir: str, run_id: str, *, max_epoch: int) -> dict[str, Any] | None:
    """Return the validation record of best.pyth.

    It is None if best.pyth is missing, belongs to another run, or was saved later than
    `max_epoch`, by steps that were not kept.

    Args:
        output_dir: Directory of the run.
        run_id: ID of the run.
        max_epoch: Number of finished epochs.
    """
    path = Path(output_dir, BEST_NAME)
    header = header_of(path) if path.is_file() else {}
    if header.get("run_id") != run_id or header.get("epoch", max_epoch + 1) > max_epoch:
        return None
    return header.get("validation")


def load_newest(paths: list[Path]) -> tuple[dict[str, Any], Path] | None:
    """Return the content and the path of the first checkpoint that can be read.

    Damaged ones before it are logged and renamed, so that the next checkpoint of the run is the
    newest again.

    Args:
        paths: Checkpoints, newest first.

    Returns:
        The content and its path, or None if there are no checkpoints.

    Raises:
        ValueError: If all of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for path in paths:
        try:
            state = load_checkpoint(path)
        except (ValueError, OSError) as error:
            damaged[path] = str(error)
            logger.warning("%s. Trying the checkpoint before it", error)
            continue

        for newer in filter(Path.is_file, damaged):
            newer.replace(newer.with_name(newer.name + DAMAGED_SUFFIX))
        return state, path

    if paths:
        raise ValueError(f"{paths[0].parent}: all checkpoints are damaged. {damaged[paths[-1]]}")
    return None
