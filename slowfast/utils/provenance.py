"""Provenance of a run: which code, versions and command, on which machine, since when."""

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import slowfast

SOURCE_FILE = "source.json"  # beside a copy of the package: the commit that it was copied from
GIT_SECONDS = 5.0  # time limit of a git command

_LIBRARIES = ("torch", "torchvision", "av")
_IMPORTED = time.time()  # seconds since 1970, where the system does not tell when a process started


class Source(NamedTuple):
    """State of the checkout that code comes from."""

    commit: str  # "": not known
    dirty: str  # "yes", "no", or "" if not known


def provenance() -> dict[str, str]:
    """Return where the results of this process come from; "" for what is not known.

    The first call runs git, which takes some milliseconds; it is meant for one process of a job.

    Returns:
        slowfast: Version of the package.
        path: Folder of the package.
        commit: Git commit of the checkout that the package lies in or was copied from.
        dirty: "yes" if that checkout has changes that are not committed, otherwise "no".
        python, torch, torchvision, av: Versions.
        command: Command that can be typed again in the folder `cwd`, with the `python` on PATH.
        cwd: Working directory.
        host: Name of the machine.
        started: Start of the process, UTC, such as 2026-01-31T09:30:00+00:00.
    """
    return dict(_provenance())


def describe(provenance: dict[str, str]) -> str:
    """Return a provenance as one line for the start of a log."""
    commit = provenance["commit"][:12] or "commit unknown"
    changes = {"yes": ", uncommitted changes", "no": "", "": ""}[provenance["dirty"]]
    versions = [f"{name} {provenance[name] or '?'}" for name in ("python", *_LIBRARIES)]
    line = (
        f"slowfast {provenance['slowfast']} ({commit}{changes}) in {provenance['path']}; "
        f"{', '.join(versions)}; on {provenance['host']} since {provenance['started']}; "
        f"in {provenance['cwd']}: {provenance['command']}"
    )
    return "\\n".join(line.splitlines())


@cache
def _provenance() -> dict[str, str]:
    package = Path(slowfast.__file__).resolve().parent
    source = find_source(package.parent)
    started = datetime.fromtimestamp(_start_time(), timezone.utc)
    found = {
        "slowfast": slowfast.__version__,
        "path": str(package),
        "commit": source.commit,
        "dirty": source.dirty,
        "python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
        "command": _command(),
        "cwd": _working_dir(),
        "host": host_name(),
        "started": started.isoformat(timespec="seconds"),
    }
    return {name: _printable(value) for name, value in found.items()}


def find_source(root: Path) -> Source:
    """Return the commit of the package `root/slowfast`.

    A copy that tools/submit.py made has it in a file. Otherwise it is that of the git repository
    that the package belongs to, not of one that happens to hold the folder, such as a project with
    its environment inside.
    """
    copied = root / SOURCE_FILE
    if copied.is_file():
        return _read_source(copied)

    source = Source("", "")
    try:
        _git(root, "ls-files", "--error-unmatch", "--", "slowfast/__init__.py")
        source = Source(_git(root, "rev-parse", "--verify", "HEAD"), "")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".")
        # Other files that git does not know are of no concern: notes, results, environments.
        new_files = ("ls-files", "--others", "--exclude-standard", "--exclude", "__pycache__")
        changes = changes or _git(root, *new_files, "--", "slowfast", "tools")
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or no answer in time
        return source
    return source._replace(dirty="yes" if changes else "no")


def _read_source(path: Path) -> Source:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Source(str(content["commit"]), str(content["dirty"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Source("", "")


def _git(root: Path, *arguments: str) -> str:
    # The repository of a hook that starts this process is not that of the package.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # A checkout of another user is trusted as its code is, but not a repository around it.
    settings = ["-c", f"safe.directory={root}", "-c", "core.fsmonitor=false"]
    done = subprocess.run(
        ["git", "-C", str(root), *settings, *arguments],
        env=env | {"GIT_OPTIONAL_LOCKS": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=GIT_SECONDS,
    )
    return done.stdout.decode(errors="replace").strip()


def host_name() -> str:
    """Return what the scheduler, or else the system, calls this machine."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _command() -> str:
    # Not sys.orig_argv: a process that this one spawns has another one, but the same sys.argv.
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    script = [sys.argv[0]] if spec is None else ["-m", spec.name.removesuffix(".__main__")]
    return shlex.join(["python", *script, *sys.argv[1:]])


def _working_dir() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted
        return ""


def _start_time() -> float:
    """Return when this process started, in seconds since 1970."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds since the boot
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError, IndexError, ValueError):
        return _IMPORTED
    return time.time() - (now - started) if started else _IMPORTED


def _printable(text: str) -> str:
    """Return text that every file and terminal takes: names of files may be no valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
