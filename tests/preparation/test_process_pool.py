"""The process pool, with real workers that crash and hang as decoders do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from slowfast.preparation.process_pool import Failure, map_in_processes


def work(text: str) -> str:
    """Return the text in capitals, or crash or hang if it says so."""
    if text == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if text == "exit":
        os._exit(3)
    if text == "hang":
        time.sleep(600)
    if text == "raise":
        raise LookupError("no such thing")
    return text.upper()


def write_where(path: str, *, folder: str) -> int:
    Path(folder, path).write_text(os.getcwd())
    return os.getpid()


def test_a_crashed_item_is_reported_and_the_others_are_done() -> None:
    items = ["a", "segfault", "b", "exit", "hang", "c", "raise", *"defgh"]
    # A busy machine may halt for a second, so the time limit is generous.
    outcomes = dict(map_in_processes(work, items, num_workers=2, timeout=5))
    assert outcomes == {
        **{letter: letter.upper() for letter in "abcdefgh"},
        "segfault": Failure("crashed", "its process was ended by SIGSEGV"),
        "exit": Failure("crashed", "its process ended with status 3"),
        "hang": Failure("timeout", "not done after 5 s"),
        "raise": Failure("crashed", "LookupError: no such thing"),
    }


def test_processes_share_the_work_in_the_folder_of_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    items = [str(number) for number in range(40)]
    results = dict(
        map_in_processes(partial(write_where, folder="out"), items, num_workers=3, timeout=60)
    )
    assert results.keys() == set(items)
    assert 2 <= len(set(results.values())) <= 3
    assert os.getpid() not in results.values()
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(items)


def test_items_are_taken_only_as_processes_become_free() -> None:
    taken = []

    def letters() -> Iterator[str]:
        for letter in "abcdefgh":
            taken.append(letter)
            yield letter

    results = map_in_processes(work, letters(), num_workers=2, timeout=60)
    next(results)
    assert len(taken) == 3
    results.close()


SCRIPT = """
import os, sys
from job import work
from slowfast.preparation.process_pool import map_in_processes
if __name__ == "__main__":
    try:
        list(map_in_processes(work, range(1000), num_workers=2, timeout=600))
    except KeyboardInterrupt:
        sys.exit("stopped")
"""
JOB = """
import os, time
def say(what):
    os.write(1, f"{what}\\n".encode())
    time.sleep(0.5)
def work(item):
    say("a process works")
    time.sleep(600)
if os.getpid() != os.getpgrp():
    say("the server imports the job")
"""


@contextmanager
def started(folder: Path, *, repository: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the script in a process group of its own, and kill the group afterwards."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / "job.py").write_text(JOB)
    with subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert line + "\n" in iter(process.stdout.readline, "")


def test_no_process_is_left_when_the_caller_is_killed(tmp_path: Path, repository: Path) -> None:
    with started(tmp_path, repository=repository) as process:
        wait_for_line(process, "a process works")
        wait_for_line(process, "a process works")
        process.kill()
        process.communicate(timeout=120)  # until every process that could write has ended


@pytest.mark.usefixtures("ctrl_c_is_heard")
@pytest.mark.parametrize("moment", ["the server imports the job", "a process works"])
def test_ctrl_c_reaches_only_the_caller_and_leaves_no_process(
    moment: str, tmp_path: Path, repository: Path
) -> None:
    with started(tmp_path, repository=repository) as process:
        wait_for_line(process, moment)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, printed = process.communicate(
            timeout=120
        )  # until every process that could write has ended
        assert (printed, process.returncode) == ("stopped\n", 1)


def test_a_pool_needs_a_process() -> None:
    with pytest.raises(ValueError, match=r"the number of processes is 0. Use 1 or more"):
        list(map_in_processes(work, ["a"], num_workers=0, timeout=1))
