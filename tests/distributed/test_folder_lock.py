"""Locks that real processes hold, lose and compete for, on this host and as if on others."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slowfast.distributed.folder_lock import FolderLock, FolderLockedError
from slowfast.distributed.job import Job

NO_JOB = Job(name="", restart=0, starts={})

# Calls the methods of its lock that it reads, one per line, and prints what happens.
PROCESS = """
import logging, sys
from pathlib import Path
from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job import current_job

logging.basicConfig(stream=sys.stdout, format="log: %(message)s")
lock = FolderLock(
    Path(sys.argv[1]),
    purpose="training",
    job=current_job(),
    command="python tools/run_net.py",
    heartbeat_seconds=0.1,
    silent_seconds=float(sys.argv[2]),
)
for line in sys.stdin:
    try:
        getattr(lock, line.strip())()
        print("done", flush=True)
    except OSError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""

# 20 forked processes compete for the same stale lock, `rounds` times. Prints how many got it.
RACE = """
import json, os, sys, time
from pathlib import Path
from slowfast.distributed.folder_lock import FolderLock, FolderLockedError
from slowfast.distributed.job import Job

folder, rounds, links = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if links == "no links":
    forbid_links()
path = folder / "train.lock"

def contend(number):
    lock = FolderLock(path, purpose="training", job=Job("", 0, {}), silent_seconds=2)
    while not (folder / "go").exists():
        pass
    try:
        lock.acquire()
    except FolderLockedError:
        os._exit(0)
    while not (folder / "stop").exists():
        time.sleep(0.005)
        lock.check()
    lock.release()
    os._exit(1)

for number in range(rounds):
    dead = os.fork()
    if dead == 0:
        if number % 3 == 1:
            os.environ["SLOWFAST_HOST"] = "elsewhere"
        FolderLock(path, purpose="training", job=Job("", 0, {})).acquire()
        os._exit(0)
    os.waitpid(dead, 0)
    if number % 3 == 1:  # silent, on another host
        os.utime(path, (1, 1))
    if number % 3 == 2:
        path.write_text("")
        os.utime(path, (1, 1))

    pids = [os.fork() or contend(i) for i in range(20)]
    (folder / "go").touch()
    statuses = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in pids[1:]]
    (folder / "stop").touch()
    statuses.append(os.waitstatus_to_exitcode(os.wait()[1]))
    for name in ("go", "stop"):
        (folder / name).unlink()
    print(json.dumps([sorted(statuses), os.listdir(folder)]), flush=True)
"""

# Makes the kernel refuse hard links to this process and its children, as some file systems do.
FORBID_LINKS = """
import ctypes, errno, platform, struct

def forbid_links():
    calls = {"x86_64": (86, 265), "aarch64": (37, 37)}[platform.machine()]
    load = struct.pack("HBBI", 0x20, 0, 0, 0)  # the number of the system call
    tests = [struct.pack("HBBI", 0x15, 2 - i, 0, call) for i, call in enumerate(calls)]
    allow = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    refuse = struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | errno.EPERM)
    program = ctypes.create_string_buffer(b"".join([load, *tests, allow, refuse]))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 5, ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, header, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, filter
"""


class Process:
    """Another process with a lock.

    Args:
        path: The lock file.
        silent: Seconds after which it takes a silent holder for dead.
        variables: Variables of its environment.
    """

    def __init__(self, path: Path, *, silent: float = 60, **variables: str) -> None:
        self.logged: list[str] = []
        repository = str(Path(__file__).parents[2])
        self.popen = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path), str(silent)],
            env={**os.environ, "PYTHONPATH": repository, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tell(self, method: str) -> str:
        """Return "done", or the error of a method of its lock."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(f"{method}\n")
        self.popen.stdin.flush()
        while (line := self.popen.stdout.readline()).startswith("log: "):
            self.logged.append(line.strip())
        return line.strip()

    def end(self) -> str:
        """Return what it wrote to its standard error."""
        return self.popen.communicate()[1]


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a process with a lock in the folder `run`. It ends with the test."""
    processes: list[Process] = []

    def start(**arguments: object) -> Process:
        process = Process(tmp_path / "run/train.lock", **arguments)  # type: ignore[arg-type]
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.popen.kill()
        process.popen.communicate()


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    return tmp_path / "run/train.lock"


def lock_here(path: Path, *, silent: float = 60, job: Job = NO_JOB) -> FolderLock:
    return FolderLock(path, purpose="test", job=job, heartbeat_seconds=0.1, silent_seconds=silent)


def test_a_second_process_is_refused_by_name(
    start_process: Callable[..., Process], lock_path: Path
) -> None:
    first = start_process()
    assert first.tell("acquire") == "done"
    refusal = (
        rf"^{lock_path.parent}: a training of process {first.popen.pid} on host \S+, "
        r"started 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \(python tools/run_net\.py\), is writing here. "
        "Wait for it, stop it, or use another OUTPUT_DIR$"
    )
    with pytest.raises(FolderLockedError, match=refusal):
        lock_here(lock_path).acquire()
    assert first.tell("check") == first.tell("release") == first.tell("release") == "done"

    assert os.listdir(lock_path.parent) == []
    with lock_here(lock_path) as lock:
        lock.check()
        with pytest.raises(FolderLockedError, match=f"a test of process {os.getpid()} "):
            lock_here(lock_path).acquire()
    assert os.listdir(lock_path.parent) == []
    with pytest.raises(FolderLockedError, match="this test has released its lock"):
        lock.check()


def test_a_killed_holder_is_replaced_at_once(
    start_process: Callable[..., Process], lock_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = start_process()
    first.tell("acquire")
    first.popen.kill()  # and it stays a zombie
    os.waitid(os.P_PID, first.popen.pid, os.WEXITED | os.WNOWAIT)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), lock_here(lock_path) as lock:
        lock.check()
    assert time.monotonic() - began < 5
    (line,) = caplog.messages
    assert f"took over from a training of process {first.popen.pid} on host " in line
    assert line.endswith(", which has ended")


@pytest.mark.parametrize("links", ["links", "no links"])
def test_exactly_one_of_20_processes_takes_over(tmp_path: Path, links: str) -> None:
    program = FORBID_LINKS + RACE
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program, str(tmp_path), "3", links]
    output = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, timeout=100)
    rounds = [json.loads(line) for line in output.stdout.splitlines()]
    assert rounds == [[[0] * 19 + [1], []]] * 3


def test_a_live_holder_on_another_host_is_found(
    start_process: Callable[..., Process], lock_path: Path
) -> None:
    first = start_process(SLOWFAST_HOST="gpu7")
    first.tell("acquire")
    with pytest.raises(FolderLockedError, match="on host gpu7, started"):
        lock_here(lock_path, silent=20).acquire()
    assert first.tell("check") == "done"


def test_a_dead_holder_on_another_host_is_waited_for(
    start_process: Callable[..., Process], lock_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = start_process(SLOWFAST_HOST="gpu7")
    first.tell("acquire")
    first.popen.kill()
    first.end()
    with caplog.at_level(logging.WARNING), lock_here(lock_path, silent=1) as lock:
        lock.check()
    wait, takeover = caplog.messages
    assert wait.endswith(", may be dead. Waiting up to 1 s")
    assert takeover.endswith(", which sent no heartbeat for 1 s")


def test_a_requeued_job_does_not_wait_for_its_first_start(
    start_process: Callable[..., Process],
    lock_path: Path,
) -> None:
    first = start_process(SLOWFAST_HOST="gpu7", SLURM_JOB_ID="12")
    first.tell("acquire")
    other = start_process(SLOWFAST_HOST="gpu8", SLURM_JOB_ID="13", SLURM_RESTART_COUNT="1")
    assert other.tell("acquire").startswith("FolderLockedError")
    again = start_process(SLOWFAST_HOST="gpu8", SLURM_JOB_ID="12", SLURM_RESTART_COUNT="1")
    assert again.tell("acquire") == "done"
    assert again.logged[0].endswith(", an earlier start of this job")

    assert "process" in first.tell("check")
    assert first.tell("release") == again.tell("check") == "done"


def test_a_restart_waits_for_its_first_start_to_end(
    start_process: Callable[..., Process],
    lock_path: Path,
) -> None:
    first = start_process(SLURM_JOB_ID="12")
    first.tell("acquire")
    again = start_process(SLURM_JOB_ID="12", SLURM_RESTART_COUNT="1", silent=0.5)
    assert again.tell("acquire").startswith("FolderLockedError")  # a stuck one, in the end
    assert "has not ended yet. Waiting up to 0.5 s" in again.logged[0]
    first.tell("release")
    assert again.tell("acquire") == "done"


def test_a_holder_that_was_stopped_notices_its_loss(
    start_process: Callable[..., Process],
    lock_path: Path,
) -> None:
    first = start_process(SLOWFAST_HOST="laptop")
    first.tell("acquire")
    first.popen.send_signal(signal.SIGSTOP)
    with lock_here(lock_path, silent=0.5) as lock:
        first.popen.send_signal(signal.SIGCONT)
        answer = first.tell("check")
        assert answer.startswith("FolderLockedError: ")
        assert f"a test of process {os.getpid()} on host " in answer
        assert "has taken over from this training" in answer
        assert first.tell("release") == "done"
        lock.check()


def test_a_deleted_folder_ends_the_run_clearly(
    start_process: Callable[..., Process], lock_path: Path
) -> None:
    first = start_process()
    first.tell("acquire")
    lock_path.unlink()
    assert "train.lock: this file was deleted while the training was" in first.tell("check")
    shutil.rmtree(lock_path.parent)
    time.sleep(0.3)  # some heartbeats
    assert f"{lock_path.parent}: this folder was deleted or moved while" in first.tell("check")
    assert first.tell("release") == "done"
    assert first.end() == ""
    assert not lock_path.parent.exists()


@pytest.mark.parametrize("content", [b"", b'{"nonce"', b"[]", b'{"process": {}}', b"\xff\0" * 9])
def test_a_file_that_is_no_lock_is_judged_by_its_age(lock_path: Path, content: bytes) -> None:
    lock_path.parent.mkdir()
    lock_path.write_bytes(content)
    began = time.monotonic()
    with lock_here(lock_path, silent=0.4):
        assert time.monotonic() - began >= 0.3
    lock_path.write_bytes(content)
    os.utime(lock_path, (1, 1))
    with lock_here(lock_path, silent=600) as lock:
        lock.check()


def test_clocks_that_differ_neither_kill_nor_save_a_holder(
    start_process: Callable[..., Process],
    lock_path: Path,
) -> None:
    first = start_process(SLOWFAST_HOST="gpu7")
    first.tell("acquire")
    first.popen.kill()
    first.end()
    future = time.time() + 3600
    os.utime(lock_path, (future, future))
    with lock_here(lock_path, silent=0.5) as lock:
        lock.check()


def test_a_path_that_cannot_be_a_lock_is_named(lock_path: Path) -> None:
    lock_path.mkdir(parents=True)
    with pytest.raises(OSError, match=r"train\.lock: is a folder, not a lock file"):
        lock_here(lock_path).acquire()
    lock_path.rmdir()
    lock_path.symlink_to("nowhere")
    with pytest.raises(OSError, match=r"train\.lock: is a symbolic link, not a lock file"):
        lock_here(lock_path).acquire()
    assert os.listdir(lock_path.parent) == ["train.lock"]

    (lock_path.parent / "file").touch()
    with pytest.raises(OSError, match=r"/file: cannot be created: "):
        lock_here(lock_path.parent / "file/train.lock").acquire()


def test_a_forked_child_neither_holds_nor_releases(lock_path: Path) -> None:
    with lock_here(lock_path) as lock:
        before = lock_path.stat().st_mtime_ns
        child = os.fork()
        if child == 0:
            lock.release()
            os._exit(0)
        os.waitpid(child, 0)
        lock.check()
        deadline = time.monotonic() + 10
        while lock_path.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_leftovers_of_killed_processes_are_removed(
    start_process: Callable[..., Process],
    lock_path: Path,
) -> None:
    dead, far, live = start_process(), start_process(SLOWFAST_HOST="gpu7"), start_process()
    for process, nonce in ((dead, "1"), (far, "2"), (live, "3")):
        process.tell("acquire")
        shutil.copy(lock_path, lock_path.with_name(f".train.lock.{nonce * 32}.new"))
        shutil.copy(lock_path, lock_path.with_name(f".train.lock.{nonce * 32}.claim"))
        process.tell("release")
    dead.popen.kill()
    dead.end()

    (lock_path.parent / ".train.lock.old.new").touch()
    os.utime(lock_path.parent / ".train.lock.old.new", (1, 1))
    (lock_path.parent / "train.lock.backup").touch()

    with lock_here(lock_path):
        pass
    kept = {f".train.lock.{nonce * 32}.{kind}" for nonce in "23" for kind in ("new", "claim")}
    assert set(os.listdir(lock_path.parent)) == {*kept, "train.lock.backup"}


def test_a_claim_of_a_killed_process_holds_nobody_up(
    start_process: Callable[..., Process],
    lock_path: Path,
) -> None:
    # Two processes died while they took over a lock, the second one from the first as well.
    dead = start_process()
    nonces, contents = [], []
    for _ in range(3):
        dead.tell("acquire")
        contents.append(lock_path.read_bytes())
        nonces.append(json.loads(contents[-1])["nonce"])
        dead.tell("release")
    dead.popen.kill()
    dead.end()

    lock_path.write_bytes(contents[0])
    for number in (1, 2):
        claimed, claimer = nonces[number - 1], nonces[number]
        lock_path.with_name(f".train.lock.{claimed}.claim").write_bytes(contents[number])
        lock_path.with_name(f".train.lock.{claimer}.new").write_bytes(contents[number])
    with lock_here(lock_path) as lock:
        lock.check()
        assert os.listdir(lock_path.parent) == ["train.lock"]


def test_a_claim_of_a_live_process_is_respected(
    start_process: Callable[..., Process], lock_path: Path
) -> None:
    dead, claimer = start_process(), start_process()
    dead.tell("acquire")
    stale = lock_path.read_bytes()
    dead.tell("release")
    dead.popen.kill()
    dead.end()
    claimer.tell("acquire")
    claim = lock_path.with_name(f".train.lock.{json.loads(stale)['nonce']}.claim")
    lock_path.rename(claim)
    claimer.popen.send_signal(signal.SIGSTOP)

    lock_path.write_bytes(stale)
    with pytest.raises(FolderLockedError, match="another process has been taking over this lock"):
        lock_here(lock_path, silent=0.2).acquire()
    assert lock_path.read_bytes() == stale
    assert sorted(os.listdir(lock_path.parent)) == sorted([claim.name, lock_path.name])


def test_a_file_size_limit_leaves_no_half_of_a_lock(tmp_path: Path) -> None:
    program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))\n" + PROCESS
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program, str(tmp_path / "train.lock"), "60"]
    done = subprocess.run(command, input="acquire\n", env=env, capture_output=True, text=True)
    assert f"OSError: {tmp_path}/train.lock: cannot be created: " in done.stdout
    assert os.listdir(tmp_path) == []
