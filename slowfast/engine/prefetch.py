"""Batches on their way to the device while it is still at work on the step before."""

from collections.abc import Iterable, Iterator

import torch

from slowfast.datasets.records import Batch


def on_device(steps: Iterable[tuple[Batch, ...]], device: torch.device) -> Iterator[tuple[Batch, ...]]:
    """Iterate over steps, the frames and labels of their batches on a device; on a CPU, over the steps as they are.

    The host runs ahead of a GPU: it asks for the next step while the GPU computes. The copies go over a stream of their
    own, beside the computation, and nothing is fetched before it is asked for, so that no batch is lost where the steps
    end early.
    """
    if device.type != "cuda":
        yield from steps
        return
    copying = torch.cuda.Stream(device)
    for parts in steps:
        with torch.cuda.stream(copying):
            moved = tuple(_moved(batch, device) for batch in parts)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for batch in moved:
            for tensor in (batch.frames, batch.label):
                tensor.record_stream(computing)  # so that its memory is not given away before the step is done
        yield moved


def _moved(batch: Batch, device: torch.device) -> Batch:
    return batch._replace(
        frames=batch.frames.to(device, non_blocking=True), label=batch.label.to(device, non_blocking=True)
    )
