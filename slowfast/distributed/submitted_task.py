"""Submitted task: what submitit runs in each task of a job, and how the job is requeued."""

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from slowfast.distributed.signals import FAILED_STATUS, INTERRUPTED_STATUS, SignalForwarding
from slowfast.distributed.slurm_job import job_state
from slowfast.distributed.submitted_job import TaskStatus, read_status, status_path, write_status
from slowfast.utils.text import count

# submitit has Slurm send it before the time limit, and when a job must make room.
REQUEUE_SIGNAL = signal.SIGUSR2

# The time limit ended so many starts in a row before a checkpoint. The next one would do no better.
MAX_IDLE_STARTS = 2


class Task:
    """Runs a command as a child, forwards all signals to it, and requeues the job if needed.

    Args:
        command: Command of the child.
        folder: Folder of the submission, for the logs and the status of each task.
        working_dir: Working directory of the child.
        output_dir: Folder in which the child saves its checkpoints.
    """

    def __init__(
        self, command: Sequence[str], *, folder: str, working_dir: str, output_dir: str
    ) -> None:
        self.command = list(command)
        self.folder = folder
        self.working_dir = working_dir
        self.output_dir = output_dir

    def __call__(self) -> int:
        """Run the command to its end and return 0.

        With any other exit status, this ends the process, or requeues the job.
        """
        import submitit  # Here, so that a look at the state of a job does not need it.

        job = submitit.JobEnvironment()
        job.paths.result_pickle.unlink(missing_ok=True)  # An earlier start may have left it.

        path = status_path(self.folder, job.job_id, job.global_rank)
        before = read_status(path) if path.exists() else TaskStatus()
        host = job.hostnames[job.node]
        status = before._replace(starts=before.starts + 1, status=None, host=host)
        write_status(path, status)
        self._announce(job, num_restarts=before.starts, host=host)

        checkpoints = self._list_checkpoints()
        exit_status, received = run_with_signals(self.command, working_dir=self.working_dir)
        status = status._replace(status=exit_status)

        cause = _find_cause(job.job_id, received) if _was_interrupted(exit_status) else ""
        if cause and job.global_rank == 0:
            num_idle = 0
            if self._list_checkpoints() == checkpoints:
                num_idle = before.idle_starts + int(cause == "time limit")
            status = status._replace(idle_starts=num_idle)
            if num_idle >= MAX_IDLE_STARTS:
                cause = ""
                status = status._replace(status=FAILED_STATUS)
                print(self._explain_idle_starts(job.job_id), file=sys.stderr, flush=True)
        write_status(path, status)

        if cause:
            _requeue(job, num_starts=status.starts)
        if status.status:
            sys.exit(status.status if status.status > 0 else 128 - status.status)
        return 0

    def _announce(self, job: Any, *, num_restarts: int, host: str) -> None:
        os.environ["SLOWFAST_RESTART"] = str(num_restarts)  # submitit's local executor counts none.
        restart = os.environ.get("SLURM_RESTART_COUNT", num_restarts)
        print(
            f"task {job.global_rank} of job {job.job_id} on {host}, restart {restart}", flush=True
        )

    def _list_checkpoints(self) -> list[str]:
        return sorted(path.name for path in Path(self.output_dir, "checkpoints").glob("*.pyth"))

    def _explain_idle_starts(self, job_id: str) -> str:
        return (
            f"job {job_id} is not requeued: the time limit ended {MAX_IDLE_STARTS} starts in a row "
            f"before they had saved a checkpoint in {self.output_dir}. Submit it again with a "
            "longer --timeout"
        )


def run_with_signals(command: Sequence[str], *, working_dir: str) -> tuple[int, set[int]]:
    """Run a command and forward all signals to it.

    Returns:
        The exit status, negative if a signal ended the command, and the signals that arrived.
    """
    # The handlers stay installed: a signal must not disturb the requeue either.
    forwarding = SignalForwarding()
    forwarding.install()
    child = subprocess.Popen(command, cwd=working_dir)
    forwarding.forward_to(child.send_signal)
    return child.wait(), forwarding.received


def _was_interrupted(exit_status: int) -> bool:
    return exit_status < 0 or exit_status == INTERRUPTED_STATUS


def _find_cause(job_id: str, received: Collection[int]) -> str:
    """Return why the scheduler ended a job that shall continue.

    Returns:
        "time limit", "preemption", or "" if a user ended the job or Slurm requeued it itself.
    """
    if not received:
        return ""

    if "SLURM_JOB_ID" in os.environ:
        state = job_state(job_id)
        if state["JobState"].startswith(("CANCELLED", "PENDING", "REQUEUE")):
            return ""
        if state.get("PreemptTime", "None") != "None":
            return "preemption"
    return "time limit" if REQUEUE_SIGNAL in received else ""


def _requeue(job: Any, *, num_starts: int) -> NoReturn:
    """Requeue the job from task 0, and end this process.

    Status 0 leaves no result, and no error that would end the tasks that are still saving.
    """
    if job.global_rank == 0:
        starts = count(num_starts, "start")
        print(f"job {job.job_id} goes back to the queue after {starts}", flush=True)
        job._requeue(0)  # The local executor ends this process here.
    sys.exit(0)
