"""The benchmark of the gradients of depthwise convolutions: its table."""

import subprocess
import sys
from pathlib import Path


def test_ratios_are_those_of_the_times(repository: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks/depthwise.py"), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "|" in line][2:]
    assert len(rows) == 7
    for _, theirs, ours, ratio in rows:
        assert abs(float(theirs) / float(ours) - float(ratio)) < 0.1
    for column in (1, 2):
        *times, total = (float(row[column]) for row in rows)
        assert abs(sum(times) - total) < 0.05
