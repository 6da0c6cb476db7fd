"""Real processes, started in every way that needs no cluster. Slurm has tests/slurm."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from slowfast.distributed.launch import find_problems, launch
from tests.distributed.jobs import log_network
from tests.distributed.launched import submitit_task, torchrun
from tests.ports import free_port

StartJob = Callable[..., "subprocess.Popen[str]"]
Written = Callable[[], list[str]]

BOTH = ["0 2 3.0", "1 2 3.0"]


def test_torchrun_starts_the_processes(start_job: StartJob, written: Written) -> None:
    process = start_job("write_ranks", *torchrun("--standalone", "--nproc_per_node=2"))
    assert process.wait(timeout=120) == 0, process.stderr and process.stderr.read()
    assert written() == BOTH


def test_two_machines_of_torchrun_make_one_job(start_job: StartJob, written: Written) -> None:
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    shared = ("--nnodes=2", "--nproc_per_node=1", "--rdzv-backend=c10d", "--rdzv-id=1", endpoint)
    processes = [start_job("write_ranks", *torchrun(*shared), num_processes=1) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert written() == BOTH


def test_two_machines_meet_by_hand(start_job: StartJob, written: Written) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    by_hand = {"num_processes": 1, "num_shards": 2, "init_method": address}
    processes = [start_job("write_ranks", **by_hand, shard_id=shard) for shard in (1, 0)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert written() == BOTH


def test_tasks_of_submitit_are_the_processes(start_job: StartJob, written: Written) -> None:
    processes = [start_job("write_ranks", env=submitit_task(rank)) for rank in (1, 0)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert written() == BOTH


def test_torchrun_shows_the_traceback_of_a_failure(start_job: StartJob) -> None:
    process = start_job("fail_in_rank_1", *torchrun("--standalone", "--nproc_per_node=2"))
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    summary = errors[errors.index("Root Cause") :]
    assert "rank      : 1" in summary
    assert "ValueError: broken on purpose" in summary


def test_torchrun_restarts_the_processes_after_a_failure(
    start_job: StartJob, written: Written
) -> None:
    restarting = torchrun("--standalone", "--nproc_per_node=2", "--max-restarts=1")
    process = start_job("fail_at_the_first_start", *restarting)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors
    assert written() == [*BOTH, "failed once"]


def test_one_process_returns_the_status_of_the_job(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    assert launch(log_network, str(tmp_path), num_processes=0) == 3
    torch.set_num_threads(threads)


def test_two_processes_log_their_hosts_and_speed(tmp_path: Path) -> None:
    assert launch(log_network, str(tmp_path), num_processes=2, backend="gloo") == 3
    log = (tmp_path / "stdout.log").read_text()
    assert f"2 processes on 1 machine: {socket.gethostname()} (ranks 0, 1)" in log
    assert "all-reduce of 16 MiB: right sums" in log
    assert "GB/s per process" in log


def test_more_gpus_than_the_machine_has_are_refused() -> None:
    number = torch.cuda.device_count() + 1
    command = "python tools/run_net.py --cfg X"
    (problem,) = find_problems(
        num_processes=number, num_shards=1, backend="nccl", init_method="", command=command
    )
    has = {1: "no GPU that torch can use", 2: "1 GPU. Use at most that many"}
    found = has.get(number, f"{number - 1} GPUs. Use")
    assert problem.startswith(f"NUM_GPUS is {number}, but this machine has {found}")
    remedy = "For one CPU process, type:\n    python tools/run_net.py --cfg X NUM_GPUS 0"
    assert problem.endswith(remedy)
    assert not find_problems(num_processes=number, num_shards=1, backend="gloo", init_method="")


def test_several_machines_need_an_address() -> None:
    problems = find_problems(num_processes=0, num_shards=2, backend="gloo", init_method="")
    assert problems == [
        "NUM_SHARDS is 2, but no machine is named. Add --init_method tcp://HOST_OF_SHARD_0:PORT"
    ]
