"""Checks of memory and of the limits of a process."""

import resource
from pathlib import Path

from slowfast.diagnosis.cgroups import memory_limit, process_limit
from slowfast.diagnosis.finding import Finding, failed, ok, warning
from slowfast.utils.files import format_bytes

_MEMORY_NEEDED, _MEMORY_ADVISED = 2e9, 8e9
_FILES_NEEDED, _FILES_ADVISED = 256, 1024
_PROCESSES_NEEDED, _PROCESSES_ADVISED = 128, 1024

# Limits that end a run in the middle.
_OTHER_LIMITS = {
    resource.RLIMIT_FSIZE: ("the size of a file", "-f"),
    resource.RLIMIT_AS: ("the address space", "-v"),
    resource.RLIMIT_DATA: ("the data of a process", "-d"),
    resource.RLIMIT_CPU: ("the CPU time", "-t"),
}


def check_memory() -> Finding:
    """Check the memory that this process may use."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = {line.partition(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    available, total, limit = fields["MemAvailable"], fields["MemTotal"], memory_limit()

    usable = min(available, limit or available)
    text = f"{format_bytes(available)} of {format_bytes(total)} available"
    if limit is not None and limit < total:
        text += f", and the container or job may use {format_bytes(limit)}"
    details = {"available": available, "total": total, "cgroup_limit": limit}

    remedy = "Give the job more memory, or lower DATA_LOADER.NUM_WORKERS and TRAIN.BATCH_SIZE"
    if usable < _MEMORY_NEEDED:
        return failed(f"{text}, too little to train", remedy, **details)
    if usable < _MEMORY_ADVISED:
        return warning(f"{text}, enough for small models only", remedy, **details)
    return ok(text, **details)


def check_open_files() -> Finding:
    """Check the number of files that a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text, details = f"a process may open {_describe(soft)}", {"soft": soft, "hard": hard}

    remedy = f"ulimit -n {_FILES_ADVISED}"
    if not _is_at_least(hard, _FILES_ADVISED):
        remedy = f"Ask the administrator: the hard limit is {hard}, see limits.conf or LimitNOFILE"
    if not _is_at_least(soft, _FILES_NEEDED):
        return failed(f"{text}, too few for loader workers", remedy, **details)
    if not _is_at_least(soft, _FILES_ADVISED):
        return warning(f"{text}, few for many loader workers", remedy, **details)
    return ok(text, **details)


def check_processes() -> Finding:
    """Check the number of processes and threads that a user or a container may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    limit = process_limit()
    details = {"soft": soft, "hard": hard, "cgroup_limit": limit}
    remedy = f"ulimit -u {_PROCESSES_ADVISED}, or docker run --pids-limit={_PROCESSES_ADVISED}"

    limits = [number for number in (soft, limit) if number not in (None, resource.RLIM_INFINITY)]
    lowest = min(limits, default=resource.RLIM_INFINITY)
    text = f"{_describe(lowest)} processes and threads are allowed"
    if not _is_at_least(lowest, _PROCESSES_NEEDED):
        return failed(f"{text}, too few to train", remedy, **details)
    if not _is_at_least(lowest, _PROCESSES_ADVISED):
        return warning(f"{text}, few for many loader workers", remedy, **details)
    return ok(text, **details)


def check_locked_memory() -> Finding:
    """Check the memory that InfiniBand may lock."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    has_infiniband = any(Path("/sys/class/infiniband").glob("*"))
    is_unlimited = soft == resource.RLIM_INFINITY
    text = "unlimited" if is_unlimited else format_bytes(soft)
    details = {"soft": soft, "hard": hard, "infiniband": has_infiniband}

    if has_infiniband and not is_unlimited:
        return warning(
            f"{text}, which is too little for NCCL over InfiniBand",
            "ulimit -l unlimited, in Slurm with PropagateResourceLimitsExcept=MEMLOCK",
            **details,
        )
    return ok(text if has_infiniband else f"{text}, and only InfiniBand needs it", **details)


def check_other_limits() -> Finding:
    """Check the limits that end a run in the middle."""
    found = {}
    for number, (name, option) in _OTHER_LIMITS.items():
        soft, _ = resource.getrlimit(number)
        if soft != resource.RLIM_INFINITY:
            found[name] = (soft, option)

    details = {name: soft for name, (soft, _) in found.items()}
    if not found:
        return ok("no limit on file size, address space and CPU time")
    named = ", ".join(f"{name} is limited to {soft}" for name, soft in details.items())
    options = " ".join(f"{option} unlimited" for _, option in found.values())
    return warning(f"{named}, which can end a run", f"ulimit {options}", **details)


def _describe(limit: int) -> str:
    return "any number of" if limit == resource.RLIM_INFINITY else str(limit)


def _is_at_least(limit: int, number: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= number
