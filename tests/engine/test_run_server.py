"""The run server ends with the tests that started it, even if a signal ends them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SERVER = str(Path(__file__).with_name("run_server.py"))

# Starts the server as the fixture does, prints its pid, and waits.
PARENT = """
import os, subprocess, sys, time
server = subprocess.Popen([sys.executable, sys.argv[1], str(os.getpid())], stdin=0)
print(server.pid, flush=True)
time.sleep(100)
"""

# A process in place of the server, and one of its runs.
SERVER_WITH_RUN = """
import os, sys, time
sys.path.insert(0, {repository!r})
from tests.engine.parent_death import end_with_parent
end_with_parent(int(sys.argv[1]))
server = os.getpid()
run = os.fork()
if run == 0:
    end_with_parent(server)
    time.sleep(100)
print(run, flush=True)
time.sleep(100)
"""


def has_ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def wait_until_ended(pid: int) -> bool:
    deadline = time.monotonic() + 60
    while not has_ended(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def start_parent() -> Callable[[str], "subprocess.Popen[str]"]:
    """Start a parent of a server, which reads from a pipe that this process holds open."""

    def start(server: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", PARENT, server]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    return start


def read_pid(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_the_server_ends_when_a_signal_ends_the_tests(
    start_parent: Callable[[str], "subprocess.Popen[str]"],
) -> None:
    with start_parent(SERVER) as parent:
        server = read_pid(parent)
        parent.terminate()
        parent.wait()
        assert wait_until_ended(server)


def test_the_runs_of_a_server_end_with_it(
    start_parent: Callable[[str], "subprocess.Popen[str]"], repository: Path, tmp_path: Path
) -> None:
    path = tmp_path / "server.py"
    path.write_text(SERVER_WITH_RUN.format(repository=str(repository)))
    with start_parent(str(path)) as parent:
        pids = [read_pid(parent), read_pid(parent)]
        parent.terminate()
        parent.wait()
        assert [wait_until_ended(pid) for pid in pids] == [True, True]
