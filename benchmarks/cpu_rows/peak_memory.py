"""Peak memory of work in a process of its own, and what a training step will need."""

import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.cpu_rows.workload import (
    NUM_CLASSES,
    SMALL,
    Row,
    Sizes,
    TrainingStep,
    build,
    make_work,
    shape_of,
)
from slowfast.engine.recompute import kept_tensors
from slowfast.models.uniformer import UniFormer

GIB = 2**30
STATUS, MEMORY = Path("/proc/self/status"), Path("/proc/meminfo")
STEP_MARGIN = 1.2  # A step needs more than what it keeps: outputs, gradients, buffers of kernels.
BYTES_PER_WEIGHT = 16  # The weight, its gradient and two moments in float32.


class Memory(NamedTuple):
    """Growth of a process in bytes.

    Attributes:
        before: Growth from before the model was built until before the work.
        peak: Growth from before the model was built to the peak of the work.
    """

    before: int
    peak: int


def run_alone(function: Callable[..., Any], *arguments: object) -> Any:
    """Return the result of a function of a module in a new process.

    Raises:
        MemoryError: If the process was killed, which the kernel does if memory runs out.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise MemoryError("its process was killed, probably because memory ran out") from None


def measure_memory(variant: str, row: Row, sizes: Sizes) -> Memory:
    """Return the memory of the work of a row. Call it in a new process."""
    torch.set_num_threads(row.num_threads)
    start = resident_bytes_with_kernels()
    work = make_work(variant, row, sizes)
    return measure_growth(work, start=start)


def measure_growth(work: Callable[[], None], *, start: int) -> Memory:
    """Run work once and return by how much this process has grown.

    Args:
        work: Function to run.
        start: Resident bytes of this process before it built the model.
    """
    if isinstance(work, TrainingStep):
        work.allocate_moments()
    _reset_peak()
    before = resident_bytes()
    work()
    return Memory(before - start, _peak_bytes() - start)


def resident_bytes_with_kernels() -> int:
    """Return the bytes of RAM that this process takes once a tiny step has loaded all kernels."""
    model = UniFormer(num_classes=NUM_CLASSES, **SMALL.models["S"])
    TrainingStep(model, shape=(2, 3, 4, 64, 64), amp=None)()
    return resident_bytes()


def resident_bytes() -> int:
    """Return the bytes of RAM that this process takes."""
    return _read(STATUS, "VmRSS") if STATUS.exists() else _peak_bytes()


def _reset_peak() -> None:
    """Let the kernel forget the peak of this process so far, where it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # The peak is then that of the whole life of the process.


def _peak_bytes() -> int:
    if STATUS.exists():
        return _read(STATUS, "VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _read(path: Path, field: str) -> int:
    """Return the bytes of a field of a file in /proc."""
    line = next(line for line in path.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def available_bytes() -> float:
    """Return the bytes of RAM that a new process may take, infinite where nothing tells."""
    return _read(MEMORY, "MemAvailable") if MEMORY.exists() else float("inf")


def find_memory_problem(variant: str, row: Row, sizes: Sizes) -> str:
    """Return that a training step needs more memory than is available, or nothing."""
    model = build(variant, row, sizes)
    kept = kept_bytes(model, shape=shape_of(variant, row, sizes), amp=row.amp)
    weights = BYTES_PER_WEIGHT * sum(parameter.numel() for parameter in model.parameters())
    needed, available = STEP_MARGIN * kept + weights, available_bytes()
    if needed <= available:
        return ""
    return f"needs about {needed / GIB:.1f} GiB of memory, and {available / GIB:.1f} are available"


def kept_bytes(model: nn.Module, *, shape: tuple[int, ...], amp: torch.dtype | None) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without computing it.

    Unlike `slowfast.engine.recompute.activation_bytes`, it takes any model.

    Args:
        model: Model on the CPU.
        shape: Shape (B, C, T, H, W) of the frames.
        amp: Autocast dtype, or None for float32.
    """
    return sum(kept_by_module(model, (), shape=shape, amp=amp))


def kept_by_module(
    model: nn.Module, starts: Sequence[str], *, shape: tuple[int, ...], amp: torch.dtype | None
) -> list[int]:
    """Return the bytes that parts of a forward pass keep, without computing it.

    Args:
        model: Model on the CPU.
        starts: Names of the modules with which a part begins, in order. The first part begins with
            the forward pass.
        shape: Shape (B, C, T, H, W) of the frames.
        amp: Autocast dtype, or None for float32.
    """
    model.train()
    with FakeTensorMode() as fake:
        state: dict[str, Tensor] = {
            name: fake.from_tensor(tensor)
            for name, tensor in model.state_dict(keep_vars=True).items()
        }
        with kept_tensors() as kept, torch.autocast("cpu", amp, enabled=amp is not None):
            ends: list[int] = []
            hooks = [
                model.get_submodule(name).register_forward_pre_hook(
                    lambda *_: ends.append(len(kept))
                )
                for name in starts[1:]
            ]
            torch.func.functional_call(model, state, torch.empty(shape))
    for hook in hooks:
        hook.remove()

    seen = {tensor.untyped_storage()._cdata for tensor in state.values()}
    parts = []
    for start, end in pairwise([0, *ends, len(kept)]):
        storages = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in kept[start:end]
        }
        parts.append(sum(storages[key].nbytes() for key in storages.keys() - seen))
        seen |= storages.keys()
    return parts
