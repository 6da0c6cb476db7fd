"""How much memory a process has taken, and what to do when there is no more."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from slowfast.distributed.collectives import device, rank

# Messages of a GPU (torch, CUDA, Triton, NCCL), of cuBLAS and cuDNN, of NCCL's own allocations, and of a CPU.
_OUT_OF_MEMORY = re.compile(
    r"\bout of memory\b|_ALLOC_FAILED|_ALLOCATION_FAILED|Failed to CUDA \w*alloc|can't allocate memory",
    re.IGNORECASE,
)


class OutOfMemoryError(OSError):
    """A device has not enough memory for a step."""


def peak_memory() -> float:
    """Return the most memory that this process has had, in GiB: of its GPU, or of the machine where there is none."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def peak_reserved() -> float:
    """Return the most memory of its GPU that this process has kept from others, in use or not, in GiB; 0 on a CPU."""
    return torch.cuda.max_memory_reserved() / 2**30 if device().type == "cuda" else 0.0


@contextmanager
def explained_out_of_memory(remedies: str) -> Iterator[None]:
    """Turn errors of allocation within into one that names the settings that help.

    Args:
        remedies: What helps, for the message.

    Raises:
        OutOfMemoryError: with the measured peak.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_about_memory(error):
            raise
        raise OutOfMemoryError(
            f"rank {rank()} on {device()} is out of memory, its peak was {_peaks()}. What helps: {remedies}"
        ) from error


def _peaks() -> str:
    reserved = f" ({peak_reserved():.1f} GiB reserved)" if device().type == "cuda" else ""
    return f"{peak_memory():.1f} GiB{reserved}"


def _is_about_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))
