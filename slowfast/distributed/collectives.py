"""How the processes of a job combine their numbers. How they start: launch.py; how they find each other: meeting.py."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Item = TypeVar("Item")

_on_gpu = False  # set once, by use_device


def rank() -> int:
    """Return the number of this process among all, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes of the job."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files and the progress of the job."""
    return rank() == 0


def use_device(local_rank: int, *, on_gpu: bool) -> None:
    """Choose the device of this process: the GPU with the number `local_rank`, or the only one that it is given."""
    global _on_gpu
    _on_gpu = on_gpu
    if on_gpu:
        torch.cuda.set_device(local_rank if torch.cuda.device_count() > 1 else 0)


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
    total = sum_over_ranks(
        torch.tensor(list(values.values()), dtype=torch.float64, device=device())
    )
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
