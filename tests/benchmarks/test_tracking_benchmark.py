"""benchmarks/tracking.py: a training with trackers beside one without."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.soak
def test_variants_are_compared_with_a_training_without(
    motion_folder: Path, repository: Path
) -> None:
    command = [sys.executable, str(repository / "benchmarks/tracking.py"), str(motion_folder)]
    options = ["--runs", "1", "--epochs", "2", "--only", "scalars", "trackers"]
    run = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    head, *lines = run.stdout.splitlines()
    assert head.startswith("variant")
    cells = {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in lines}
    assert [*cells] == ["none", "scalars", "trackers"]
    assert cells["none"][2] == cells["none"][4] == 1
    assert cells["trackers"][3] > cells["none"][3]  # importing them alone takes seconds
