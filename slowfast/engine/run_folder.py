"""Output directory of a run: its outputs, and setting an older run aside."""

import os
import shutil
from pathlib import Path

from slowfast.engine import skipped_steps, validations
from slowfast.evaluation import result_record
from slowfast.runs import run_record
from slowfast.runs.run_record import NO_JOB, RunRecord, new_run_id, read_record, write_record
from slowfast.utils.checkpoint_files import BEST_NAME
from slowfast.utils.files import remove_unfinished
from slowfast.visualization import json_lines

ASIDE_NAME = "previous_runs"  # one folder per run that was set aside
REHEARSAL_NAME = "rehearsal"

# What a run writes, and what a folder must hold to be an output of a run and not the user's own.
_OUTPUTS = {
    "checkpoints": "checkpoint_epoch_*.pyth",
    BEST_NAME: "",
    validations.FILE_NAME: "",
    validations.METRICS_NAME: "",
    "test": result_record.FILE_NAME,
    result_record.ASIDE_NAME: f"[0-9][0-9][0-9]/{result_record.FILE_NAME}",
    skipped_steps.FOLDER_NAME: "*epoch_*",
    "tensorboard": "events.out.tfevents.*",
    json_lines.FILE_NAME: "",
    "mlflow": "mlflow.db",
    "trackio": "*.db",
    "wandb": "*run-*",
}
_COMPANIONS = ("config.yaml", "stdout.log")  # set aside with the outputs


def outputs_in(output_dir: str) -> list[Path]:
    """Return the outputs of a run in a directory, except for its record, config and log."""
    found = []
    for name, content in _OUTPUTS.items():
        path = Path(output_dir, name)
        if any(path.glob(content)) if content else path.is_file():
            found.append(path)
    return found


def holds_outputs(output_dir: str) -> bool:
    """Whether a directory holds outputs or the record of a run."""
    return bool(outputs_in(output_dir)) or Path(output_dir, run_record.FILE_NAME).exists()


def set_aside(output_dir: str) -> Path:
    """Move the outputs of a run to a folder of their own inside the directory.

    If it is stopped at any moment, the next call finishes the move.

    Returns:
        The folder.
    """
    try:
        record = read_record(output_dir)
    except ValueError:
        record = None
    if record is None:
        run_id = f"unknown-{new_run_id()}"
        record = RunRecord(run_id, identity={}, starts=[], job=NO_JOB._asdict())

    folder = Path(output_dir, ASIDE_NAME, record.goes_aside_to or record.run_id)
    if not record.goes_aside_to and folder.exists():  # Someone brought the run back from there.
        folder = folder.with_name(f"{record.run_id}-again-{new_run_id()}")
    write_record(output_dir, record._replace(goes_aside_to=folder.name))

    folder.mkdir(parents=True, exist_ok=True)
    companions = [Path(output_dir, name) for name in _COMPANIONS]
    for path in [*outputs_in(output_dir), *filter(Path.is_file, companions)]:
        os.replace(path, folder / path.name)
    write_record(str(folder), record._replace(goes_aside_to=""))
    Path(output_dir, run_record.FILE_NAME).unlink()
    return folder


def remove_leftovers(output_dir: str) -> None:
    """Delete what a killed process left: unfinished files and the rehearsal."""
    shutil.rmtree(Path(output_dir, REHEARSAL_NAME), ignore_errors=True)
    for folder in ("", "checkpoints", skipped_steps.FOLDER_NAME, "tensorboard"):
        remove_unfinished(Path(output_dir, folder))
