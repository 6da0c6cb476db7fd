"""How the processes of a job start: here, by torchrun, as tasks of Slurm, or by submitit on one machine.

Each way ends in the same five facts, a Place. Below `launch` nothing knows the launcher.
"""

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from slowfast.distributed import signals
from slowfast.distributed.collectives import device, use_device
from slowfast.distributed.rendezvous import LEAVE_SECONDS, Meeting, Place, host_name
from slowfast.distributed.signals import FAILED_STATUS, INTERRUPTED_STATUS
from slowfast.utils.plugins import import_again, imported_plugins
from slowfast.utils.text import count

_meeting: Meeting | None = None  # of this process with the others; set once, by launch


class Started(NamedTuple):
    """A process that torchrun, Slurm or submitit has started, and the machines of its job."""

    place: Place
    hosts: tuple[str, ...]  # by number of the machine; empty: not known
    num_cores: int  # that it may use; 0: not said


def find_started() -> Started | None:
    """Return the facts of this process if a launcher started it as one of several; None if it is alone.

    Raises:
        ValueError: Slurm has started different numbers of tasks on different machines.
    """
    finders = (_started_by_torchrun, _started_by_submitit, _started_by_slurm)
    found = next((started for finder in finders if (started := finder())), None)
    return found if found and found.place.world_size > 1 else None


def settings_of_launcher() -> list[str]:
    """Return KEY VALUE pairs with the numbers of machines and processes that a launcher has started, if any did."""
    started = find_started()
    if started is None:
        return []
    per_machine = started.place.local_world_size
    processes = (
        ["NUM_GPUS", str(per_machine)] if per_machine > 1 else []
    )  # one may start those of its machine itself
    return ["NUM_SHARDS", str(started.place.world_size // per_machine), *processes]


def find_problems(
    *, num_processes: int, num_shards: int, backend: str, init_method: str, command: str = ""
) -> list[str]:
    """Return why this machine cannot run the processes that a config asks for; an empty list if it can.

    Args:
        num_processes: See `launch`.
        num_shards: See `launch`.
        backend: See `launch`.
        init_method: See `launch`.
        command: The command that was typed, for what to type instead.
    """
    started = find_started()
    problems = []
    has_its_own_gpu = (
        started is not None
        and started.place.local_world_size > 1
        and torch.cuda.device_count() == 1
    )
    if backend == "nccl" and num_processes > torch.cuda.device_count() and not has_its_own_gpu:
        num_gpus = torch.cuda.device_count()
        found = (
            f"{count(num_gpus, 'GPU')}; use at most that many"
            if num_gpus
            else "no GPU that torch can use"
        )
        problems.append(
            f"NUM_GPUS is {num_processes}, but this machine has {found}. DIST_BACKEND gloo makes them CPU processes. "
            f"For one CPU process, type:\n    {command} NUM_GPUS 0"
        )
    if started is None:
        if num_shards > 1 and not init_method:
            problems.append(
                f"NUM_SHARDS is {num_shards}, but no machine is named; add --init_method tcp://HOST_OF_SHARD_0:PORT"
            )
        return problems
    per_machine = started.place.local_world_size
    machines = started.place.world_size // per_machine
    if num_shards != machines:
        problems.append(
            f"NUM_SHARDS is {num_shards}, but processes were started on {machines} machines; leave it out"
        )
    if per_machine > 1 and num_processes != per_machine:
        problems.append(
            f"NUM_GPUS is {num_processes}, but {per_machine} processes were started on this machine; leave it out, "
            "or start one process per machine"
        )
    return problems


def launch(
    job: Callable[..., int],
    *args: Any,
    num_processes: int,
    num_shards: int = 1,
    shard_id: int = 0,
    backend: str = "nccl",
    init_method: str = "",
    num_helpers: int = 0,
    timeout: float = 1800.0,
) -> int:
    """Run `job(*args)` in every process of this machine; when all have ended, return its result, an exit status.

    Where a launcher has started the processes, this is one of them. If it has started one per machine, or none, those
    of this machine are started here. When one fails, its traceback is the last thing printed, and all others end.

    Args:
        job: a function of a module, so that a started process can import it; returns the same in all processes.
        args: sent to the processes by pickle.
        num_processes: processes on this machine; 0 for this process alone, on the CPU.
        num_shards: machines, where no launcher says so.
        shard_id: number of this machine, from 0.
        backend: nccl (one GPU each) or gloo (CPU).
        init_method: tcp://host:port of shard 0, where there are several machines and no launcher.
        num_helpers: processes that work beside each of these (loader workers), and need cores as well.
        timeout: seconds to wait for a process that does not come, and for one in a collective.

    Returns:
        what `job` returns; 1 if a process has failed (a process alone raises).
    """
    started = find_started()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_threads_for(num_processes, num_helpers, started))
    if started and (started.place.local_world_size > 1 or num_processes <= 1):
        return _run_at(started.place, backend, timeout, job, args, hosts=started.hosts)
    processes_here = max(num_processes, 1)
    address = init_method
    if started:
        num_shards, shard_id, address = (
            started.place.world_size,
            started.place.rank,
            started.place.address,
        )
    if num_processes * num_shards <= 1:
        use_device(0, on_gpu=num_processes == 1 and backend == "nccl")
        return job(*args)
    # On one machine this process holds the meeting point, so that its port is free for certain.
    store = (
        None
        if num_shards > 1
        else dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    )
    place = Place(
        rank=shard_id * processes_here,  # of the first process here
        world_size=processes_here * num_shards,
        local_rank=0,
        local_world_size=processes_here,
        address=address if store is None else f"tcp://127.0.0.1:{store.port}",
    )
    plugins = imported_plugins()
    arguments = (
        plugins,
        place,
        store is not None,
        backend,
        timeout,
        torch.get_num_threads(),
        job,
        args,
    )
    with _Forwarding() as forwarding:
        with signals.postponed():  # here, and there until the process can listen
            context = mp.start_processes(_run_spawned, arguments, nprocs=processes_here, join=False)
            forwarding.begin(context.processes)
        return _wait_for(context, place, sent=forwarding.sent)


def check_network() -> None:
    """Log who has come, check that numbers are summed right, and log how fast; nothing for a process alone."""
    if _meeting is not None:
        _meeting.check_network()


def hosts_of(node_list: str) -> list[str]:
    """Return the names that Slurm's short form of them stands for: `a[1-2,7],b` is a1, a2, a7, b.

    Raises:
        ValueError: a bracket is not closed, or what is in it is no range.
    """
    hosts: list[str] = []
    for group in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", node_list):
        names = [""]
        for text, ranges in re.findall(r"([^\[]+)|\[([^\]]*)\]", group):
            ends = (
                [text]
                if text
                else [number for part in ranges.split(",") for number in _numbers_in(part)]
            )
            names = [name + end for name in names for end in ends]
        hosts += names
    return hosts


def _numbers_in(part: str) -> list[str]:
    first, _, last = part.partition("-")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]


def _started_by_torchrun() -> Started | None:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    env = {
        name: int(os.environ[name])
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    }
    attempt = f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    address = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}/{attempt}"
    place = Place(
        env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"], address
    )
    return Started(place, hosts=(), num_cores=0)


def _started_by_submitit() -> Started | None:
    """As a task of its executor for one machine; on a cluster it starts tasks of Slurm."""
    if (
        os.environ.get("SUBMITIT_EXECUTOR") != "local"
        or "SUBMITIT_LOCAL_GLOBALID" not in os.environ
    ):
        return None
    rank, local_rank, num_tasks = (
        int(os.environ[f"SUBMITIT_LOCAL_{name}"]) for name in ("GLOBALID", "LOCALID", "NTASKS")
    )
    name = os.environ["SUBMITIT_LOCAL_JOB_ID"]
    return Started(
        Place(rank, num_tasks, local_rank, num_tasks, f"job://127.0.0.1/{name}"),
        hosts=(),
        num_cores=0,
    )


def _started_by_slurm() -> Started | None:
    """As a task of `srun`. The script of `sbatch` itself is no task, whatever the job asks for."""
    if "SLURM_STEP_NUM_TASKS" not in os.environ or "SLURM_PROCID" not in os.environ:
        return None
    num_tasks, num_nodes = (
        int(os.environ["SLURM_STEP_NUM_TASKS"]),
        int(os.environ["SLURM_STEP_NUM_NODES"]),
    )
    if num_tasks % num_nodes or "," in os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""):
        raise ValueError(
            f"Slurm has started {os.environ.get('SLURM_STEP_TASKS_PER_NODE')} tasks on {num_nodes} machines; start as "
            "many on each, with --ntasks-per-node"
        )
    hosts = tuple(hosts_of(os.environ["SLURM_STEP_NODELIST"]))
    step = f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    name = f"{step}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"  # ports of the last start may not be free yet
    place = Place(
        rank=int(os.environ["SLURM_PROCID"]),
        world_size=num_tasks,
        local_rank=int(os.environ["SLURM_LOCALID"]),
        local_world_size=num_tasks // num_nodes,
        address=f"job://{hosts[0]}/{name}",
    )
    return Started(place, hosts, num_cores=int(os.environ.get("SLURM_CPUS_PER_TASK", 0)))


def _run_spawned(
    local_rank: int,
    plugins: tuple[str, ...],
    first: Place,
    store_is_here: bool,
    backend: str,
    timeout: float,
    num_threads: int,
    job: Callable[..., int],
    args: tuple[Any, ...],
) -> None:
    place = first._replace(rank=first.rank + local_rank, local_rank=local_rank)
    signals.join_job(prints=place.rank == 0)
    signals.listen()
    torch.set_num_threads(num_threads)
    try:
        import_again(plugins)
        store = None
        if store_is_here:
            host, port = place.address.removeprefix("tcp://").split(":")
            store = dist.TCPStore(host, int(port), is_master=False, wait_for_workers=False)
        status = _run_at(place, backend, timeout, job, args, store=store)
    except Exception:
        traceback.print_exc()
        status = FAILED_STATUS
    sys.exit(status)


def _run_at(
    place: Place,
    backend: str,
    timeout: float,
    job: Callable[..., int],
    args: tuple[Any, ...],
    *,
    store: dist.Store | None = None,
    hosts: tuple[str, ...] = (),
) -> int:
    global _meeting
    with signals.stopping_on_signals():
        signals.join_job(prints=place.rank == 0)
        use_device(place.local_rank, on_gpu=backend == "nccl")
        _meeting = Meeting(place, store=store, timeout=timeout, hosts=hosts)
        signals.join_job(prints=place.rank == 0, leave_job=_meeting.interrupt)
        try:
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("group", _meeting.store),
                rank=place.rank,
                world_size=place.world_size,
                timeout=timedelta(seconds=timeout),
                # Without it, NCCL takes the GPU with the number of the rank, which may be that of another job.
                device_id=device() if backend == "nccl" else None,
            )
            status = job(*args)
            dist.destroy_process_group()
        except Exception as error:
            _meeting.fail(error)
        _meeting.part()
        signals.join_job(prints=True)
        return status


def _wait_for(context: mp.ProcessContext, place: Place, *, sent: set[int]) -> int:
    """Return the status of the processes of this machine; when one has failed, end the others.

    Args:
        context: The processes.
        place: The place of the first one.
        sent: The signals that were forwarded to them.
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
            if -process.exitcode in sent:  # before it could listen to signals
                statuses.append(INTERRUPTED_STATUS)
                continue
            statuses.append(process.exitcode)
            if process.exitcode < 0 and time.monotonic() < give_up_at:
                name = signal.Signals(-process.exitcode).name
                killed.append(
                    f"rank {place.rank + local_rank} on {host_name()} was ended by {name}"
                )
            if process.exitcode < 0 or process.exitcode == FAILED_STATUS:
                give_up_at = min(give_up_at, time.monotonic() + 2 * LEAVE_SECONDS)
        if time.monotonic() > give_up_at:
            for process in running.values():
                process.kill()
    if killed:
        print(
            *killed,
            "SIGKILL mostly means that the machine ran out of memory",
            sep="; ",
            file=sys.stderr,
            flush=True,
        )
    if killed or FAILED_STATUS in statuses:
        return FAILED_STATUS
    return max(statuses)


class _Forwarding:
    """While it is entered, signals to this process go to the processes that it has started, whose end it awaits."""

    def __init__(self) -> None:
        self.processes: Sequence[BaseProcess] = ()
        self.sent: set[int] = set()  # signals that were forwarded
        self._before: dict[int, object] = {}

    def __enter__(self) -> "_Forwarding":
        self._before = signals.install(self._forward)
        return self

    def __exit__(self, *error: object) -> None:
        signals.restore(self._before)

    def begin(self, processes: Sequence[BaseProcess]) -> None:
        """Forward to these processes, also what came before they were started."""
        self.processes = processes
        for number in tuple(self.sent):
            self._forward(number, None)

    def _forward(self, number: int, frame: object) -> None:
        self.sent.add(number)
        for process in self.processes:
            if process.exitcode is None and process.pid is not None:
                os.kill(process.pid, number)


def _threads_for(num_processes: int, num_helpers: int, started: Started | None) -> int:
    """Each process gets its share of the cores, less those of its helpers, but at least half of the share."""
    tasks_here = started.place.local_world_size if started else 1
    cores = len(os.sched_getaffinity(0)) // (
        tasks_here if tasks_here > 1 else max(num_processes, 1)
    )
    if started and started.num_cores:  # of a task
        cores = min(cores, started.num_cores // (1 if tasks_here > 1 else max(num_processes, 1)))
    return max(cores - num_helpers, cores // 2, 1)
