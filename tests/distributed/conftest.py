"""Processes that run a job of jobs.py through `launch`."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = """
import sys
sys.path.insert(0, {repository!r})
from tests.distributed.jobs import {job}
from slowfast.distributed import rendezvous
from slowfast.distributed.launch import launch
rendezvous.SILENT_SECONDS = {silent_seconds}
if __name__ == "__main__":
    sys.exit(launch({job}, {folder!r}, **{arguments!r}))
"""


@pytest.fixture
def start_job(tmp_path: Path, repository: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start `launch` on a job in a process of its own. Processes left at the end are killed."""
    folder = tmp_path / "out"
    folder.mkdir()
    started: list[subprocess.Popen[str]] = []

    def start(
        job: str,
        *prefix: str,
        env: dict[str, str] | None = None,
        silent_seconds: float = 60.0,
        **arguments: object,
    ) -> "subprocess.Popen[str]":
        path = tmp_path / f"{job}_{len(started)}.py"
        script = SCRIPT.format(
            repository=str(repository),
            job=job,
            folder=str(folder),
            silent_seconds=silent_seconds,
            arguments={"num_processes": 2, "backend": "gloo", "timeout": 60.0, **arguments},
        )
        path.write_text(script)

        process = subprocess.Popen(
            [*(prefix or (sys.executable,)), str(path)],
            env=os.environ | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def written(tmp_path: Path) -> Callable[[], list[str]]:
    """Read the files that the processes of a job have written."""
    return lambda: [path.read_text() for path in sorted((tmp_path / "out").iterdir())]
