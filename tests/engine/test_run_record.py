"""The record of a run: its job, its starts, and how a lost one is restored."""

from collections.abc import Callable
from pathlib import Path

import simplejson
import torch

from slowfast.utils.checkpoint_files import checkpoint_path

Finish = Callable[..., Path]
Start = Callable[..., tuple[int, str]]


def test_a_restart_of_a_job_resumes_its_own_run(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "run/run.json"
    job = {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "0"}
    assert start(TRAIN__AUTO_RESUME=False, environment=job)[0] == 0
    first = simplejson.loads(path.read_text())

    restart = job | {"SLURM_RESTART_COUNT": "1"}
    status, printed = start(TRAIN__AUTO_RESUME=False, environment=restart)
    assert status == 0
    assert "is finished: it has 1 epoch" in printed
    second = simplejson.loads(path.read_text())
    assert second["run_id"] == first["run_id"]
    assert len(second["starts"]) == 2

    # The same allocation without a restart begins another run.
    assert start(TRAIN__AUTO_RESUME=False, environment=restart)[0] == 0
    assert simplejson.loads(path.read_text())["run_id"] != first["run_id"]


def test_a_lost_or_damaged_record_is_restored(start: Start, finish: Finish) -> None:
    path = finish() / "run.json"
    run_id = simplejson.loads(path.read_text())["run_id"]
    path.unlink()
    for damage in (None, "", "{", "[]", '{"run_id": 3}'):
        if damage is not None:
            path.write_text(damage)
        status, printed = start()
        assert (status, "is finished" in printed) == (0, True), printed
        assert simplejson.loads(path.read_text())["run_id"] == run_id


def test_checkpoints_of_no_known_run_are_refused(start: Start, finish: Finish) -> None:
    run = finish()
    (run / "run.json").unlink()
    torch.save({"model_state": {}}, checkpoint_path(str(run), epoch=1))
    status, printed = start()
    assert status == 1
    assert "holds 1 checkpoint, but none of them names its run" in printed
    assert start(TRAIN__AUTO_RESUME=False)[0] == 0


def test_results_and_records_tell_which_code_ran(
    start: Start, tmp_path: Path, repository: Path
) -> None:
    status, printed = start(TEST__ENABLE=True)
    assert status == 0
    assert f" in {repository}/slowfast; python " in printed.splitlines()[0]
    result = simplejson.loads((tmp_path / "run/test/metrics.json").read_text())
    assert result["run_by"]["path"] == f"{repository}/slowfast"
    record = simplejson.loads((tmp_path / "run/run.json").read_text())
    assert record["starts"][0]["path"] == f"{repository}/slowfast"
