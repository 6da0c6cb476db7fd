"""GPU traces from the torch profiler: kernels and copies with their times and streams."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile


class Activity(NamedTuple):
    """One kernel or copy on a GPU, with times in microseconds."""

    name: str
    is_copy: bool  # A copy from the host to the device.
    stream: int
    start: float
    end: float


def record(work: Callable[[], object]) -> list[Activity]:
    """Call a function and return the activities of the GPU."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(errors="replace"))["traceEvents"]

    activities = []
    for event in events:
        kind = event.get("cat")
        is_copy = kind == "gpu_memcpy" and "HtoD" in event["name"]
        if kind == "kernel" or is_copy:
            start, duration = float(event["ts"]), float(event["dur"])
            stream = int(event["args"]["stream"])
            activities.append(Activity(event["name"], is_copy, stream, start, start + duration))
    return activities


def overlap(copies: list[Activity], kernels: list[Activity]) -> float:
    """Return the share of the copy time during which a kernel runs on another stream."""
    total = sum(copy.end - copy.start for copy in copies)
    shared = 0.0
    kernels = sorted(kernels, key=lambda kernel: kernel.start)
    for copy in copies:
        position = copy.start
        for kernel in kernels:
            if kernel.stream == copy.stream or kernel.end <= position:
                continue
            if kernel.start >= copy.end:
                break
            start, end = max(kernel.start, position), min(kernel.end, copy.end)
            shared += max(end - start, 0.0)
            position = max(position, end)
    return shared / total if total else 0.0
