"""The job of a scheduler or launcher that this process belongs to, and whether it is a restart.

Two commands typed within one allocation are two runs. A second start of one command by Slurm,
torchrun or submitit is the same run.
"""

import os
import socket
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process, told from every other one on any host at any time."""

    host: str
    boot: str  # id that the kernel draws at each boot; "" where it is not known
    namespace: str  # that its pid belongs to: a container has one of its own
    pid: int
    started: int  # in ticks of the kernel's clock: a pid is given to another process later


class Job(NamedTuple):
    """What started this process; plain data, so that `Job(**job._asdict())` survives JSON."""

    name: str  # "slurm 1234", "torchrun ID", "submitit local 4242"; "" where a person did
    restart: int  # how often it has been restarted, as its scheduler and launcher count
    starts: dict[str, int]  # for each of them a number that is higher at a later start


def current_job() -> Job:
    """Return the job of this process. Call it in the main process of a run."""
    names: list[str] = []
    starts: dict[str, int] = {}
    restart = 0

    if slurm_id := os.environ.get("SLURM_JOB_ID"):  # of an array, each task has its own
        cluster = os.environ.get("SLURM_CLUSTER_NAME", "")
        count = _count_in("SLURM_RESTART_COUNT")
        names.append(f"slurm {slurm_id}")
        starts[f"slurm {slurm_id} {cluster}".rstrip()] = count
        restart += count

    if run_id := os.environ.get("TORCHELASTIC_RUN_ID"):
        count = _count_in("TORCHELASTIC_RESTART_COUNT")
        agent = _find_launcher("TORCHELASTIC_RUN_ID")
        if run_id != "none":  # named by the user: agents on other hosts know it as well
            names.append(f"torchrun {run_id}")
            starts[names[-1]] = count
        else:
            names.append(f"torchrun {agent.process.pid}" if agent else "torchrun")
        if agent:
            starts[f"torchrun {run_id} of {agent}"] = agent.worker_started
        restart += count

    local_id = os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    if local_id and os.environ.get("SUBMITIT_EXECUTOR") == "local":
        controller = _find_launcher("SUBMITIT_LOCAL_JOB_ID")
        names.append(f"submitit local {local_id}")
        if controller:
            starts[f"{names[-1]} of {controller}"] = controller.worker_started
        restart += _count_in("SLOWFAST_RESTART")

    return Job(", ".join(names), restart, starts)


def is_restart_of(now: Job, earlier: Job) -> bool:
    """Whether a job is a later start of an earlier one, by any of what started both.

    Args:
        now: The job of this process.
        earlier: The job that the earlier process noted.
    """
    common = now.starts.keys() & earlier.starts.keys()
    return any(now.starts[name] > earlier.starts[name] for name in common)


def own_process() -> Process:
    """Return what tells this process from every other one."""
    return _process(os.getpid())


def is_alive(process: Process) -> bool | None:
    """Whether a process still runs; None if this process cannot see it, as on another host."""
    here = own_process()
    if not here.boot or here[:3] != process[:3]:
        return None

    stat = _read_stat(process.pid)
    if stat is None:
        return None if _exists(process.pid) else False  # a hardened /proc hides other users
    return stat.started == process.started and stat.state not in ("Z", "X")


class _Launcher(NamedTuple):
    process: Process
    worker_started: int  # the child of it that this process is, or descends from

    def __str__(self) -> str:
        return " ".join(map(str, self.process))


class _Stat(NamedTuple):
    state: str
    parent: int
    started: int


def _find_launcher(variable: str) -> _Launcher | None:
    """Return the nearest ancestor that does not have a variable: it set it for its children.

    The child may be a shell script that runs several commands, which are one start together.
    """
    entry = f"{variable}={os.environ[variable]}".encode()
    worker = _read_stat(os.getpid())

    while worker is not None and worker.parent > 0:  # 0: outside of this container
        if entry not in _initial_environment(worker.parent):
            return _Launcher(_process(worker.parent), worker.started)
        worker = _read_stat(worker.parent)
    return None


def _initial_environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # of another user
        return []


def _process(pid: int) -> Process:
    stat = _read_stat(pid)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = ""
    if stat is None:
        return Process(_host_name(), "", "", pid, 0)
    return Process(_host_name(), boot, namespace, pid, stat.started)


def _host_name() -> str:
    """Return what the kernel calls this host; SLOWFAST_HOST tells hosts of one name apart."""
    return os.environ.get("SLOWFAST_HOST") or socket.gethostname()


def _read_stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # after the command, from field 3 of proc(5)
    return _Stat(state=fields[0], parent=int(fields[1]), started=int(fields[19]))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _count_in(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isascii() and text.isdigit() else 0
