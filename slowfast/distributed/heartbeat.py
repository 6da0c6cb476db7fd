"""Heartbeats: counters in the store that show which ranks are alive."""

import time
from collections.abc import Sequence

import torch.distributed as dist


def create_heartbeats(store: dist.Store, *, world_size: int) -> None:
    """Create the counter of every rank.

    `count_heartbeats` waits for counters that do not exist, so one process, rank 0, creates them
    all before any other process reads them.
    """
    for rank in range(world_size):
        store.add(_key(rank), 0)


def send_heartbeat(store: dist.Store, *, rank: int) -> None:
    """Increment the counter of a rank."""
    store.add(_key(rank), 1)


def count_heartbeats(store: dist.Store, *, world_size: int) -> list[int]:
    """Return the number of heartbeats of each rank with a single request to the store."""
    return [int(value) for value in store.multi_get([_key(rank) for rank in range(world_size)])]


class SilenceDetector:
    """Finds ranks that stop sending heartbeats, including ranks that never send one.

    Args:
        world_size: Number of ranks.
        silent_seconds: Seconds without a heartbeat after which a rank counts as silent.
    """

    def __init__(self, *, world_size: int, silent_seconds: float) -> None:
        self._silent_seconds = silent_seconds
        self._counts = [0] * world_size
        self._changed_at = [time.monotonic()] * world_size

    def update(self, counts: Sequence[int]) -> list[int]:
        """Return the silent ranks.

        Args:
            counts: Current number of heartbeats of each rank.
        """
        now = time.monotonic()
        for rank, num_heartbeats in enumerate(counts):
            if num_heartbeats != self._counts[rank]:
                self._counts[rank] = num_heartbeats
                self._changed_at[rank] = now

        oldest = now - self._silent_seconds
        return [rank for rank, changed in enumerate(self._changed_at) if changed < oldest]


def _key(rank: int) -> str:
    return f"heartbeat/{rank}"
