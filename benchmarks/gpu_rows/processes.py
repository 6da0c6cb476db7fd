"""Rows: training with DistributedDataParallel, one process for each GPU."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu_rows.numbers import flat, relative_error
from benchmarks.gpu_rows.report import Result, verdict
from benchmarks.gpu_rows.setup import Setup
from benchmarks.gpu_rows.steps import small_batch, small_model
from slowfast.engine.precision import set_up_kernels

SECONDS = 90


def distributed(setup: Setup) -> Iterator[Result]:
    """Start a process for each of up to two GPUs, and compare their gradients with those of one process alone."""
    world_size = min(torch.cuda.device_count(), 2) if setup.is_gpu else 1
    backend = "nccl" if setup.is_gpu else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(_work, args=(world_size, setup, folder), nprocs=world_size, join=False)
        deadline = time.monotonic() + SECONDS
        while not context.join(timeout=max(deadline - time.monotonic(), 0)):
            if time.monotonic() >= deadline:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f"{world_size} processes were not done after {SECONDS} s")
        outcomes = [
            torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(world_size)
        ]

    model = small_model(setup).eval()
    frames, labels = _share(0, 1, setup.device)
    F.cross_entropy(model(frames), labels).backward()
    expected = flat(p.grad for p in model.parameters() if p.grad is not None)
    error = max(relative_error(outcome["gradients"], expected) for outcome in outcomes)
    summed = all(outcome["sum"] == world_size * (world_size + 1) / 2 for outcome in outcomes)
    contexts = max(outcome["contexts"] for outcome in outcomes)
    is_right = error <= 1e-3 and summed and contexts <= 1
    on_cards = f", each with memory on {contexts} GPU" if setup.is_gpu else ""
    measured = f"all_reduce right: {summed}, relative error of gradients {error:.1e} (limit 1e-3){on_cards}"
    plural = "process" if world_size == 1 else "processes"
    yield Result(
        f"DDP over {backend}, {world_size} {plural}, device_id set", measured, verdict(is_right)
    )


def _share(rank: int, world_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    batch = small_batch()
    return batch.frames[rank::world_size].to(device), batch.label[rank::world_size].to(device)


def _work(rank: int, world_size: int, setup: Setup, folder: str) -> None:
    backend, device = "gloo", setup.device
    if setup.is_gpu:
        backend, device = "nccl", torch.device("cuda", rank)
        torch.cuda.set_device(device)
        set_up_kernels(tf32=False)
    dist.init_process_group(
        backend,
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world_size,
        device_id=device if setup.is_gpu else None,
        timeout=timedelta(seconds=SECONDS),
    )
    dist.barrier()
    total = torch.tensor([rank + 1.0], device=device)
    dist.all_reduce(total)

    model = small_model(replace(setup, device=device)).eval()  # BatchNorm of a share would differ.
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    frames, labels = _share(rank, world_size, device)
    F.cross_entropy(parallel(frames), labels).backward()
    outcome = {
        "gradients": flat(p.grad for p in model.parameters() if p.grad is not None),
        "sum": float(total),
        "contexts": sum(_has_memory_on(number) for number in range(torch.cuda.device_count()))
        if setup.is_gpu
        else 0,
    }
    torch.save(outcome, Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def _has_memory_on(number: int) -> bool:
    """Whether this process has a context on a GPU, as the driver counts it."""
    return torch._C._cuda_hasPrimaryContext(number)  # type: ignore[attr-defined]
