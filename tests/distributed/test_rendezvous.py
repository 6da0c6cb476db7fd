"""Real processes that do not join, fail, vanish or are stopped by a signal."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.distributed.launched import submitit_task
from tests.ports import free_port

StartJob = Callable[..., "subprocess.Popen[str]"]
Written = Callable[[], list[str]]

HOST = socket.gethostname()
STOPPED = "stopped by {} during the start: nothing to save. Run the same command again\n"


@contextmanager
def seconds_at_most(limit: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < limit


def start_all(start_job: StartJob, launcher: str, job: str) -> list["subprocess.Popen[str]"]:
    """Start a job of two processes, the one that runs rank 1 first."""
    if launcher == "spawn":
        return [start_job(job)]
    address = f"tcp://127.0.0.1:{free_port()}"
    by_hand = {"num_processes": 1, "num_shards": 2, "init_method": address}
    return [start_job(job, **by_hand, shard_id=shard) for shard in (1, 0)]


def wait_until_ready(written: Written) -> None:
    """Wait until both processes of `wait_to_be_ended` run."""
    deadline = time.monotonic() + 60
    while len(written()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.parametrize("job", ["fail_in_rank_1", "fail_while_rank_0_sleeps"])
@pytest.mark.parametrize("launcher", ["spawn", "by hand"])
def test_the_traceback_of_a_failure_comes_last(
    start_job: StartJob, job: str, launcher: str
) -> None:
    with seconds_at_most(90):  # 30 s from the error, and the start
        processes = start_all(start_job, launcher, job)
        outputs = [process.communicate(timeout=100)[1] for process in processes]

    assert [process.returncode for process in processes] == [1] * len(processes)
    assert outputs[0].endswith("ValueError: broken on purpose\nerror: broken on purpose\n")
    assert f"rank 1 on {HOST} failed:" in outputs[0]
    assert sum(output.count("Traceback") for output in outputs) == 1
    assert f"rank 0 on {HOST} ends: rank 1 on {HOST} failed" in outputs[-1]


def test_a_process_ended_for_another_one_has_failed(start_job: StartJob) -> None:
    spared, failed = (
        start_job("fail_while_rank_0_sleeps", env=submitit_task(rank)) for rank in (0, 1)
    )
    assert failed.wait(timeout=100) == 1
    spared.terminate()  # As Slurm and torchrun do when a process has failed.
    assert spared.wait(timeout=30) == 1


def test_a_killed_process_is_named(start_job: StartJob) -> None:
    with seconds_at_most(90):
        process = start_job("die_in_rank_1")
        errors = process.communicate(timeout=100)[1]
    assert process.returncode == 1
    assert f"rank 1 on {HOST} stopped without a word" in errors
    assert f"rank 1 on {HOST} was ended by SIGKILL" in errors.splitlines()[-1]


def test_a_silent_process_is_named(start_job: StartJob, written: Written) -> None:
    first, silent = (
        start_job("wait_to_be_ended", env=submitit_task(rank), silent_seconds=5.0)
        for rank in (0, 1)
    )
    wait_until_ready(written)
    # Its connections stay open, as those of a machine that lost its network.
    silent.send_signal(signal.SIGSTOP)
    errors = first.communicate(timeout=60)[1]
    assert first.returncode == 1
    assert f"no heartbeat for 5 s from rank 1 on {HOST}. Look there for the reason" in errors


def test_a_process_that_does_not_join_is_named(start_job: StartJob) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    by_hand = {"num_processes": 1, "num_shards": 3, "init_method": address, "timeout": 5.0}
    processes = [start_job("write_ranks", **by_hand, shard_id=shard) for shard in (0, 1)]
    missing = "after 5 s, DIST_TIMEOUT, 1 of 3 processes did not join: rank 2 (machine 2)"
    for process in processes:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 1
        assert missing in errors


def test_an_address_without_a_store_is_named(start_job: StartJob) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    by_hand = {"num_processes": 1, "num_shards": 2, "init_method": address, "timeout": 3.0}
    process = start_job("write_ranks", **by_hand, shard_id=1)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert f"rank 1 on {HOST} found no store at {address} within DIST_TIMEOUT, 3 s" in errors


@pytest.mark.parametrize(("name", "status"), [("SIGHUP", 75), ("SIGINT", 130)])
def test_a_signal_to_the_parent_reaches_all_processes(
    start_job: StartJob, written: Written, name: str, status: int
) -> None:
    process = start_job("wait_to_be_ended")
    wait_until_ready(written)
    process.send_signal(signal.Signals[name])
    errors = process.communicate(timeout=20)[1]
    assert process.returncode == status, errors
    assert errors.count(STOPPED.format(name)) == 1


def test_ctrl_c_during_the_start_ends_in_one_line(start_job: StartJob) -> None:
    process = start_job("wait_to_be_ended")
    children: list[int] = []
    while len(children) < 2:
        command = ["pgrep", "-P", str(process.pid), "-f", "spawn_main"]
        found = subprocess.run(command, capture_output=True, text=True)
        children = [int(pid) for pid in found.stdout.split()]
        assert process.poll() is None

    for pid in (*children, process.pid):  # A terminal sends it to all of them.
        os.kill(pid, signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.count(STOPPED.format("SIGINT")) == 1
