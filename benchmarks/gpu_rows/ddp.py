"""Rows: gradients of DistributedDataParallel with one process for each GPU."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu_rows.relative_error import flatten, relative_error
from benchmarks.gpu_rows.report import Result, verdict
from benchmarks.gpu_rows.train_step import small_batch, small_model
from benchmarks.gpu_rows.workload import Workload
from slowfast.inference.precision import set_up_kernels

TIMEOUT_SECONDS = 90


def check_gradients(workload: Workload) -> Iterator[Result]:
    """Compare the gradients of up to two GPUs, one process each, with those of one process."""
    world_size = min(torch.cuda.device_count(), 2) if workload.is_gpu else 1
    outcomes = _run_processes(workload, world_size=world_size)

    model = small_model(workload).eval()
    frames, labels = _share(0, 1, workload.device)
    F.cross_entropy(model(frames), labels).backward()
    expected = flatten(p.grad for p in model.parameters() if p.grad is not None)

    error = max(relative_error(outcome["gradients"], expected) for outcome in outcomes)
    is_sum_right = all(outcome["sum"] == world_size * (world_size + 1) / 2 for outcome in outcomes)
    num_contexts = max(outcome["num_contexts"] for outcome in outcomes)
    is_right = error <= 1e-3 and is_sum_right and num_contexts <= 1

    backend = "nccl" if workload.is_gpu else "gloo"
    processes = "1 process" if world_size == 1 else f"{world_size} processes"
    measured = (
        f"all_reduce right: {is_sum_right}, relative error of gradients {error:.1e} (limit 1e-3)"
    )
    if workload.is_gpu:
        measured += f", each with memory on {num_contexts} GPU"
    yield Result(f"DDP over {backend}, {processes}, device_id set", measured, verdict(is_right))


def _run_processes(workload: Workload, *, world_size: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world_size, workload, folder)
        context = mp.spawn(_work, args=arguments, nprocs=world_size, join=False)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not context.join(timeout=max(deadline - time.monotonic(), 0)):
            if time.monotonic() < deadline:
                continue
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"{world_size} processes did not finish in {TIMEOUT_SECONDS} s")

        paths = [Path(folder, f"{rank}.pt") for rank in range(world_size)]
        return [torch.load(path, weights_only=True) for path in paths]


def _share(rank: int, world_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    batch = small_batch()
    return batch.frames[rank::world_size].to(device), batch.labels[rank::world_size].to(device)


def _work(rank: int, world_size: int, workload: Workload, folder: str) -> None:
    backend, device = "gloo", workload.device
    if workload.is_gpu:
        backend, device = "nccl", torch.device("cuda", rank)
        torch.cuda.set_device(device)
        set_up_kernels(tf32=False)
    dist.init_process_group(
        backend,
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world_size,
        device_id=device if workload.is_gpu else None,
        timeout=timedelta(seconds=TIMEOUT_SECONDS),
    )
    dist.barrier()
    total = torch.tensor([rank + 1.0], device=device)
    dist.all_reduce(total)

    # In training mode, the BatchNorm of a share would differ from that of the batch.
    model = small_model(replace(workload, device=device)).eval()
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    frames, labels = _share(rank, world_size, device)
    F.cross_entropy(parallel(frames), labels).backward()

    num_gpus = torch.cuda.device_count() if workload.is_gpu else 0
    outcome = {
        "gradients": flatten(p.grad for p in model.parameters() if p.grad is not None),
        "sum": float(total),
        "num_contexts": sum(_has_context(index) for index in range(num_gpus)),
    }
    torch.save(outcome, Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def _has_context(gpu_index: int) -> bool:
    """Return whether the driver counts a context of this process on a GPU."""
    return torch._C._cuda_hasPrimaryContext(gpu_index)  # type: ignore[attr-defined]
