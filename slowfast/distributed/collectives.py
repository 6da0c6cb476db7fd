"""Collectives: rank, world size and device of this process, and reductions over all ranks."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

Item = TypeVar("Item")

_on_gpu = False  # Only `use_device` sets it.


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes of the job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files and reports the progress of the job."""
    return rank() == 0


def use_device(local_rank: int, *, on_gpu: bool) -> None:
    """Choose the device of this process.

    Args:
        local_rank: Index of the GPU. A process that sees a single GPU takes that one.
        on_gpu: Whether this process computes on a GPU.
    """
    global _on_gpu
    _on_gpu = on_gpu
    if on_gpu:
        torch.cuda.set_device(local_rank if torch.cuda.device_count() > 1 else 0)


def device() -> torch.device:
    """Return the device of this process."""
    if _on_gpu:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def share_of(total: int, *, key: str) -> int:
    """Return the share of one process when all processes divide a number equally.

    Args:
        total: Number over all machines.
        key: Config key behind the number, for the message.

    Raises:
        ValueError: If the processes cannot divide it equally.
    """
    if total % world_size():
        raise ValueError(
            f"{key} makes {total} over all machines, which {world_size()} processes cannot share "
            "equally. Set NUM_SHARDS and NUM_GPUS to the numbers that you started"
        )
    return total // world_size()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def mean_over_ranks(values: dict[str, float]) -> dict[str, float]:
    """Return the mean of each value over all processes, from a single collective."""
    local = torch.tensor(list(values.values()), dtype=torch.float64, device=device())
    means = sum_over_ranks(local) / world_size()
    return dict(zip(values, means.tolist(), strict=True))


def max_over_ranks(tensor: Tensor) -> Tensor:
    """Take the elementwise maximum of a tensor over all processes, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def largest_over_ranks(value: float) -> float:
    """Return the largest of the values that the processes pass."""
    return max_over_ranks(torch.tensor(value, dtype=torch.float64, device=device())).item()


def from_main(item: Item) -> Item:
    """Broadcast the item of the main process to every process."""
    if world_size() == 1:
        return item

    items = [item]
    dist.broadcast_object_list(items, src=0)
    return items[0]


def computed_by_main(compute: Callable[[], Item]) -> Item:
    """Return in every process what a function returns in the main process, the only one to call it.

    Args:
        compute: Function without arguments. What it returns is pickled.
    """
    return cast(Item, from_main(compute() if is_main() else None))


def gather_over_ranks(items: list[Item]) -> list[Item]:
    """Return the items of all processes in one list, in the order of the ranks."""
    if world_size() == 1:
        return list(items)

    lists: list[Any] = [None] * world_size()
    dist.all_gather_object(lists, items)
    return [item for rank_items in lists for item in rank_items]


def copy_buffers_from_main(model: nn.Module) -> None:
    """Give every process the buffers of rank 0, such as BatchNorm statistics.

    A checkpoint holds the buffers of rank 0.
    """
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def wait_for_all() -> None:
    """Wait until every process has called this."""
    if world_size() > 1:
        dist.barrier()
