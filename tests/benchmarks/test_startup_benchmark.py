"""The benchmark of a start: real commands of two checkouts, stopped after their first step."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def test_two_checkouts_are_compared_phase_by_phase(
    repository: Path, motion_folder: Path, tiny_settings: Callable[..., list[str]]
) -> None:
    opts = tiny_settings(TRAIN__REHEARSE=True, LOG_PERIOD=1)
    output_dir = opts.index("OUTPUT_DIR")
    del opts[output_dir : output_dir + 2]
    command = [sys.executable, str(repository / "benchmarks/startup.py"), str(motion_folder)]
    command += ["--against", str(repository), "--runs", "1", *opts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

    head, *rows = done.stdout.splitlines()
    assert head.endswith("wall ratio  CPU ratio")
    names = ["import torch alone", "imports, config, lists, model", "rehearsal", "first step"]
    assert [re.split(r"\s{2,}", row)[0] for row in rows] == names
    for column in (-10, -8, -6, -4):  # minima and medians of this checkout and the other one
        seconds = [float(row.split()[column]) for row in rows[1:]]
        assert 0 < seconds[0] < seconds[1] < seconds[2]


def test_a_training_without_a_first_step_is_an_error(repository: Path, motion_folder: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks/startup.py"), str(motion_folder)]
    command += ["--runs", "1", "MODEL.MODEL_NAME", "Unifomer"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "MODEL.MODEL_NAME is 'Unifomer'" in done.stderr
