"""Processes: how they start, find each other and combine their numbers. Below `launch` nothing knows the launcher."""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from slowfast.utils.plugins import import_again, imported_plugins

# Long enough for the slowest validation or checkpoint of another rank.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)

Item = TypeVar("Item")

_on_gpu = False  # set once, by launch


class Place(NamedTuple):
    """Where a process stands among all processes of the job."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str  # tcp://host:port of rank 0; "" for a process alone


def rank() -> int:
    """Return the number of this process among all, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes of the job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files and the progress of the job."""
    return rank() == 0


def find_problems(*, num_processes: int, num_shards: int, backend: str, init_method: str) -> list[str]:
    """Return why this machine cannot run the processes that a config asks for; an empty list if it can."""
    if backend == "nccl" and num_processes > torch.cuda.device_count():
        return [
            f"NUM_GPUS is {num_processes}, but this machine has {torch.cuda.device_count()} GPUs; "
            "use at most that many, or NUM_GPUS 0 for one CPU process, or DIST_BACKEND gloo for several"
        ]
    if num_shards > 1 and not init_method and not _started_by_torchrun():
        return [f"NUM_SHARDS is {num_shards}, but no machine is named; add --init_method tcp://HOST_OF_SHARD_0:PORT"]
    return []


def launch(
    job: Callable[..., int],
    *args: Any,
    num_processes: int,
    num_shards: int = 1,
    shard_id: int = 0,
    backend: str = "nccl",
    init_method: str = "",
    num_helpers: int = 0,
) -> int:
    """Run `job(*args)` in every process of this machine; when all have ended, return its result, an exit status.

    Started by torchrun, this process is one of them; otherwise they are started here.

    Args:
        job: a function of a module, so that a started process can import it; returns the same in all processes.
        args: sent to the processes by pickle.
        num_processes: processes on this machine; 0 for this process alone, on the CPU.
        num_shards: machines.
        shard_id: number of this machine, from 0.
        backend: nccl (one GPU each) or gloo (CPU).
        init_method: tcp://host:port of shard 0, where there are several machines.
        num_helpers: processes that work beside each of these (loader workers), and need cores as well.

    Raises:
        torch.multiprocessing.ProcessRaisedException: with the traceback of the process that failed first; the others
            have been ended.
    """
    processes_here = int(os.environ["LOCAL_WORLD_SIZE"]) if _started_by_torchrun() else max(num_processes, 1)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_threads_for(processes_here, num_helpers))
    if _started_by_torchrun():
        env = {name: int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
        address = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        place = Place(env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"], address)
        return _run_at(place, backend, job, args, store=None)
    if num_processes * num_shards <= 1:
        _select_device(local_rank=0, on_gpu=num_processes == 1 and backend == "nccl")
        return job(*args)
    # On one machine this process holds the meeting point, so that its port is free for certain.
    store = None if num_shards > 1 else dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = init_method if store is None else f"tcp://127.0.0.1:{store.port}"
    plugins, num_threads = imported_plugins(), torch.get_num_threads()
    arguments = (plugins, processes_here, num_shards, shard_id, address, backend, num_threads, job, args)
    try:
        mp.spawn(_run_spawned, arguments, nprocs=processes_here)
    except mp.ProcessExitedException as error:
        if error.signal_name is not None:
            raise
        return error.exit_code
    return 0


def _started_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _run_spawned(
    local_rank: int,
    plugins: tuple[str, ...],
    per_machine: int,
    num_shards: int,
    shard_id: int,
    address: str,
    backend: str,
    num_threads: int,
    job: Callable[..., int],
    args: tuple[Any, ...],
) -> None:
    import_again(plugins)
    torch.set_num_threads(num_threads)
    place = Place(shard_id * per_machine + local_rank, per_machine * num_shards, local_rank, per_machine, address)
    store = None
    if num_shards == 1:
        host, port = address.removeprefix("tcp://").split(":")
        store = dist.TCPStore(host, int(port), place.world_size, is_master=False)
    sys.exit(_run_at(place, backend, job, args, store=store))


def _run_at(
    place: Place, backend: str, job: Callable[..., int], args: tuple[Any, ...], *, store: dist.Store | None
) -> int:
    _select_device(place.local_rank, on_gpu=backend == "nccl")
    dist.init_process_group(
        backend,
        init_method=None if store else place.address,
        store=store,
        rank=place.rank,
        world_size=place.world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    status = job(*args)
    # Not after an error: the others would fail on the closed connection, and their errors could be taken for the first.
    dist.destroy_process_group()
    return status


def _threads_for(processes_here: int, num_helpers: int) -> int:
    """Each process gets its share of the cores, less those of its helpers, but at least half of the share."""
    share = len(os.sched_getaffinity(0)) // processes_here
    return max(share - num_helpers, share // 2, 1)


def _select_device(local_rank: int, *, on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.set_device(local_rank)
    global _on_gpu
    _on_gpu = on_gpu


def device() -> torch.device:
    """Return the device of this process."""
    return torch.device("cuda", torch.cuda.current_device()) if _on_gpu else torch.device("cpu")


def share_of(total: int, *, key: str) -> int:
    """Return what one process takes of a number that all processes share equally.

    Args:
        total: over all machines.
        key: where the number comes from, for the message.

    Raises:
        ValueError: it cannot be shared equally.
    """
    if total % world_size():
        raise ValueError(
            f"{key} makes {total} over all machines, which {world_size()} processes cannot share equally; "
            "NUM_SHARDS and NUM_GPUS must be those that were started"
        )
    return total // world_size()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def mean_over_ranks(values: dict[str, float]) -> dict[str, float]:
    """Return the mean of each value over all processes, with one collective for all of them."""
    total = sum_over_ranks(torch.tensor(list(values.values()), dtype=torch.float64, device=device()))
    return dict(zip(values, (total / world_size()).tolist(), strict=True))


def max_over_ranks(tensor: Tensor) -> Tensor:
    """Return the largest values of a tensor over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def largest_over_ranks(value: float) -> float:
    """Return the largest of the values that all processes pass."""
    return max_over_ranks(torch.tensor(value, dtype=torch.float64, device=device())).item()


def from_main(item: Item) -> Item:
    """Return what the main process passed, in every process."""
    if world_size() == 1:
        return item
    items = [item]
    dist.broadcast_object_list(items, src=0)
    return items[0]


def gather_over_ranks(items: list[Item]) -> list[Item]:
    """Return the items of all processes in one list, by rank, the same in every process."""
    if world_size() == 1:
        return list(items)
    lists: list[Any] = [None] * world_size()
    dist.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def copy_buffers_from_main(model: nn.Module) -> None:
    """Give all processes the buffers (BatchNorm statistics) of rank 0, which are those that a checkpoint holds."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def wait_for_all() -> None:
    """Return when all processes have come here."""
    if world_size() > 1:
        dist.barrier()
