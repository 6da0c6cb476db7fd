"""Jobs for tests of `launch`, in a module that the started processes can import."""

import os
import signal
import time
from pathlib import Path

import torch

from slowfast.distributed import collectives
from slowfast.distributed.network_test import check_network
from slowfast.utils.progress import log_to_file, start_logging


def write_ranks(folder: str) -> int:
    rank, world_size = collectives.rank(), collectives.world_size()
    total = collectives.sum_over_ranks(torch.tensor([rank + 1.0]))
    Path(folder, str(rank)).write_text(f"{rank} {world_size} {total.item()}")
    return 0


def write_reductions(folder: str) -> int:
    rank, world_size = collectives.rank(), collectives.world_size()
    total = collectives.sum_over_ranks(torch.tensor([rank + 1.0])).item()
    means = collectives.mean_over_ranks({"a": rank, "b": 10.0 * rank})

    model = batch_norm_with_mean(rank + 5)
    collectives.copy_buffers_from_main(model)
    buffer = float(model.running_mean)  # type: ignore[arg-type]

    gathered = collectives.gather_over_ranks([rank] * (rank + 1))
    facts = f"{rank} {world_size} {total} {means['a']} {means['b']} {buffer}"
    facts += f" {collectives.device()} {collectives.is_main()} {gathered}"
    Path(folder, str(rank)).write_text(facts)
    return 0


def batch_norm_with_mean(mean: float) -> torch.nn.Module:
    model = torch.nn.BatchNorm1d(1)
    model.running_mean.fill_(mean)  # type: ignore[union-attr]
    return model


def share_five(folder: str) -> int:
    return collectives.share_of(5, key="TRAIN.BATCH_SIZE")


def log_network(folder: str) -> int:
    start_logging(is_main=collectives.is_main())
    log_to_file(Path(folder, "stdout.log"))
    check_network()
    return 3


def fail_in_rank_1(folder: str) -> int:
    if collectives.rank() == 1:
        raise ValueError("broken on purpose")
    collectives.wait_for_all()
    return 0


def fail_while_rank_0_sleeps(folder: str) -> int:
    if collectives.rank() == 1:
        raise ValueError("broken on purpose")
    time.sleep(100)
    return 0


def fail_at_the_first_start(folder: str) -> int:
    if collectives.rank() == 1 and not Path(folder, "failed").exists():
        Path(folder, "failed").write_text("failed once")
        raise ValueError("broken on purpose")
    return write_ranks(folder)


def die_in_rank_1(folder: str) -> int:
    if collectives.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    collectives.wait_for_all()
    return 0


def wait_to_be_ended(folder: str) -> int:
    collectives.wait_for_all()
    Path(folder, f"ready {collectives.rank()}").touch()
    time.sleep(100)
    return 0
