"""Batches on their way to the device while it is still at work on the ones before."""

from collections.abc import Iterable, Iterator
from functools import cache

import torch

from slowfast.datasets.records import Batch


def on_device(
    steps: Iterable[tuple[Batch, ...]], device: torch.device
) -> Iterator[tuple[Batch, ...]]:
    """Iterate over steps, the frames and labels of their batches on a device; on a CPU, over the steps as they are.

    The host runs ahead of a GPU: it asks for the next step while the GPU computes. The copies go over a stream of their
    own, beside the computation, and nothing is fetched before it is asked for, so that no batch is lost where the steps
    end early. No copy makes the host wait if the batches lie in page-locked memory.
    """
    if device.type != "cuda":
        yield from steps
        return
    copying = copy_stream(device)
    for parts in steps:
        with torch.cuda.stream(copying):
            moved = tuple(_moved(batch, device) for batch in parts)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for batch in moved:
            for tensor in (batch.frames, batch.label):
                tensor.record_stream(
                    computing
                )  # so that its memory is not given away before the step is done
        yield moved


def batches_on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Iterate over batches as `on_device` over steps."""
    for (batch,) in on_device(((batch,) for batch in batches), device):
        yield batch


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream over which batches go to a device, one for the whole process.

    The allocator keeps freed memory for the stream that it was taken on. A second stream could not
    use what the first one has left.
    """
    return torch.cuda.Stream(device)


def _moved(batch: Batch, device: torch.device) -> Batch:
    return batch._replace(
        frames=batch.frames.to(device, non_blocking=True),
        label=batch.label.to(device, non_blocking=True),
    )
