"""Shared memory through which loader workers hand batches to the main process."""

import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

SHARED_MEMORY = "/dev/shm"  # the only location that torch uses


def allocate(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an uninitialized tensor for a batch.

    A loader worker allocates it in shared memory, so handing it over does not copy it.
    """
    if get_worker_info() is None:
        # numpy allocates large arrays in huge pages, where the system supports them.
        memory = np.empty(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
        return torch.from_numpy(memory).view(dtype).view(shape)

    storage = torch.UntypedStorage._new_shared(dtype.itemsize * math.prod(shape))
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


def to_tensor(values: Sequence[int]) -> Tensor:
    """Return integers as an int64 tensor for a batch, shape (len(values),)."""
    tensor = torch.tensor(values, dtype=torch.int64)
    if get_worker_info() is not None:
        # Share it here. If memory runs out later, torch prints the error instead of raising it.
        tensor.share_memory_()
    return tensor


def total_bytes() -> int:
    """Return the size of the shared memory of this machine."""
    status = os.statvfs(SHARED_MEMORY)
    return status.f_blocks * status.f_frsize


def free_bytes() -> int:
    """Return the free bytes in the shared memory of this machine."""
    status = os.statvfs(SHARED_MEMORY)
    return status.f_bavail * status.f_frsize


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether torch reports full shared memory, or a bus error from writing to it."""
    while error is not None:
        message = str(error)
        if "shared memory" in message and "No space left on device" in message:
            return True
        if "killed by signal: Bus error" in message:
            return True
        error = error.__cause__  # torch may report a death again, without the signal
    return False
