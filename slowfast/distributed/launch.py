"""Launch: runs a function in every process of a job, spawned here or started by a launcher."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from datetime import timedelta
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from slowfast.distributed import signals
from slowfast.distributed.collectives import device, use_device
from slowfast.distributed.launchers import LaunchedProcess, RankInfo, find_launched
from slowfast.distributed.rendezvous import LEAVE_SECONDS, Rendezvous
from slowfast.distributed.signals import FAILED_STATUS, INTERRUPTED_STATUS, SignalForwarding
from slowfast.utils import terminal
from slowfast.utils.plugins import import_again, imported_plugins
from slowfast.utils.provenance import host_name
from slowfast.utils.text import count


class Work(NamedTuple):
    """The function that every process of a job runs, and how the processes communicate."""

    function: Callable[..., int]
    args: tuple[Any, ...]
    backend: str  # nccl or gloo
    timeout: float  # Seconds to wait for a process to join, and for one in a collective.


class _Spawned(NamedTuple):
    """What a spawned process needs to know. It travels by pickle."""

    work: Work
    first: RankInfo  # The process of this machine with local rank 0.
    num_threads: int
    plugins: tuple[str, ...]


def launch(
    function: Callable[..., int],
    *args: Any,
    num_processes: int,
    num_shards: int = 1,
    shard_id: int = 0,
    backend: str = "nccl",
    init_method: str = "",
    num_helpers: int = 0,
    timeout: float = 1800.0,
) -> int:
    """Run `function(*args)` in every process of this machine and return its exit status.

    If a launcher started the processes, this is one of them. If it started one per machine, or if
    there is no launcher, this spawns the processes of this machine. When one fails, its traceback
    is the last thing printed, and all others end.

    Args:
        function: Function of a module, so that a spawned process can import it. It returns the same
            exit status in all processes.
        args: Arguments of the function, sent to the processes by pickle.
        num_processes: Number of processes on this machine. 0 runs this process alone, on the CPU.
        num_shards: Number of machines, if there is no launcher.
        shard_id: Index of this machine, if there is no launcher.
        backend: nccl (one GPU per process) or gloo (CPU).
        init_method: Address tcp://host:port of shard 0, for several machines without a launcher.
        num_helpers: Number of loader workers of each process. They need cores as well.
        timeout: Seconds to wait for a process to join, and for one in a collective.

    Returns:
        The exit status of the function, or 1 if a process failed. A process alone raises instead.
    """
    launched = find_launched()
    if "OMP_NUM_THREADS" not in os.environ:
        num_threads = _share_cores(num_processes, num_helpers=num_helpers, launched=launched)
        torch.set_num_threads(num_threads)

    work = Work(function, args, backend=backend, timeout=timeout)
    if launched and (launched.ranks.local_world_size > 1 or num_processes <= 1):
        return run_rank(work, launched.ranks, hosts=launched.hosts)

    if launched:  # One process per machine, so its rank is the index of the machine.
        num_shards = launched.ranks.world_size
        shard_id = launched.ranks.rank
        init_method = launched.ranks.store_address

    if num_processes * num_shards <= 1:
        use_device(0, on_gpu=num_processes == 1 and backend == "nccl")
        return function(*args)

    local_world_size = max(num_processes, 1)
    first = RankInfo(
        rank=shard_id * local_world_size,
        world_size=num_shards * local_world_size,
        local_rank=0,
        local_world_size=local_world_size,
        store_address=init_method,
    )
    return _spawn(work, first)


def run_rank(
    work: Work,
    ranks: RankInfo,
    *,
    store: dist.Store | None = None,
    hosts: tuple[str, ...] = (),
) -> int:
    """Run the work in this process, together with the other ranks, and return its exit status.

    If it fails, this ends the process.

    Args:
        work: Function to run.
        ranks: Rank of this process.
        store: Store where the processes meet. None opens the one at the address in `ranks`.
        hosts: Expected host of each machine. Empty if unknown.
    """
    prints = ranks.rank == 0
    with signals.stopping_on_signals():
        signals.join_job(prints=prints)
        use_device(ranks.local_rank, on_gpu=work.backend == "nccl")
        rendezvous = Rendezvous(ranks, store=store, timeout=work.timeout, hosts=hosts)
        signals.join_job(prints=prints, leave_job=rendezvous.interrupt)

        try:
            dist.init_process_group(
                work.backend,
                store=dist.PrefixStore("group", rendezvous.store),
                rank=ranks.rank,
                world_size=ranks.world_size,
                timeout=timedelta(seconds=work.timeout),
                # NCCL would take the GPU with the index of the rank, which another job may own.
                device_id=device() if work.backend == "nccl" else None,
            )
            status = work.function(*work.args)
            _leave_process_group()
        except Exception as error:
            rendezvous.fail(error)

        rendezvous.leave()
        signals.join_job(prints=True)
        return status


def find_problems(
    *, num_processes: int, num_shards: int, backend: str, init_method: str, command: str = ""
) -> list[str]:
    """Return why this machine cannot run the processes that a config asks for.

    Args:
        num_processes: See `launch`.
        num_shards: See `launch`.
        backend: See `launch`.
        init_method: See `launch`.
        command: The command that was typed, for the remedy.
    """
    launched = find_launched()
    problems = []
    if backend == "nccl":
        problems += _find_gpu_problems(num_processes, launched=launched, command=command)

    if launched is None:
        if num_shards > 1 and not init_method:
            problems.append(
                f"NUM_SHARDS is {num_shards}, but no machine is named. Add "
                "--init_method tcp://HOST_OF_SHARD_0:PORT"
            )
        return problems

    ranks = launched.ranks
    if num_shards != ranks.num_machines:
        problems.append(
            f"NUM_SHARDS is {num_shards}, but processes were started on "
            f"{count(ranks.num_machines, 'machine')}. Do not set NUM_SHARDS"
        )
    if ranks.local_world_size > 1 and num_processes != ranks.local_world_size:
        problems.append(
            f"NUM_GPUS is {num_processes}, but {count(ranks.local_world_size, 'process')} were "
            "started on this machine. Do not set NUM_GPUS, or start one process per machine"
        )
    return problems


def _find_gpu_problems(
    num_processes: int, *, launched: LaunchedProcess | None, command: str
) -> list[str]:
    num_gpus = torch.cuda.device_count()
    has_own_gpu = launched is not None and launched.ranks.local_world_size > 1 and num_gpus == 1
    if num_processes <= num_gpus or has_own_gpu:
        return []

    found = "no GPU that torch can use"
    if num_gpus:
        found = f"{count(num_gpus, 'GPU')}. Use at most that many"
    return [
        f"NUM_GPUS is {num_processes}, but this machine has {found}. DIST_BACKEND gloo runs them "
        f"as CPU processes. For one CPU process, type:\n    {command} NUM_GPUS 0"
    ]


def _leave_process_group() -> None:
    if not hasattr(dist.Store, "clone"):  # in torch 2.6
        # Its destructor waits for Gloo's thread, which may wait for the interpreter lock to drop
        # the tensors of the last collective. Sleeping gives the lock away.
        time.sleep(0.1)
    dist.destroy_process_group()


def _spawn(work: Work, first: RankInfo) -> int:
    """Start the processes of this machine and return their exit status."""
    store = None
    if first.num_machines == 1:
        # This process serves the store itself, so its port is certainly free.
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        first = first._replace(store_address=f"tcp://127.0.0.1:{store.port}")

    spawned = _Spawned(work, first, num_threads=torch.get_num_threads(), plugins=imported_plugins())
    with SignalForwarding() as forwarding:
        with signals.postponed():  # Here, and in the new processes until they can listen.
            num_processes = first.local_world_size
            context = mp.start_processes(_run_spawned, (spawned,), num_processes, join=False)
            senders = [partial(_send_signal, process) for process in context.processes]
            forwarding.forward_to(*senders)
        return _wait_for(context, first, forwarded=forwarding.received)


def _run_spawned(local_rank: int, spawned: _Spawned) -> None:
    work, first = spawned.work, spawned.first
    ranks = first._replace(rank=first.rank + local_rank, local_rank=local_rank)

    signals.join_job(prints=ranks.rank == 0)
    signals.listen()
    torch.set_num_threads(spawned.num_threads)
    try:
        import_again(spawned.plugins)
        store = None
        if ranks.num_machines == 1:  # The parent serves the store.
            host, port = ranks.store_address.removeprefix("tcp://").split(":")
            store = dist.TCPStore(host, int(port), is_master=False, wait_for_workers=False)
        status = run_rank(work, ranks, store=store)
    except Exception:
        traceback.print_exc()
        status = FAILED_STATUS
    sys.exit(status)


def _send_signal(process: BaseProcess, number: int) -> None:
    if process.exitcode is None and process.pid is not None:
        os.kill(process.pid, number)


def _wait_for(context: mp.ProcessContext, first: RankInfo, *, forwarded: Collection[int]) -> int:
    """Return the exit status of the spawned processes. When one fails, end the others.

    Args:
        context: The processes.
        first: Rank of the first one.
        forwarded: Signals that were forwarded to them.
    """
    running = dict(enumerate(context.processes))
    statuses: list[int] = []
    killed: list[str] = []
    give_up_at = float("inf")
    while running:
        connection.wait([process.sentinel for process in running.values()], timeout=1.0)
        for local_rank, process in list(running.items()):
            if process.exitcode is None:
                continue
            del running[local_rank]

            if -process.exitcode in forwarded:  # It ended before it could listen to signals.
                statuses.append(INTERRUPTED_STATUS)
                continue
            statuses.append(process.exitcode)
            if process.exitcode < 0 and time.monotonic() < give_up_at:
                killed.append(_describe_kill(first.rank + local_rank, process.exitcode))
            if process.exitcode < 0 or process.exitcode == FAILED_STATUS:
                give_up_at = min(give_up_at, time.monotonic() + 2 * LEAVE_SECONDS)

        if time.monotonic() > give_up_at:
            for process in running.values():
                process.kill()

    if killed:
        killed.append("SIGKILL mostly means that the machine ran out of memory")
        text = terminal.new_line(sys.stderr) + ". ".join(killed)
        print(text, file=sys.stderr, flush=True)
    if killed or FAILED_STATUS in statuses:
        return FAILED_STATUS
    return max(statuses)


def _describe_kill(rank: int, exit_code: int) -> str:
    return f"rank {rank} on {host_name()} was ended by {signal.Signals(-exit_code).name}"


def _share_cores(num_processes: int, *, num_helpers: int, launched: LaunchedProcess | None) -> int:
    """Return the number of threads of each process.

    Each one gets its share of the cores without those of its helpers, but at least half the share.
    """
    num_tasks = launched.ranks.local_world_size if launched else 1
    num_spawned = 1 if num_tasks > 1 else max(num_processes, 1)

    cores = len(os.sched_getaffinity(0)) // (num_tasks * num_spawned)
    if launched and launched.num_cores:
        cores = min(cores, launched.num_cores // num_spawned)
    return max(cores - num_helpers, cores // 2, 1)
