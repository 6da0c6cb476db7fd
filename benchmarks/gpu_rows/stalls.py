"""Rows: synchronization, memory growth and host time of a training step."""

import time
from collections.abc import Iterator, Sequence

import torch

from benchmarks.gpu_rows.gpu_trace import overlap, record
from benchmarks.gpu_rows.report import MEASURED, Result, verdict
from benchmarks.gpu_rows.synthetic_training import Training, host_batches
from benchmarks.gpu_rows.workload import Workload
from slowfast.datasets.records import Batch
from slowfast.inference.prefetch import on_device

NUM_EPOCHS = 5
NUM_STEPS = 4  # Steps in an epoch.
MIB = 2**20


def check_reserved_memory(workload: Workload) -> Iterator[Result]:
    """Check that the reserved memory of the allocator stops growing after the second epoch."""
    num_clips = workload.clips["S"]
    training = Training(
        workload, workload.model("S"), amp=torch.bfloat16, ema_decay=0.999, mixes=True
    )
    reserved = []
    for _ in range(NUM_EPOCHS):
        for batches in on_device(
            host_batches(workload, num_clips, count=NUM_STEPS), workload.device
        ):
            training.step(*batches)
        training.settle()
        reserved.append(torch.cuda.memory_reserved(workload.device))
    growth = max(reserved[2:]) - reserved[1]
    # The host may run ahead for the first time in any epoch, with the batches of two more steps. A
    # leak of a batch per epoch would be three.
    limit = workload.frames(num_clips).nbytes * 5 // 2
    measured = (
        f"MiB reserved after each epoch: {', '.join(str(size // MIB) for size in reserved)} "
        f"(limit: 2.5 batches, {limit // MIB} MiB, more than after the second)"
    )
    title = f"memory over {NUM_EPOCHS} epochs with prefetching"
    yield Result(title, measured, verdict(growth <= limit))


def check_synchronization(workload: Workload) -> Iterator[Result]:
    """Run steps while torch raises an error at each call that waits for the GPU."""
    num_clips = max(workload.clips["S"] // 8, 1)
    variants = {
        "bf16, EMA, MixUp": {"amp": torch.bfloat16, "ema_decay": 0.999, "mixes": True},
        "bf16, 2 micro-batches": {"amp": torch.bfloat16, "micro_batches": 2},
        "fp16, EMA, MixUp": {"amp": torch.float16, "ema_decay": 0.999, "mixes": True},
        "fp32": {},
        "bf16, SOLVER.FUSED False": {"amp": torch.bfloat16, "fused": False},
        "bf16, sgd": {"amp": torch.bfloat16, "optimizer": "sgd"},
    }
    for name, options in variants.items():
        training = Training(workload, workload.model("S"), **options)  # type: ignore[arg-type]
        size = training.train_state.num_micro_batches
        loaded = host_batches(workload, num_clips, count=4 * size, uint8=True)
        batches = [batch for (batch,) in loaded]
        steps = [tuple(batches[at : at + size]) for at in range(0, len(batches), size)]
        for step in steps:
            training.step(*step)
        training.settle()

        result = _run_without_waiting(workload, training, steps, name)
        if "FUSED False" in name or "sgd" in name:
            # These optimizers ask the host whether the step is skipped, so they do wait.
            result = result._replace(verdict=MEASURED)
        yield result
        del training
        torch.cuda.empty_cache()


def _run_without_waiting(
    workload: Workload, training: Training, steps: Sequence[tuple[Batch, ...]], name: str
) -> Result:
    title = f"no call in a step waits for the GPU, {name}"
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in on_device(steps, workload.device):
            training.step(*step)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return Result(title, _describe_location(error), verdict(False))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    training.settle()
    return Result(title, f"{len(steps)} steps under set_sync_debug_mode('error')", verdict(True))


def _describe_location(error: RuntimeError) -> str:
    """Return the innermost line of the package in the traceback of an error."""
    location, traceback = "torch", error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if "slowfast" in code.co_filename:
            file = code.co_filename.rpartition("slowfast/")[2]
            location = f"{file}, line {traceback.tb_lineno}, in {code.co_name}"
        traceback = traceback.tb_next
    return f"waits in {location}"


def check_prefetch(workload: Workload) -> Iterator[Result]:
    """Check that the copies of frames overlap with kernels of the step before."""
    num_clips = workload.clips["S"]
    training = Training(workload, workload.model("S"), amp=torch.bfloat16)
    batches = list(host_batches(workload, num_clips, count=6))

    def work() -> None:
        for step in on_device(batches, workload.device):
            training.step(*step)

    work()
    activities = record(work)
    kernels = [activity for activity in activities if not activity.is_copy]
    copies = [copy for copy in activities if copy.is_copy and copy.end - copy.start > 100]
    copies.sort(key=lambda copy: copy.start)

    share = overlap(copies[1:], kernels)  # No step runs before the first batch.
    milliseconds = sum(copy.end - copy.start for copy in copies) / 1000
    measured = (
        f"{len(copies)} copies of batches, {milliseconds:.1f} ms in total, {share:.0%} of it "
        "during kernels on another stream (limit 25%, because a host slower than the GPU leaves "
        "gaps)"
    )
    yield Result("prefetching copies while the GPU computes", measured, verdict(share >= 0.25))


def measure_host_time(workload: Workload) -> Iterator[Result]:
    """Measure the CPU time of the host per second of training."""
    training = Training(workload, workload.model("S"), amp=torch.bfloat16)
    batches = list(host_batches(workload, workload.clips["S"], count=4))
    num_rounds = 6 if workload.is_gpu else 1
    for step in on_device(batches, workload.device):
        training.step(*step)
    training.settle()

    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(num_rounds):
        for step in on_device(batches, workload.device):
            training.step(*step)
    training.settle()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall

    num_steps = num_rounds * len(batches)
    measured = f"{cpu / wall:.2f} CPU seconds per second, {wall / num_steps * 1000:.0f} ms per step"
    yield Result(f"host time, UniFormer-S, {workload.clips['S']} clips, bf16", measured)
