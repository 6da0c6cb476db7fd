"""Network test: an all-reduce over all processes that is verified and timed before the run."""

import logging
import time

import torch

from slowfast.distributed.collectives import (
    device,
    gather_over_ranks,
    rank,
    sum_over_ranks,
    wait_for_all,
    world_size,
)
from slowfast.utils.provenance import host_name
from slowfast.utils.text import count

logger = logging.getLogger(__name__)

_NUM_VALUES = 1 << 22  # float32 values of the all-reduce: 16 MiB
_NUM_REPEATS = 3


def check_network() -> None:
    """Log which ranks run where, verify an all-reduce, and log its speed.

    A process alone has no network, so this returns at once.

    Raises:
        RuntimeError: If a sum is wrong.
    """
    if world_size() == 1:
        return

    hosts = gather_over_ranks([host_name()])
    logger.info("%s", describe_hosts(hosts))

    values = torch.empty(_NUM_VALUES, device=device())
    seconds = []
    for _ in range(_NUM_REPEATS):
        values.fill_(rank() + 1)
        wait_for_all()

        start = time.perf_counter()
        sum_over_ranks(values)
        is_right = bool((values == world_size() * (world_size() + 1) // 2).all())  # syncs a GPU
        seconds.append(time.perf_counter() - start)

        if not is_right:
            raise RuntimeError(
                f"{describe_hosts(hosts)}: an all-reduce returns wrong sums on rank {rank()}. "
                "Check the network, the drivers and the versions of NCCL on all machines"
            )

    _log_speed(min(seconds))


def _log_speed(seconds: float) -> None:
    num_bytes = 4 * _NUM_VALUES
    sent_gigabytes = 2 * (world_size() - 1) / world_size() * num_bytes / 1e9  # of a ring
    logger.info(
        "all-reduce of %d MiB: right sums, %.1f ms, %.2f GB/s per process",
        num_bytes >> 20,
        1e3 * seconds,
        sent_gigabytes / seconds,
    )


def describe_hosts(hosts: list[str]) -> str:
    """Return which ranks run on which machines, in one line.

    Args:
        hosts: Host of each rank.
    """
    host_ranks: dict[str, list[int]] = {}
    for number, host in enumerate(hosts):
        host_ranks.setdefault(host, []).append(number)

    machines = [f"{host} ({_describe_ranks(ranks)})" for host, ranks in host_ranks.items()]
    num_processes = count(len(hosts), "process")
    num_machines = count(len(host_ranks), "machine")
    return f"{num_processes} on {num_machines}: {', '.join(machines)}"


def _describe_ranks(ranks: list[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}-{ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"
