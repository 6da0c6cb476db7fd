"""The store of a job on ports that other programs use, too."""

import socket

import torch.distributed as dist

from slowfast.distributed.launchers import RankInfo
from slowfast.distributed.store import candidate_ports, open_store


def test_taken_ports_are_passed_over() -> None:
    ranks = RankInfo(
        rank=0,
        world_size=2,
        local_rank=0,
        local_world_size=2,
        store_address="job://127.0.0.1/my.job",
    )
    first, second, third = candidate_ports("my.job")[:3]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", first))
        silent.listen()
        other = dist.TCPStore("127.0.0.1", second, is_master=True, wait_for_workers=False)
        other.set("job", "another job")

        store = open_store(ranks, timeout=30)
        store.set("from", "rank 0")
        assert isinstance(store, dist.TCPStore)
        assert store.port == third
        assert open_store(ranks._replace(rank=1), timeout=30).get("from") == b"rank 0"
