"""Process identity: tells a process from every other one on any host, and whether it is alive."""

import os
import socket
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process, distinguishable from every other one on any host at any time."""

    host: str
    boot: str  # Id that the kernel draws at each boot, "" if unknown.
    namespace: str  # PID namespace. A container has one of its own.
    pid: int
    started: int  # Ticks of the kernel's clock, because a pid is reused later.


class ProcessStat(NamedTuple):
    """Fields of /proc/<pid>/stat."""

    state: str
    parent: int
    started: int


def own_process() -> Process:
    """Return the identity of this process."""
    return identify(os.getpid())


def identify(pid: int) -> Process:
    """Return the identity of a process on this host."""
    stat = read_stat(pid)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = namespace = ""

    if stat is None:
        return Process(_host_name(), "", "", pid, 0)
    return Process(_host_name(), boot, namespace, pid, stat.started)


def is_alive(process: Process) -> bool | None:
    """Whether a process still runs.

    Returns:
        None if this process cannot see the other one, as on another host.
    """
    here = own_process()
    if not here.boot or here[:3] != process[:3]:
        return None

    stat = read_stat(process.pid)
    if stat is None:
        return None if _exists(process.pid) else False  # A hardened /proc hides other users.
    return stat.started == process.started and stat.state not in ("Z", "X")


def read_stat(pid: int) -> ProcessStat | None:
    """Return the state, parent and start of a process, or None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # Field 3 of proc(5) follows the command.
    return ProcessStat(state=fields[0], parent=int(fields[1]), started=int(fields[19]))


def _host_name() -> str:
    # SLOWFAST_HOST tells hosts with the same name apart.
    return os.environ.get("SLOWFAST_HOST") or socket.gethostname()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
