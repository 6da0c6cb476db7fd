"""Submitted jobs: the record of each job, the status of its tasks, and its log."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slowfast.distributed.signals import FAILED_STATUS, INTERRUPTED_STATUS
from slowfast.utils.files import read_json, write_json

JOBS_FILE = "jobs.json"  # Record of the jobs in the folder of their submission.

_STATUS_REMEDY = "Delete it, and the starts of its job are counted anew"
_JOBS_REMEDY = (
    "Its jobs cannot be listed, but their logs and results are where they were. Submit again to "
    "get a new one"
)


class TaskStatus(NamedTuple):
    """How a task of a job stands."""

    starts: int = 0
    idle_starts: int = 0  # Last starts in a row that the time limit ended before a checkpoint.
    status: int | None = None  # Exit status, or None while it runs.
    host: str = ""


class SubmittedJob(NamedTuple):
    """One job of a submission."""

    job_id: str
    label: str  # Tells it from the other jobs of its submission, "" if it is the only one.
    output_dir: str
    num_tasks: int
    folder: str  # Folder of the submission.

    def log_path(self, task: int, kind: str) -> Path:
        """Return the log of a task.

        Args:
            task: Index of the task.
            kind: out or err.
        """
        return Path(self.folder, f"{self.job_id}_{task}_log.{kind}")

    def statuses(self) -> list[TaskStatus]:
        """Return the status of each task that has started."""
        paths = [status_path(self.folder, self.job_id, task) for task in range(self.num_tasks)]
        return [read_status(path) for path in paths if path.exists()]


def status_path(folder: str, job_id: str, task: int) -> Path:
    """Return the file in which a task of a job writes its status."""
    return Path(folder, f"{job_id}_{task}_status.json")


def read_status(path: Path) -> TaskStatus:
    """Return the status of a task.

    Raises:
        ValueError: If the file is damaged.
    """
    content = read_json(path, remedy=_STATUS_REMEDY)
    required = ("starts", "idle_starts", "status")
    fields = _check_fields(path, content, names=required, remedy=_STATUS_REMEDY)
    return TaskStatus(**{name: fields[name] for name in TaskStatus._fields if name in fields})


def write_status(path: Path, status: TaskStatus) -> None:
    """Write the status of a task for `read_status`."""
    write_json(path, status._asdict())


def read_jobs(folder: Path) -> list[SubmittedJob]:
    """Return the jobs of a submission.

    Raises:
        FileNotFoundError: If the folder does not belong to a submission.
        ValueError: If the list of jobs is damaged.
    """
    path = folder / JOBS_FILE
    content = read_json(path, remedy=_JOBS_REMEDY)
    jobs = []
    for row in content if isinstance(content, list) else [content]:
        fields = _check_fields(path, row, names=SubmittedJob._fields, remedy=_JOBS_REMEDY)
        jobs.append(SubmittedJob(**{name: fields[name] for name in SubmittedJob._fields}))
    return jobs


def write_jobs(jobs: Sequence[SubmittedJob]) -> None:
    """Write the jobs of a submission into its folder for `read_jobs`."""
    write_json(Path(jobs[0].folder, JOBS_FILE), [job._asdict() for job in jobs])


def follow(job: SubmittedJob, *, is_running: Callable[[], bool], poll_seconds: float = 1.0) -> None:
    """Print the log of the first task while the job runs, then the tracebacks of the other tasks.

    Args:
        job: Job of a submission.
        is_running: Function that returns whether the job still runs.
        poll_seconds: Seconds between two reads of the log.
    """
    logs = [
        _LogPrinter(job.log_path(0, "out"), sys.stdout),
        _LogPrinter(job.log_path(0, "err"), sys.stderr),
    ]
    runs = True
    while runs:
        runs = is_running()  # Before the logs, so that their ends are printed, too.
        for log in logs:
            log.print_new_text()
        if runs:
            time.sleep(poll_seconds)

    for task in range(1, job.num_tasks):
        path = job.log_path(task, "err")
        text = path.read_text(errors="replace") if path.exists() else ""
        if "Traceback" in text or "Error" in text:
            print(f"--- {path}\n{text}", file=sys.stderr, flush=True)


def final_status(job: SubmittedJob, *, state: str = "COMPLETED") -> int:
    """Return the exit status of a job that ended.

    Args:
        job: Job of a submission.
        state: State of the job according to its scheduler.

    Returns:
        The exit status of its tasks, or 1 if the scheduler ended the job.
    """
    statuses = [task.status for task in job.statuses() if task.status is not None]
    failed = [status for status in statuses if status]
    if failed:
        # A task that failed for its own reasons explains the job better than one that got a signal.
        own = [status for status in failed if status > 0 and status != INTERRUPTED_STATUS]
        return own[0] if own else max(*failed, FAILED_STATUS)

    is_complete = state == "COMPLETED" and len(statuses) == job.num_tasks
    return 0 if is_complete else FAILED_STATUS


class _LogPrinter:
    """Prints what is appended to a log."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path = path
        self._stream = stream
        self._offset = 0

    def print_new_text(self) -> None:
        if not self._path.exists() or self._path.stat().st_size <= self._offset:
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        self._offset += len(content)
        print(content.decode(errors="surrogateescape"), end="", flush=True, file=self._stream)


def _check_fields(path: Path, content: Any, *, names: Sequence[str], remedy: str) -> dict[str, Any]:
    """Return the content of a JSON file, which must be an object with these fields."""
    missing = [name for name in names if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(f"{path}: has no {', '.join(missing)}. {remedy}")
    fields: dict[str, Any] = content
    return fields
