"""The Markdown table of benchmarks/model.py, rewritten after each line."""

import math
import os
import platform
import sys
import time
from pathlib import Path

import torch

from benchmarks.cpu_rows.measurement import Line
from benchmarks.cpu_rows.peak_memory import GIB
from benchmarks.cpu_rows.workload import bf16_instructions

COLUMNS = (
    "row",
    "model",
    "fastest",
    "median",
    "CPU time",
    "over plain",
    "frames/s",
    "multiply-adds",
    "of peak",
    "memory",
)


class Table:
    """Lines so far.

    Args:
        heading: Sentence about the machine.
        path: File to write the table to after each line. None for no file.
    """

    def __init__(self, heading: str, *, path: Path | None) -> None:
        self.lines: list[Line] = []
        self._heading = heading
        self._path = path
        self._started = time.monotonic()

    @property
    def has_failed(self) -> bool:
        """Whether a row raised an error."""
        return any(line.has_failed for line in self.lines)

    def add(self, line: Line) -> None:
        """Add a line, print it to stderr and rewrite the file."""
        self.lines.append(line)
        seconds = time.monotonic() - self._started
        print(f"[{seconds:5.0f} s] {' | '.join(_cells(line))}", file=sys.stderr, flush=True)
        if self._path is not None:
            self._path.write_text(self.markdown())

    def markdown(self) -> str:
        """Return the table in Markdown."""
        rows = [COLUMNS, ["---"] * len(COLUMNS), *map(_cells, self.lines)]
        return "\n".join([self._heading, "", *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _cells(line: Line) -> list[str]:
    if line.times is None:
        reason = line.reason.replace("|", "\\|").replace("\n", " ")
        return [line.row, line.variant, reason, *[""] * (len(COLUMNS) - 3)]
    seconds = (line.times.fastest, line.times.median, line.times.least_cpu)
    return [
        line.row,
        line.variant,
        *(f"{value:.4g} s" for value in seconds),
        "" if math.isnan(line.ratio) else f"{line.ratio:.3f}",
        f"{line.frames_per_second:.4g}",
        f"{line.multiply_adds / 1e9:.4g} G",
        f"{line.peak_share:.0%}",
        f"{line.memory / GIB:.2f} GiB",
    ]


def describe_machine() -> str:
    """Return the CPU and the version of torch, as the heading of a table."""
    bf16 = " and ".join(bf16_instructions()) or "none"
    return (
        f"{_cpu_name()}, {os.cpu_count()} cores, torch {torch.__version__}, kernels for "
        f"{torch.backends.cpu.get_cpu_capability()}, instructions for bf16: {bf16}."
    )


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
