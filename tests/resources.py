"""Resources of this process: memory, descriptors and threads."""

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
    """Return the resources that this process holds now."""
    held: Counter[str] = Counter()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # It was closed meanwhile.
            held[os.readlink(descriptor)] += 1
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            held[f"thread {(task / 'comm').read_text().strip()}"] += 1

    status = Path("/proc/self/status").read_text()
    memory = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024
    return Resources(memory, held)


def left_since(before: Resources) -> Counter[str]:
    """Return new descriptors and threads. Closed queues get time to end their threads."""
    deadline = time.monotonic() + 10
    while True:
        gc.collect()
        left = resources().held - before.held
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)
