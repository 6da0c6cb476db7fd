"""NCCL: each process names its GPU."""

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from slowfast.distributed import launch
from slowfast.distributed.launchers import RankInfo


def test_nccl_gets_the_gpu_of_each_process(monkeypatch: pytest.MonkeyPatch, on_gpu: None) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **given: options.update(given))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    store = dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=9)
    )
    ranks = RankInfo(
        rank=0,
        world_size=1,
        local_rank=2,
        local_world_size=1,
        store_address=f"tcp://127.0.0.1:{store.port}",
    )

    work = launch.Work(lambda: 0, (), backend="nccl", timeout=9.0)
    assert launch.run_rank(work, ranks, store=store) == 0
    assert options["device_id"] == torch.device("cuda", 2)
