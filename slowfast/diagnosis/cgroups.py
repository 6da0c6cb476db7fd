"""Control groups: how many cores, bytes and processes a container or a job may use."""

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")

_UNLIMITED = 1 << 60  # Version 1 writes a huge number for no memory limit.


def cpu_limit(*, proc: Path = PROC, mount: Path = MOUNT) -> float | None:
    """Return the number of cores that this process may use in sum, None if there is no limit.

    Args:
        proc: File that lists the groups of this process.
        mount: Folder of the control groups.
    """
    limits = []
    for folder in _folders("cpu", proc=proc, mount=mount):
        words = _read(folder / "cpu.max").split()  # version 2: `200000 100000`
        quota, period = _number(words[:1]), _number(words[1:])
        if not words:  # version 1
            quota = _number([_read(folder / "cpu.cfs_quota_us")])
            period = _number([_read(folder / "cpu.cfs_period_us")])
        if quota and period:
            limits.append(quota / period)
    return min(limits, default=None)


def memory_limit(*, proc: Path = PROC, mount: Path = MOUNT) -> int | None:
    """Return the bytes that the processes of the group may use, None if there is no limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    return _lowest("memory", names, proc=proc, mount=mount)


def process_limit(*, proc: Path = PROC, mount: Path = MOUNT) -> int | None:
    """Return the number of processes and threads of the group, None if there is no limit."""
    return _lowest("pids", ("pids.max",), proc=proc, mount=mount)


def _lowest(controller: str, names: tuple[str, ...], *, proc: Path, mount: Path) -> int | None:
    limits = []
    for folder in _folders(controller, proc=proc, mount=mount):
        for name in names:
            limit = _number([_read(folder / name)])
            if limit and limit < _UNLIMITED:
                limits.append(limit)
    return min(limits, default=None)


def _folders(controller: str, *, proc: Path, mount: Path) -> Iterator[Path]:
    """Yield the folders of the group of this process and of all groups around it."""
    for line in _read(proc).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2
            roots = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            roots = [mount / controllers, mount / controller]
        else:
            continue

        for root in roots:
            # In a container, the path may be that outside of it, and only the root is there.
            folder = root / path.strip("/")
            for candidate in (folder, *folder.parents):
                if candidate == root or root in candidate.parents:
                    yield candidate


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(words: list[str]) -> int:
    """Return the number in the first word, 0 if there is no number above 0."""
    return int(words[0]) if words and words[0].isdecimal() else 0
