"""Record of a run: its ID, its identity and every start, as `run.json` keeps them."""

import logging
import secrets
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from slowfast.distributed.job import Job, current_job, is_restart_of
from slowfast.utils.checkpoint import read_header
from slowfast.utils.checkpoint_files import list_checkpoints
from slowfast.utils.files import read_json, write_json
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

FILE_NAME = "run.json"
NO_JOB = Job("", 0, {})


class RunRecord(NamedTuple):
    """Content of `run.json`."""

    run_id: str  # unique, also in every checkpoint of the run
    identity: dict[str, Any]  # see `slowfast.engine.identity`
    starts: list[dict[str, Any]]  # provenance of every start, see `slowfast.utils.provenance`
    job: dict[str, Any]  # the job of the last start
    goes_aside_to: str = ""  # name of the folder it is being moved to, see `set_aside`


def new_run_id() -> str:
    """Return a unique ID that starts with the time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def write_record(output_dir: str, record: RunRecord) -> None:
    """Write the record of a run to its directory."""
    write_json(Path(output_dir, FILE_NAME), record._asdict())


def read_record(output_dir: str) -> RunRecord | None:
    """Return the record of the run in a directory, or None if there is no run.

    A lost or damaged record is restored from the newest checkpoint that can be read.

    Raises:
        ValueError: If there are checkpoints but no record, and no checkpoint names its run.
    """
    record, _ = _read_or_restore(output_dir)
    return record


def find_run(output_dir: str, *, auto_resume: bool) -> RunRecord | None:
    """Return the record of the run that a training resumes, or None if it starts a new run.

    A restart of the same job resumes its run even without `auto_resume`. A run that was being set
    aside is no longer the run of the directory. A restored record is logged.

    Args:
        output_dir: Directory of the run.
        auto_resume: Whether another job resumes the run, see TRAIN.AUTO_RESUME.

    Raises:
        ValueError: As `read_record`, if `auto_resume` is set.
    """
    record, warning = _find_run(output_dir, auto_resume=auto_resume)
    if warning:
        logger.warning("%s", warning)
    return record


def has_run(output_dir: str, *, auto_resume: bool) -> bool:
    """Whether `find_run` returns a record or raises an error. Nothing is logged."""
    try:
        return _find_run(output_dir, auto_resume=auto_resume)[0] is not None
    except ValueError:
        return True


def _find_run(output_dir: str, *, auto_resume: bool) -> tuple[RunRecord | None, str]:
    try:
        record, warning = _read_or_restore(output_dir)
    except ValueError:
        if auto_resume:
            raise
        return None, ""

    if record is None or record.goes_aside_to:
        return None, ""
    if auto_resume or is_restart_of(current_job(), Job(**record.job)):
        return record, warning
    return None, ""


def _read_or_restore(output_dir: str) -> tuple[RunRecord | None, str]:
    """Return the record, and a warning if it was restored from a checkpoint."""
    path = Path(output_dir, FILE_NAME)
    damage = f"{path} is missing"
    if path.exists():
        try:
            record = RunRecord(**read_json(path, remedy="The newest checkpoint names its run"))
            Job(**record.job)  # raises an error if it has other fields
            return record, ""
        except TypeError:
            damage = f"{path} has other fields"
        except (ValueError, OSError) as error:
            damage = str(error)

    checkpoints = list_checkpoints(output_dir)
    for checkpoint in checkpoints:
        header = header_of(checkpoint)
        if header.get("run_id"):
            identity = header.get("identity", {})
            record = RunRecord(header["run_id"], identity, starts=[], job=NO_JOB._asdict())
            return record, f"{damage}. Taking the run of {checkpoint}"
    if checkpoints:
        raise ValueError(
            f"{output_dir} holds {count(len(checkpoints), 'checkpoint')}, but none of them names "
            f"its run ({damage}). Use another OUTPUT_DIR, or set TRAIN.AUTO_RESUME False to set "
            "them aside and start a new run"
        )
    return None, ""


def header_of(checkpoint: Path) -> dict[str, Any]:
    """Return the entries of a checkpoint that are no tensors. It is empty if it cannot be read."""
    try:
        status = checkpoint.stat()
        return _read_header(checkpoint, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=1024)
def _read_header(path: Path, mtime: int, size: int) -> dict[str, Any]:
    return read_header(path)
