"""Heartbeats in a real store, with a rank that never sends one."""

import time
from datetime import timedelta

import torch.distributed as dist

from slowfast.distributed.heartbeat import (
    SilenceDetector,
    count_heartbeats,
    create_heartbeats,
    send_heartbeat,
)


def open_store() -> dist.Store:
    limit = timedelta(seconds=5)  # A counter that does not exist fails the test after this.
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=limit)


def test_a_rank_that_never_beats_holds_up_no_count() -> None:
    store = open_store()
    create_heartbeats(store, world_size=3)
    for rank in (0, 2, 2):
        send_heartbeat(store, rank=rank)
    assert count_heartbeats(store, world_size=3) == [1, 0, 2]


def test_creating_the_counters_again_keeps_the_counts() -> None:
    store = dist.PrefixStore("attempt0", open_store())
    send_heartbeat(store, rank=1)
    create_heartbeats(store, world_size=2)
    assert count_heartbeats(store, world_size=2) == [0, 1]


def test_ranks_without_a_heartbeat_are_silent() -> None:
    store = open_store()
    create_heartbeats(store, world_size=3)
    send_heartbeat(store, rank=1)
    detector = SilenceDetector(world_size=3, silent_seconds=0.3)
    assert detector.update(count_heartbeats(store, world_size=3)) == []

    # Rank 1 stops, and rank 2 never starts.
    deadline = time.monotonic() + 0.4
    while time.monotonic() < deadline:
        send_heartbeat(store, rank=0)
        silent = detector.update(count_heartbeats(store, world_size=3))
        time.sleep(0.01)
    assert silent == [1, 2]

    send_heartbeat(store, rank=2)
    assert detector.update(count_heartbeats(store, world_size=3)) == [1]
