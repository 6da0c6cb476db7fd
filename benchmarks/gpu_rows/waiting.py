"""Rows: whether a training step waits, strands memory or keeps a core of the host busy."""

import time
from collections import deque
from collections.abc import Iterator, Sequence

import torch

from benchmarks.gpu_rows.report import MEASURED, Result, verdict
from benchmarks.gpu_rows.setup import Setup
from benchmarks.gpu_rows.tracing import overlap, record
from benchmarks.gpu_rows.training import Training, host_batches
from slowfast.datasets.records import Batch
from slowfast.engine.prefetch import on_device

NUM_EPOCHS = 5
NUM_STEPS = 4  # Of an epoch.
MIB = 2**20


def reserved_memory(setup: Setup) -> Iterator[Result]:
    """Train for some epochs with prefetching; the memory that the allocator holds stays the same after the second."""
    num_clips = setup.clips["S"]
    training = Training(setup, setup.model("S"), amp=torch.bfloat16, ema_decay=0.999, mixes=True)
    reserved = []
    for _ in range(NUM_EPOCHS):
        for batches in on_device(host_batches(setup, num_clips, count=NUM_STEPS), setup.device):
            training.step(*batches)
        training.settle()
        reserved.append(torch.cuda.memory_reserved(setup.device))
    growth = max(reserved[2:]) - reserved[1]
    half_a_batch = setup.frames(num_clips).nbytes // 2
    measured = (
        f"MiB reserved after each epoch: {', '.join(f'{count // MIB}' for count in reserved)} "
        f"(limit: half a batch, {half_a_batch // MIB} MiB, more than after the second)"
    )
    yield Result(
        f"memory over {NUM_EPOCHS} epochs with prefetching",
        measured,
        verdict(growth <= half_a_batch),
    )


def no_synchronization(setup: Setup) -> Iterator[Result]:
    """Take steps while torch raises an error at each call that waits for the GPU."""
    num_clips = max(setup.clips["S"] // 8, 1)
    variants = {
        "bf16, EMA, MixUp": {"amp": torch.bfloat16, "ema_decay": 0.999, "mixes": True},
        "bf16, 2 micro-batches": {"amp": torch.bfloat16, "micro_batches": 2},
        "fp16, EMA, MixUp": {"amp": torch.float16, "ema_decay": 0.999, "mixes": True},
        "fp32": {},
        "bf16, SOLVER.FUSED False": {"amp": torch.bfloat16, "fused": False},
        "bf16, sgd": {"amp": torch.bfloat16, "optimizer": "sgd"},
    }
    for name, options in variants.items():
        training = Training(setup, setup.model("S"), **options)  # type: ignore[arg-type]
        num_batches = training.run.num_parts
        batches = list(host_batches(setup, num_clips, count=4 * num_batches, uint8=True))
        steps = [
            tuple(b for (b,) in batches[at : at + num_batches])
            for at in range(0, len(batches), num_batches)
        ]
        for parts in steps:
            training.step(*parts)
        training.settle()
        result = _without_waiting(setup, training, steps, name)
        # Their optimizers ask the host whether the step is skipped.
        is_expected = "FUSED False" in name or "sgd" in name
        yield result._replace(verdict=MEASURED) if is_expected else result
        del training
        torch.cuda.empty_cache()


def _without_waiting(
    setup: Setup, training: Training, steps: Sequence[tuple[Batch, ...]], name: str
) -> Result:
    title = f"no call in a step waits for the GPU, {name}"
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for parts in on_device(steps, setup.device):
            training.step(*parts)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return Result(title, _place(error), verdict(False))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    training.settle()
    return Result(title, f"{len(steps)} steps under set_sync_debug_mode('error')", verdict(True))


def _place(error: RuntimeError) -> str:
    """The last line of the package that an error comes from."""
    place, traceback = "", error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if "slowfast" in code.co_filename:
            place = f"{code.co_filename.rpartition('slowfast/')[2]}, line {traceback.tb_lineno}, in {code.co_name}"
        traceback = traceback.tb_next
    return f"waits in {place or 'torch'}"


def prefetch_overlaps(setup: Setup) -> Iterator[Result]:
    """Record some steps with prefetching: the copies of frames run beside kernels of the step before."""
    num_clips = setup.clips["S"]
    training = Training(setup, setup.model("S"), amp=torch.bfloat16)
    batches = list(host_batches(setup, num_clips, count=6))

    def work() -> None:
        for parts in on_device(batches, setup.device):
            training.step(*parts)

    work()
    activities = record(work)
    kernels = [activity for activity in activities if not activity.is_copy]
    copies = [
        activity
        for activity in activities
        if activity.is_copy and activity.end - activity.start > 100
    ]
    copies.sort(key=lambda copy: copy.start)
    share = overlap(copies[1:], kernels)  # The first batch has no step before it.
    milliseconds = sum(copy.end - copy.start for copy in copies) / 1000
    measured = (
        f"{len(copies)} copies of batches, {milliseconds:.1f} ms together, {share:.0%} of them beside kernels on "
        "another stream (limit 25%: less than all where the host is slower than the GPU)"
    )
    yield Result("prefetching copies while the GPU computes", measured, verdict(share >= 0.25))


def host_time(setup: Setup) -> Iterator[Result]:
    """Measure how long the host computes per second of training."""
    training = Training(setup, setup.model("S"), amp=torch.bfloat16)
    batches = list(host_batches(setup, setup.clips["S"], count=4))
    num_rounds = 6 if setup.is_gpu else 1
    for parts in on_device(batches, setup.device):
        training.step(*parts)
    training.settle()

    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(num_rounds):
        deque((training.step(*parts) for parts in on_device(batches, setup.device)), maxlen=0)
    training.settle()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    num_steps = num_rounds * len(batches)
    measured = f"{cpu / wall:.2f} CPU seconds per second, {wall / num_steps * 1000:.0f} ms per step"
    yield Result(f"work of the host, UniFormer-S, {setup.clips['S']} clips, bf16", measured)
