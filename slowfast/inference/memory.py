"""Memory: the peak of a process, and out-of-memory errors that name the settings that help."""

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from slowfast.distributed.collectives import device, rank

# Messages of torch, CUDA, Triton, NCCL, cuBLAS and cuDNN, and of the allocator on a CPU.
_OUT_OF_MEMORY = re.compile(
    r"\bout of memory\b|_ALLOC_FAILED|_ALLOCATION_FAILED|Failed to CUDA \w*alloc"
    r"|can't allocate memory",
    re.IGNORECASE,
)


class OutOfMemoryError(OSError):
    """The device does not have enough memory."""


def peak_memory() -> float:
    """Return the peak memory of this process in GiB, on its GPU or else in RAM."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def peak_reserved() -> float:
    """Return the peak GPU memory in GiB that torch reserved, in use or not. It is 0 on a CPU."""
    return torch.cuda.max_memory_reserved() / 2**30 if device().type == "cuda" else 0.0


@contextmanager
def explained_out_of_memory(remedies: str) -> Iterator[None]:
    """Turn allocation errors in the block into an error that names the settings that help.

    Args:
        remedies: Settings to change, for the message.

    Raises:
        OutOfMemoryError: If an allocation fails. The message has the measured peak.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_about_memory(error):
            raise
        raise OutOfMemoryError(
            f"rank {rank()} on {device()} is out of memory, its peak was {_peaks()}. "
            f"What helps: {remedies}"
        ) from error


def _peaks() -> str:
    reserved = f" ({peak_reserved():.1f} GiB reserved)" if device().type == "cuda" else ""
    return f"{peak_memory():.1f} GiB{reserved}"


def _is_about_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))
