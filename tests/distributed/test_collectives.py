"""Reductions over real processes, and in a process alone."""

from pathlib import Path

import pytest
import torch

from slowfast.distributed.launch import launch
from tests.distributed.jobs import share_five, write_reductions

ALONE = ["0 1 1.0 0.0 0.0 5.0 cpu True [0]"]
TWO = ["0 2 3.0 0.5 5.0 5.0 cpu True [0, 1, 1]", "1 2 3.0 0.5 5.0 5.0 cpu False [0, 1, 1]"]


def read_reductions(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.iterdir())]


def test_no_process_is_started_for_one_cpu_process(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    assert launch(write_reductions, str(tmp_path), num_processes=0) == 0
    torch.set_num_threads(threads)
    assert read_reductions(tmp_path) == ALONE


def test_spawned_processes_combine_their_numbers(tmp_path: Path) -> None:
    assert launch(write_reductions, str(tmp_path), num_processes=2, backend="gloo") == 0
    assert read_reductions(tmp_path) == TWO


def test_a_batch_that_processes_cannot_share_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(share_five, str(tmp_path), num_processes=2, backend="gloo") == 1
    message = "TRAIN.BATCH_SIZE makes 5 over all machines, which 2 processes cannot share equally"
    assert message in capfd.readouterr().err
