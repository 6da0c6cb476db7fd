"""How much memory a process has taken, and what to do when there is no more."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fvcore.common.config import CfgNode

from slowfast.utils.distributed import device, rank


class OutOfMemoryError(OSError):
    """A device has not enough memory for a step."""


def peak_memory() -> float:
    """Return the most memory that this process has had, in GiB: of its GPU, or of the machine where there is none."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


@contextmanager
def explained_out_of_memory(cfg: CfgNode) -> Iterator[None]:
    """Turn errors of allocation within into one that names the settings that help.

    Raises:
        OutOfMemoryError: with the measured peak.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_about_memory(error):
            raise
        raise OutOfMemoryError(
            f"rank {rank()} on {device()} is out of memory, its peak was {peak_memory():.1f} GiB. What helps: "
            f"MODEL.USE_CHECKPOINT True with higher MODEL.CHECKPOINT_NUM (now {cfg.MODEL.CHECKPOINT_NUM}), "
            f"higher SOLVER.ACCUM_STEPS (now {cfg.SOLVER.ACCUM_STEPS}; the same step in smaller parts), "
            f"a smaller TRAIN.BATCH_SIZE (now {cfg.TRAIN.BATCH_SIZE}; with SOLVER.BASE_LR in proportion)"
        ) from error


def _is_about_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
