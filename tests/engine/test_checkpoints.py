"""Checkpoints of a run: other runs, full disks and small disks."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simplejson

from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path, list_checkpoints

Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]
Finish = Callable[..., Path]
Start = Callable[..., tuple[int, str]]


def test_checkpoints_of_other_runs_are_left_alone(start: Start, finish: Finish) -> None:
    other, run = finish(folder="other", RNG_SEED=1), finish()
    foreign = checkpoint_path(str(run), epoch=7)
    shutil.copy(checkpoint_path(str(other), epoch=1), foreign)
    settings: dict[str, Any] = {
        "SOLVER__MAX_EPOCH": 3,
        "TRAIN__RESUME_WITH_CHANGES": True,
        "TRAIN__KEEP_LAST": 2,
    }
    status, printed = start(**settings, TEST__ENABLE=True)
    assert status == 0
    assert "ignoring 1 checkpoint of other runs" in printed
    assert foreign.exists()
    result = simplejson.loads((run / "test/metrics.json").read_text())
    assert result["weights"].endswith("epoch_00003.pyth")


def test_a_full_disk_stops_a_run_and_spares_old_checkpoints(start: Start, finish: Finish) -> None:
    run = finish()
    [checkpoint] = list_checkpoints(str(run))
    # The kernel refuses a file that grows too large in the same way as a write to a full disk.
    largest_file = checkpoint.stat().st_size // 2
    longer = {"SOLVER__MAX_EPOCH": 2, "TRAIN__RESUME_WITH_CHANGES": True}
    status, printed = start(**longer, largest_file=largest_file)

    assert status == 1
    assert "checkpoint_epoch_00002.pyth: the checkpoint cannot be written" in printed
    assert "Older ones are whole" in printed
    assert list_checkpoints(str(run)) == [checkpoint]
    assert load_checkpoint(checkpoint)["epoch"] == 1
    assert not list(run.rglob("*.unfinished"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_too_small_for_the_checkpoints_is_found_first(start: Start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path / "run")]
    if subprocess.run(command).returncode:
        pytest.skip("this root may not mount a disk")

    try:
        status, printed = start(SOLVER__MAX_EPOCH=50, TRAIN__REHEARSE=True)
        assert status == 1
        message = printed.splitlines()[-1]
        assert "MB free, but this run will keep 54 checkpoints of " in message
        assert "TRAIN.KEEP_LAST (now 0, 0 keeps all)" in message
        assert "rehears" not in printed
        assert start(SOLVER__MAX_EPOCH=2, TRAIN__KEEP_LAST=1)[0] == 0
    finally:
        subprocess.run(["umount", tmp_path / "run"], check=True)
