"""Provenance of a run: its code, versions, command, machine and start time."""

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

SOURCE_FILE = "source.json"  # file beside a copy of the package that names its commit
GIT_SECONDS = 5.0  # time limit of a git command

_LIBRARIES = ("torch", "torchvision", "av")
_IMPORTED = time.time()  # start time, in seconds since 1970, if the system does not tell it


class Source(NamedTuple):
    """Git state of the checkout that the code comes from."""

    commit: str  # "" if unknown
    dirty: str  # "yes" with uncommitted changes, "no" without, "" if unknown


def provenance() -> dict[str, str]:
    """Return where the results of this process come from, with "" for what is unknown.

    The first call runs git, which takes some milliseconds, so call it in one process of a job.

    Returns:
        slowfast: Version of the package.
        path: Folder of the package.
        commit: Git commit of the checkout that holds the package or that it was copied from.
        dirty: "yes" if that checkout has uncommitted changes, otherwise "no".
        python, torch, torchvision, av: Versions.
        command: Command to type again in the folder `cwd`, with the `python` on PATH.
        cwd: Working directory.
        host: Name of the machine.
        started: Start time of the process in UTC, such as 2026-01-31T09:30:00+00:00.
    """
    return dict(_provenance())


def describe(provenance: dict[str, str]) -> str:
    """Return a provenance as one line, for the start of a log."""
    commit = provenance["commit"][:12] or "commit unknown"
    changes = {"yes": ", uncommitted changes", "no": "", "": ""}[provenance["dirty"]]
    versions = [f"{name} {provenance[name] or '?'}" for name in ("python", *_LIBRARIES)]

    line = (
        f"slowfast {provenance['slowfast']} ({commit}{changes}) in {provenance['path']}; "
        f"{', '.join(versions)}. On {provenance['host']} since {provenance['started']}; "
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

    A copy made by tools/submit.py has the commit in a file. Otherwise the package must be tracked
    by the git repository: a repository that merely holds the folder, such as a project with its
    environment inside, does not count.
    """
    copied = root / SOURCE_FILE
    if copied.is_file():
        return _read_source(copied)

    source = Source("", "")
    try:
        _git(root, "ls-files", "--error-unmatch", "--", "slowfast/__init__.py")
        source = Source(_git(root, "rev-parse", "--verify", "HEAD"), "")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".")
        # Untracked files elsewhere do not matter: notes, results, environments.
        new_files = ("ls-files", "--others", "--exclude-standard", "--exclude", "__pycache__")
        changes = changes or _git(root, *new_files, "--", "slowfast", "tools")
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or a timeout
        return source
    return source._replace(dirty="yes" if changes else "no")


def _read_source(path: Path) -> Source:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Source(str(content["commit"]), str(content["dirty"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Source("", "")


def _git(root: Path, *arguments: str) -> str:
    # A git hook that starts this process sets variables for its own repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # We run the code of this checkout, so trust it even if it belongs to another user.
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
    """Return the name of this machine: that of the scheduler, or else that of the system."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _command() -> str:
    # A spawned process has the same sys.argv as its parent, but another sys.orig_argv.
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        start = ["python", "-m", spec.name.removesuffix(".__main__")]
    elif Path(sys.argv[0]).name == "slowfast":  # the installed command
        start = ["slowfast"]
    else:
        start = ["python", sys.argv[0]]
    return shlex.join([*start, *sys.argv[1:]])


def _working_dir() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # the folder was deleted
        return ""


def _start_time() -> float:
    """Return the start time of this process in seconds since 1970."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds after boot
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError, IndexError, ValueError):
        return _IMPORTED
    return time.time() - (now - started) if started else _IMPORTED


def _printable(text: str) -> str:
    """Return a text that can always be written. Names of files may be invalid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
