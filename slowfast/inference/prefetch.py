"""Prefetching: copying batches to the GPU while it still computes on the previous ones."""

from collections.abc import Iterable, Iterator
from functools import cache

import torch

from slowfast.datasets.records import Batch


def on_device(
    steps: Iterable[tuple[Batch, ...]], device: torch.device
) -> Iterator[tuple[Batch, ...]]:
    """Iterate over steps whose frames and labels are on a device. A CPU gets the steps as they are.

    The host runs ahead of a GPU and asks for the next step while the GPU computes. Copies use their
    own stream, beside the computation. They do not make the host wait if batches are in page-locked
    memory. Nothing is fetched before it is asked for, so no batch is lost if the steps end early.
    """
    if device.type != "cuda":
        yield from steps
        return

    copying = copy_stream(device)
    for micro_batches in steps:
        with torch.cuda.stream(copying):
            copied = tuple(_copied(batch, device) for batch in micro_batches)

        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for batch in copied:
            for tensor in (batch.frames, batch.labels):
                tensor.record_stream(computing)  # keeps the memory until the step is done
        yield copied


def batches_on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Iterate over batches on a device, see `on_device`."""
    for (batch,) in on_device(((batch,) for batch in batches), device):
        yield batch


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that copies batches to a device, one per device and process.

    The allocator keeps freed memory for the stream that allocated it. A second stream could not
    reuse what the first one freed.
    """
    return torch.cuda.Stream(device)


def _copied(batch: Batch, device: torch.device) -> Batch:
    return batch._replace(
        frames=batch.frames.to(device, non_blocking=True),
        labels=batch.labels.to(device, non_blocking=True),
    )
