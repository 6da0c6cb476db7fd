"""Job: what a scheduler or launcher started this process as, and whether it is a restart.

Two commands that you type within one allocation are two runs. A second start of one command by
Slurm, torchrun or submitit continues the same run.
"""

import os
from pathlib import Path
from typing import NamedTuple

from slowfast.distributed.process_identity import Process, identify, read_stat


class Job(NamedTuple):
    """The job of a process as plain data, so that `Job(**job._asdict())` survives JSON."""

    name: str  # "slurm 1234", "torchrun ID", "submitit local 4242", or "" if a person started it
    restart: int  # Number of restarts that the scheduler and the launcher count.
    starts: dict[str, int]  # For each of them, a number that grows with every start.


class _Launcher(NamedTuple):
    process: Process
    worker_started: int  # Start of the launcher's child that this process is or descends from.

    def __str__(self) -> str:
        return " ".join(map(str, self.process))


def current_job() -> Job:
    """Return the job of this process. Call it in the main process of a run."""
    names: list[str] = []
    restart = 0
    starts: dict[str, int] = {}

    for job in (_slurm_job(), _torchrun_job(), _submitit_job()):
        if job is not None:
            names.append(job.name)
            restart += job.restart
            starts |= job.starts

    return Job(", ".join(names), restart, starts)


def is_restart_of(now: Job, earlier: Job) -> bool:
    """Whether a job is a later start of an earlier one, according to anything that started both.

    Args:
        now: Job of this process.
        earlier: Job that the earlier process recorded.
    """
    common = now.starts.keys() & earlier.starts.keys()
    return any(now.starts[name] > earlier.starts[name] for name in common)


def _slurm_job() -> Job | None:
    job_id = os.environ.get("SLURM_JOB_ID")  # Each task of an array has an id of its own.
    if not job_id:
        return None

    name = f"slurm {job_id}"
    cluster = os.environ.get("SLURM_CLUSTER_NAME", "")
    restart = _read_count("SLURM_RESTART_COUNT")
    return Job(name, restart, {f"{name} {cluster}".rstrip(): restart})


def _torchrun_job() -> Job | None:
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if not run_id:
        return None

    restart = _read_count("TORCHELASTIC_RESTART_COUNT")
    agent = _find_launcher("TORCHELASTIC_RUN_ID")
    starts: dict[str, int] = {}

    name = "torchrun"
    if run_id != "none":  # The user chose it, so the agents on other hosts know it as well.
        name = f"torchrun {run_id}"
        starts[name] = restart
    elif agent:
        name = f"torchrun {agent.process.pid}"

    if agent:
        starts[f"torchrun {run_id} of {agent}"] = agent.worker_started
    return Job(name, restart, starts)


def _submitit_job() -> Job | None:
    job_id = os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    if not job_id or os.environ.get("SUBMITIT_EXECUTOR") != "local":
        return None

    name = f"submitit local {job_id}"
    controller = _find_launcher("SUBMITIT_LOCAL_JOB_ID")
    starts = {f"{name} of {controller}": controller.worker_started} if controller else {}
    return Job(name, _read_count("SLOWFAST_RESTART"), starts)


def _find_launcher(variable: str) -> _Launcher | None:
    """Return the nearest ancestor without a variable, because it set the variable for its children.

    Its child may be a shell script that runs several commands. They are one start together.
    """
    entry = f"{variable}={os.environ[variable]}".encode()
    worker = read_stat(os.getpid())

    while worker is not None and worker.parent > 0:  # Parent 0 is outside of this container.
        if entry not in _initial_environment(worker.parent):
            return _Launcher(identify(worker.parent), worker.started)
        worker = read_stat(worker.parent)
    return None


def _initial_environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # The process belongs to another user.
        return []


def _read_count(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isascii() and text.isdigit() else 0
