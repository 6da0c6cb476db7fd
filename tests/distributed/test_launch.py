"""Real processes, started in every way that needs no cluster; the ways that need one: tests/slurm."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from slowfast.distributed import collectives
from slowfast.distributed.launch import check_network, find_problems, hosts_of, launch
from slowfast.distributed.rendezvous import Place, open_store, ports_of
from slowfast.utils.progress import log_to_file, start_logging
from tests.ports import free_port

Process = subprocess.Popen[str]
Spawn = Callable[..., Process]


def write_place(folder: str) -> int:
    total = collectives.sum_over_ranks(torch.tensor([collectives.rank() + 1.0]))
    text = f"{collectives.rank()} {collectives.world_size()} {total.item()}"
    Path(folder, str(collectives.rank())).write_text(text)
    return 0


def log_who_is_there(folder: str) -> int:
    start_logging(is_main=collectives.is_main())
    log_to_file(folder)
    check_network()
    return 3


def fail_in_rank_1(folder: str) -> int:
    if collectives.rank() == 1:
        raise ValueError("broken on purpose")
    collectives.wait_for_all()
    return 0


def fail_while_rank_0_sleeps(folder: str) -> int:
    if collectives.rank() == 1:
        raise ValueError("broken on purpose")
    time.sleep(100)
    return 0


def die_in_rank_1(folder: str) -> int:
    if collectives.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    collectives.wait_for_all()
    return 0


def wait_to_be_ended(folder: str) -> int:
    collectives.wait_for_all()
    Path(folder, f"ready {collectives.rank()}").touch()
    time.sleep(100)
    return 0


def last_rank_never_comes(folder: str) -> int:
    return 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Spawn]:
    """Start `launch` on a job of this file, in a process of its own; what is left at the end is killed."""
    (tmp_path / "out").mkdir()
    started: list[subprocess.Popen[str]] = []

    def start(
        job: str,
        *prefix: str,
        env: dict[str, str] | None = None,
        silent_seconds: float = 60.0,
        **arguments: object,
    ) -> "subprocess.Popen[str]":
        script = tmp_path / f"{job}_{len(started)}.py"
        arguments = {"num_processes": 2, "backend": "gloo", "timeout": 60.0, **arguments}
        script.write_text(
            f"import sys; sys.path[:0] = {[str(Path(__file__).parents[level]) for level in (0, 2)]!r}\n"
            f"from test_launch import {job}\n"
            "from slowfast.distributed import rendezvous\n"
            "from slowfast.distributed.launch import launch\n"
            f"rendezvous.SILENT_SECONDS = {silent_seconds}\n"
            f"if __name__ == '__main__': sys.exit(launch({job}, {str(tmp_path / 'out')!r}, **{arguments!r}))\n"
        )
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(
            [*(prefix or (sys.executable,)), str(script)], env=os.environ | (env or {}), **pipes
        )  # type: ignore[call-overload]
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def places_in(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted((folder / "out").iterdir())]


def torchrun(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "torch.distributed.run", *arguments)


def task_of_submitit(rank: int) -> dict[str, str]:
    """The environment of one of two tasks that its executor for one machine has started."""
    job = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_NTASKS": "2",
        "SUBMITIT_LOCAL_JOB_ID": str(os.getpid()),
    }
    return job | {"SUBMITIT_LOCAL_GLOBALID": str(rank), "SUBMITIT_LOCAL_LOCALID": str(rank)}


BOTH = ["0 2 3.0", "1 2 3.0"]


def test_torchrun_starts_the_processes(start: Spawn, tmp_path: Path) -> None:
    process = start("write_place", *torchrun("--standalone", "--nproc_per_node=2"))
    assert process.wait(timeout=120) == 0, process.stderr and process.stderr.read()
    assert places_in(tmp_path) == BOTH


def test_two_machines_of_torchrun_make_one_job(start: Spawn, tmp_path: Path) -> None:
    meeting = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    shared = ("--nnodes=2", "--nproc_per_node=1", "--rdzv-backend=c10d", "--rdzv-id=1", meeting)
    processes = [start("write_place", *torchrun(*shared), num_processes=1) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert places_in(tmp_path) == BOTH


def test_two_machines_meet_by_hand(start: Spawn, tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    processes = [
        start("write_place", num_processes=1, num_shards=2, shard_id=shard, init_method=address)
        for shard in (1, 0)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert places_in(tmp_path) == BOTH


def test_tasks_of_submitit_on_one_machine_are_the_processes(start: Spawn, tmp_path: Path) -> None:
    processes = [start("write_place", env=task_of_submitit(rank)) for rank in (1, 0)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert places_in(tmp_path) == BOTH


def test_one_process_returns_the_status_of_the_job(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    assert launch(log_who_is_there, str(tmp_path), num_processes=0) == 3
    torch.set_num_threads(threads)


def test_two_processes_say_who_has_come_and_how_fast_they_are_and_return_the_status_of_the_job(
    tmp_path: Path,
) -> None:
    assert launch(log_who_is_there, str(tmp_path), num_processes=2, backend="gloo") == 3
    log = (tmp_path / "stdout.log").read_text()
    assert f"2 processes on 1 machine: {socket.gethostname()} (ranks 0, 1)" in log
    assert "all-reduce of 16 MiB: right sums" in log
    assert "GB/s per process" in log


@contextmanager
def seconds_at_most(most: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < most


@pytest.mark.parametrize("job", ["fail_in_rank_1", "fail_while_rank_0_sleeps"])
@pytest.mark.parametrize("launcher", ["spawn", "by hand"])
def test_the_traceback_of_the_process_that_failed_comes_last(
    start: Spawn, job: str, launcher: str
) -> None:
    with seconds_at_most(90):  # 30 s from the error, and the start
        if launcher == "spawn":
            processes = [start(job)]
        else:
            by_hand = {
                "num_processes": 1,
                "num_shards": 2,
                "init_method": f"tcp://127.0.0.1:{free_port()}",
            }
            processes = [start(job, **by_hand, shard_id=shard) for shard in (1, 0)]
        outputs = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [1] * len(processes)
    assert outputs[0].endswith("ValueError: broken on purpose\nerror: broken on purpose\n")
    assert f"rank 1 on {socket.gethostname()} failed:" in outputs[0]
    assert sum(output.count("Traceback") for output in outputs) == 1
    assert (
        f"rank 0 on {socket.gethostname()} ends: rank 1 on {socket.gethostname()} failed"
        in outputs[-1]
    )


def test_a_process_that_is_ended_because_another_failed_has_failed(start: Spawn) -> None:
    spared, failed = (
        start("fail_while_rank_0_sleeps", env=task_of_submitit(rank)) for rank in (0, 1)
    )
    assert failed.wait(timeout=100) == 1
    spared.terminate()  # as Slurm and torchrun do when a process has failed
    assert spared.wait(timeout=30) == 1


def test_torchrun_shows_the_traceback_of_the_process_that_failed(start: Spawn) -> None:
    process = start("fail_in_rank_1", *torchrun("--standalone", "--nproc_per_node=2"))
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    summary = errors[errors.index("Root Cause") :]
    assert "rank      : 1" in summary
    assert "ValueError: broken on purpose" in summary


def test_torchrun_starts_the_processes_again_after_a_failure(start: Spawn, tmp_path: Path) -> None:
    process = start(
        "fail_at_the_first_start",
        *torchrun("--standalone", "--nproc_per_node=2", "--max-restarts=1"),
    )
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors
    assert places_in(tmp_path) == [*BOTH, "failed once"]


def fail_at_the_first_start(folder: str) -> int:
    if collectives.rank() == 1 and not Path(folder, "failed").exists():
        Path(folder, "failed").write_text("failed once")
        raise ValueError("broken on purpose")
    return write_place(folder)


def test_a_process_that_is_killed_is_named(start: Spawn) -> None:
    with seconds_at_most(90):
        process = start("die_in_rank_1")
        errors = process.communicate(timeout=100)[1]
    assert process.returncode == 1
    assert f"rank 1 on {socket.gethostname()} stopped without a word" in errors
    assert f"rank 1 on {socket.gethostname()} was ended by SIGKILL" in errors.splitlines()[-1]


def test_a_process_that_is_silent_is_named(start: Spawn, tmp_path: Path) -> None:
    first, silent = (
        start("wait_to_be_ended", env=task_of_submitit(rank), silent_seconds=5.0) for rank in (0, 1)
    )
    deadline = time.monotonic() + 60
    while len(places_in(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    silent.send_signal(
        signal.SIGSTOP
    )  # its connections stay open, as those of a machine that has lost its network
    errors = first.communicate(timeout=60)[1]
    assert first.returncode == 1
    assert (
        f"no sign of life for 5 s from rank 1 on {socket.gethostname()}; look there for the reason"
        in errors
    )


def test_a_process_that_does_not_come_is_named(start: Spawn) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    alone = {"num_processes": 1, "num_shards": 3, "init_method": address, "timeout": 5.0}
    processes = [start("write_place", **alone, shard_id=shard) for shard in (0, 1)]
    for process in processes:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 1
        assert (
            "after 5 s, DIST_TIMEOUT, 1 of 3 processes did not join: rank 2 (machine 2)" in errors
        )


def test_an_address_where_nobody_is_is_named(start: Spawn) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    process = start(
        "write_place", num_processes=1, num_shards=2, shard_id=1, init_method=address, timeout=3.0
    )
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert (
        f"rank 1 on {socket.gethostname()} found no meeting point at {address}, DIST_TIMEOUT 3 s"
        in errors
    )


@pytest.mark.parametrize(("name", "status"), [("SIGHUP", 75), ("SIGINT", 130)])
def test_a_signal_to_the_parent_reaches_all_processes(
    start: Spawn, tmp_path: Path, name: str, status: int
) -> None:
    process = start("wait_to_be_ended")
    deadline = time.monotonic() + 60
    while len(places_in(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.Signals[name])
    errors = process.communicate(timeout=20)[1]
    assert process.returncode == status, errors
    assert (
        errors.count(
            f"stopped by {name} during the start: nothing to save; run the same command again"
        )
        == 1
    )


def test_ctrl_c_while_the_processes_start_ends_in_one_line(start: Spawn) -> None:
    process = start("wait_to_be_ended")
    children: list[int] = []
    while len(children) < 2:  # as a terminal, which sends it to all of them
        found = subprocess.run(
            ["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True
        )
        children = [int(pid) for pid in found.stdout.split()]
        assert process.poll() is None
    for pid in (*children, process.pid):
        os.kill(pid, signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert (
        errors.count(
            "stopped by SIGINT during the start: nothing to save; run the same command again\n"
        )
        == 1
    )


def test_ports_that_are_taken_are_passed_over() -> None:
    place = Place(
        rank=0, world_size=2, local_rank=0, local_world_size=2, address="job://127.0.0.1/my.job"
    )
    first, second, third = ports_of("my.job")[:3]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", first))
        silent.listen()
        other = dist.TCPStore("127.0.0.1", second, is_master=True, wait_for_workers=False)
        other.set("job", "another job")
        store = open_store(place, timeout=30)
        store.set("from", "rank 0")
        assert isinstance(store, dist.TCPStore)
        assert store.port == third
        assert open_store(place._replace(rank=1), timeout=30).get("from") == b"rank 0"


def test_short_forms_of_host_lists_by_hand() -> None:
    assert hosts_of("node7") == ["node7"]
    assert hosts_of("a[1-2,7],b,c[08-10]x") == ["a1", "a2", "a7", "b", "c08x", "c09x", "c10x"]
    assert hosts_of("127.0.0.[1-2]") == ["127.0.0.1", "127.0.0.2"]
    assert hosts_of("r[1-2]n[1-2]") == ["r1n1", "r1n2", "r2n1", "r2n2"]


def test_more_gpus_than_the_machine_has_are_refused_with_the_remedy() -> None:
    number = torch.cuda.device_count() + 1
    command = "python tools/run_net.py --cfg X"
    (problem,) = find_problems(
        num_processes=number, num_shards=1, backend="nccl", init_method="", command=command
    )
    has = {1: "no GPU that torch can use", 2: "1 GPU; use at most that many"}
    assert problem.startswith(
        f"NUM_GPUS is {number}, but this machine has {has.get(number, f'{number - 1} GPUs; use')}"
    )
    assert problem.endswith(
        "For one CPU process, type:\n    python tools/run_net.py --cfg X NUM_GPUS 0"
    )
    assert not find_problems(num_processes=number, num_shards=1, backend="gloo", init_method="")


def test_several_machines_need_an_address() -> None:
    problems = find_problems(num_processes=0, num_shards=2, backend="gloo", init_method="")
    assert problems == [
        "NUM_SHARDS is 2, but no machine is named; add --init_method tcp://HOST_OF_SHARD_0:PORT"
    ]
