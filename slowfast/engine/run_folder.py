"""The run that an output folder belongs to: its record, its own checkpoints, and how an older run is set aside."""

import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from slowfast.distributed.collectives import is_main
from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job import Job, current_job, is_restart_of
from slowfast.utils.checkpoint import (
    BEST_NAME,
    checkpoints_of,
    load_checkpoint,
    position_in_name,
    read_header,
)
from slowfast.utils.cleanup import cleaned_up
from slowfast.utils.files import read_json, remove_unfinished, write_json
from slowfast.utils.provenance import provenance
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

RECORD_NAME = "run.json"
ASIDE_NAME = "previous_runs"  # folder of the runs that were set aside, a folder each
REHEARSAL_NAME = "rehearsal"
DAMAGED = ".damaged"  # suffix of a checkpoint that cannot be read

# What a run writes into its folder, and what it must hold to be of a run, and not a folder of the user's.
_OUTPUTS = {
    "checkpoints": "checkpoint_epoch_*.pyth",
    BEST_NAME: "",
    "validation.json": "",
    "test": "result.json",
    "skipped_steps": "*epoch_*",
    "tensorboard": "events.out.tfevents.*",
}
_NO_JOB = Job("", 0, {})
_FILES = ("config.yaml", "stdout.log")  # go with them


class RunRecord(NamedTuple):
    """What OUTPUT_DIR/run.json tells of a run."""

    run_id: str  # unique; in every checkpoint of the run, too
    identity: dict[str, Any]  # what makes it this run and no other, see slowfast.engine.identity
    starts: list[
        dict[str, Any]
    ]  # of the processes that worked on it: when, where, with which code and command
    job: dict[str, Any]  # the job of the last start
    goes_aside_to: str = (
        ""  # name of the folder that it is being moved to; "": it is the run of its folder
    )


@contextmanager
def locked(output_dir: str, *, purpose: str) -> Iterator[FolderLock | None]:
    """Keep a folder for one training, or for one test, at a time; in the main process of a job, which writes to it.

    Args:
        output_dir: The folder.
        purpose: What the holder does: training | test. A test beside a training is allowed.

    Raises:
        FolderLockedError: Another process does the same there.
    """
    if not is_main():
        yield None
        return
    path = Path(output_dir, f"{purpose}.lock")
    lock = FolderLock(path, purpose=purpose, job=current_job(), command=provenance()["command"])
    with cleaned_up(lock.release):
        lock.acquire()
        yield lock


def new_run_id() -> str:
    """Return a name that no other run has, which begins with the time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def read_record(output_dir: str) -> RunRecord | None:
    """Return the record of the run that a folder holds; None if it holds none.

    Where the record is lost or damaged, it is made again from the newest whole checkpoint.

    Raises:
        ValueError: There are checkpoints, but no record, and none of them says of which run it is.
    """
    return _read_record(output_dir)[0]


def _read_record(output_dir: str) -> tuple[RunRecord | None, str]:
    """The record, and where it is from if not from its file."""
    path = Path(output_dir, RECORD_NAME)
    damage = f"{path} is missing"
    if path.exists():
        try:
            record = RunRecord(**read_json(path, remedy="the newest checkpoint tells its run"))
            Job(**record.job)  # raises if it has other fields
            return record, ""
        except (ValueError, TypeError, OSError) as error:
            damage = f"{path}: has other fields" if isinstance(error, TypeError) else str(error)

    paths = checkpoints_of(output_dir)
    for checkpoint in paths:
        header = _header_of(checkpoint)
        if header.get("run_id"):
            record = RunRecord(
                header["run_id"], header.get("identity", {}), starts=[], job=_NO_JOB._asdict()
            )
            return record, f"{damage}; the run is known from {checkpoint}"
    if paths:
        raise ValueError(
            f"{output_dir} holds {count(len(paths), 'checkpoint')}, but no checkpoint says of which run it is "
            f"({damage}); use another OUTPUT_DIR, or TRAIN.AUTO_RESUME False to set them aside and begin a new run"
        )
    return None, ""


def find_run(output_dir: str, *, auto_resume: bool) -> RunRecord | None:
    """Return the record of the run in a folder that a training resumes; None if it begins a new one.

    A later start of the same job resumes its run whatever `auto_resume` says. A run that was being set aside when that
    was stopped is no run any more. If the record was lost, that is logged.

    Args:
        output_dir: The folder.
        auto_resume: TRAIN.AUTO_RESUME.

    Raises:
        ValueError: As `read_record`, with `auto_resume`.
    """
    record, note = _find_run(output_dir, auto_resume=auto_resume)
    if note:
        logger.warning("%s", note)
    return record


def _find_run(output_dir: str, *, auto_resume: bool) -> tuple[RunRecord | None, str]:
    try:
        record, note = _read_record(output_dir)
    except ValueError:
        if auto_resume:
            raise
        return None, ""
    if record is None or record.goes_aside_to:
        return None, ""
    is_resumed = auto_resume or is_restart_of(current_job(), Job(**record.job))
    return (record, note) if is_resumed else (None, "")


def write_record(output_dir: str, record: RunRecord) -> None:
    """Write the record of a run."""
    write_json(Path(output_dir, RECORD_NAME), record._asdict())


def own_checkpoints(output_dir: str, run_id: str) -> list[Path]:
    """Return the checkpoints of a run in its folder, the newest first, without those of other runs.

    A checkpoint that cannot be read counts as one of the run: whoever loads it tells what is wrong with it.
    """
    return [
        path
        for path in checkpoints_of(output_dir)
        if _header_of(path).get("run_id", run_id) == run_id
    ]


def resumable_checkpoints(output_dir: str, run_id: str) -> list[Path]:
    """Return all that a run can be resumed from, the newest first: its checkpoints, and best.pyth."""
    best = Path(output_dir, BEST_NAME)
    paths = own_checkpoints(output_dir, run_id)
    if _header_of(best).get("run_id") == run_id:
        paths.append(best)
    return sorted(paths, key=position_of, reverse=True)


def position_of(checkpoint: Path) -> tuple[int, int]:
    """Return how far a run had come: finished epochs, and finished steps of the next one."""
    if checkpoint.name != BEST_NAME:
        return position_in_name(checkpoint)
    header = _header_of(checkpoint)
    return header.get("epoch", 0), header.get("step", 0)


def checkpoint_to_test(output_dir: str, *, best: bool) -> Path:
    """Return the checkpoint of a folder that a test takes: the newest one of its run, or best.pyth.

    Raises:
        FileNotFoundError: There is none.
        ValueError: best.pyth is of another run.
    """
    try:
        record = read_record(output_dir)
    except ValueError:
        record = None  # checkpoints without a record are somebody's, and may be tested
    if not best:
        paths = own_checkpoints(output_dir, record.run_id) if record else checkpoints_of(output_dir)
        for path in paths:
            if path.is_file():
                return path
            logger.warning("%s is no file; taking the checkpoint before it", path)
        raise FileNotFoundError(
            f"there are no weights to test: TEST.CHECKPOINT_FILE_PATH is empty and {output_dir}/checkpoints holds no "
            "checkpoint; train first, or name a file"
        )

    path = Path(output_dir, BEST_NAME)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file, but TEST.TEST_BEST is True; train first, or set it False"
        )
    if record and _header_of(path).get("run_id", record.run_id) != record.run_id:
        raise ValueError(
            f"{path} is of another run than {Path(output_dir, RECORD_NAME)}; name it as a file to test it"
        )
    return path


def is_resumable(output_dir: str, *, auto_resume: bool) -> bool:
    """Whether a training in a folder resumes from a checkpoint, see `find_run`."""
    try:
        record, _ = _find_run(output_dir, auto_resume=auto_resume)
    except ValueError:
        return True  # the training tells what is wrong
    return record is not None and bool(resumable_checkpoints(output_dir, record.run_id))


def best_validation(output_dir: str, run_id: str, *, max_epoch: int) -> dict[str, Any] | None:
    """Return the validation record of best.pyth; None if that is missing, of another run, or of a later epoch.

    Args:
        output_dir: Folder of the run.
        run_id: The run.
        max_epoch: Number of finished epochs; a best.pyth from after it was written by steps that were not kept.
    """
    path = Path(output_dir, BEST_NAME)
    header = _header_of(path) if path.is_file() else {}
    if header.get("run_id") != run_id or header.get("epoch", max_epoch + 1) > max_epoch:
        return None
    return header.get("validation")


def outputs_in(output_dir: str) -> list[Path]:
    """Return the files and folders in a folder that a run has written, but for its record, config and log."""
    found = []
    for name, content in _OUTPUTS.items():
        path = Path(output_dir, name)
        if any(path.glob(content)) if content else path.is_file():
            found.append(path)
    return found


def holds_outputs(output_dir: str) -> bool:
    """Whether a folder holds what a run has written."""
    return bool(outputs_in(output_dir)) or Path(output_dir, RECORD_NAME).exists()


def set_aside(output_dir: str) -> Path:
    """Move what a run has written into a folder of its own below; returns that folder.

    Stopped at any moment, the next call continues it.
    """
    try:
        record = read_record(output_dir)
    except ValueError:
        record = None
    record = record or RunRecord(
        f"unknown-{new_run_id()}", identity={}, starts=[], job=_NO_JOB._asdict()
    )
    folder = Path(output_dir, ASIDE_NAME, record.goes_aside_to or record.run_id)
    if not record.goes_aside_to and folder.exists():  # it was brought back from there
        folder = folder.with_name(f"{record.run_id}-again-{new_run_id()}")
    write_record(output_dir, record._replace(goes_aside_to=folder.name))

    folder.mkdir(parents=True, exist_ok=True)
    files = [path for path in (Path(output_dir, name) for name in _FILES) if path.is_file()]
    for path in [*outputs_in(output_dir), *files]:
        os.replace(path, folder / path.name)
    write_record(str(folder), record._replace(goes_aside_to=""))
    Path(output_dir, RECORD_NAME).unlink()
    return folder


def remove_leftovers(output_dir: str) -> None:
    """Delete what a killed process left: unfinished files, and its rehearsal."""
    shutil.rmtree(Path(output_dir, REHEARSAL_NAME), ignore_errors=True)
    for folder in ("", "checkpoints", "skipped_steps"):
        remove_unfinished(Path(output_dir, folder))


def _header_of(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; empty if it cannot be read."""
    try:
        status = path.stat()
        return _read_header(path, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=1024)
def _read_header(path: Path, mtime: int, size: int) -> dict[str, Any]:
    return read_header(path)


def load_newest(paths: list[Path]) -> tuple[dict[str, Any], Path] | None:
    """Return the content and the path of the first checkpoint that is whole; None if there is none to try.

    A damaged one is named and renamed, so that what the run writes from then on is the newest, and the next one taken.

    Raises:
        ValueError: All of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for path in paths:
        try:
            state = load_checkpoint(path)
        except (ValueError, OSError) as error:
            damaged[path] = str(error)
            logger.warning("%s; trying the checkpoint before it", error)
            continue
        for newer in filter(Path.is_file, damaged):
            newer.replace(newer.with_name(newer.name + DAMAGED))
        return state, path
    if paths:
        raise ValueError(f"{paths[0].parent}: no checkpoint is whole; {damaged[paths[-1]]}")
    return None
