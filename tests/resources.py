"""What this process holds: memory, descriptors and threads."""

import contextlib
import gc
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple


class Resources(NamedTuple):
    """Resident memory of this process in bytes, and its open descriptors and threads by name."""

    memory: int
    held: Counter[str]


def resources() -> Resources:
    held: Counter[str] = Counter()
    for entry in [*Path("/proc/self/fd").iterdir(), *Path("/proc/self/task").iterdir()]:
        with contextlib.suppress(OSError):  # it has ended since
            held[
                os.readlink(entry)
                if entry.is_symlink()
                else f"thread {(entry / 'comm').read_text().strip()}"
            ] += 1
    status = Path("/proc/self/status").read_text()
    memory = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024
    return Resources(memory, held)


def left_since(before: Resources) -> Counter[str]:
    """Descriptors and threads that there were not before; queues that were closed get a moment to end their threads."""
    deadline = time.monotonic() + 10
    while True:
        gc.collect()
        left = resources().held - before.held
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)
