"""The folder of a run: which run is set aside, who may use it, and the files it never touches."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simplejson

from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job import current_job
from slowfast.engine.run_folder import set_aside
from slowfast.runs.run_record import read_record, write_record
from tests.engine.outputs import epochs_in

Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]

Finish = Callable[..., Path]
Start = Callable[..., tuple[int, str]]


def read_run_id(run: Path) -> str:
    return simplejson.loads((run / "run.json").read_text())["run_id"]


def test_a_new_run_sets_the_old_one_aside(start: Start, finish: Finish) -> None:
    run = finish(SOLVER__MAX_EPOCH=3)
    old_log = (run / "stdout.log").read_text()
    settings = {"SOLVER__MAX_EPOCH": 2, "TRAIN__KEEP_LAST": 1, "TEST__ENABLE": True}
    status, printed = start(TRAIN__AUTO_RESUME=False, **settings)
    assert status == 0
    assert "holds another run, which is set aside" in printed

    # The new run keeps, finds and tests its own checkpoints, although the old run has higher ones.
    assert epochs_in(run) == [2, 1]
    result = simplejson.loads((run / "test/metrics.json").read_text())
    assert result["weights"].endswith("run/checkpoints/checkpoint_epoch_00002.pyth")
    [old] = (run / "previous_runs").iterdir()
    assert epochs_in(old) == [3, 2, 1]
    assert (old / "stdout.log").read_text() == old_log
    assert read_run_id(old) == old.name
    validation = simplejson.loads((run / "validation.json").read_text())
    assert [record["epoch"] for record in validation["validations"]] == [2]
    assert validation["run_by"]["command"] == result["run_by"]["command"]


def test_setting_aside_is_continued_after_a_kill(start: Start, finish: Finish) -> None:
    run = finish()
    record = read_record(str(run))
    assert record is not None

    # A kill between two renames leaves an announced move and one moved output.
    aside = run / "previous_runs" / record.run_id
    aside.mkdir(parents=True)
    write_record(str(run), record._replace(goes_aside_to=record.run_id))
    (run / "config.yaml").rename(aside / "config.yaml")

    status, printed = start()
    assert status == 0
    assert "set aside" in printed
    assert epochs_in(run) == [1]
    names = {path.name for path in aside.iterdir()}
    assert {"checkpoints", "config.yaml", "run.json", "stdout.log"} <= names


def test_weights_within_the_run_that_would_move_are_refused(start: Start, finish: Finish) -> None:
    run = finish()
    best = run / "best.pyth"
    status, printed = start(TRAIN__CHECKPOINT_FILE_PATH=best, TRAIN__AUTO_RESUME=False)
    assert status == 1
    assert f"{best} belongs to the run in {run}, which would be set aside" in printed
    assert best.exists()

    # A file of the user stays where it is.
    own = shutil.copy(best, run / "mine.pyth")
    status, printed = start(TRAIN__CHECKPOINT_FILE_PATH=own, TRAIN__AUTO_RESUME=False)
    assert status == 0, printed


@pytest.mark.parametrize("purpose", ["training", "test"])
def test_a_folder_that_is_in_use_is_refused_with_its_holder(
    start: Start, finish: Finish, purpose: str
) -> None:
    run = finish()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with FolderLock(run / f"{purpose}.lock", purpose=purpose, job=current_job()):
        error = f"error: {run}: a {purpose} of process {os.getpid()} on host "
        status, printed = start(TRAIN__ENABLE=purpose == "training", TEST__ENABLE=purpose == "test")
        assert (status, error in printed.splitlines()[-1]) == (1, True), printed

        if purpose == "training":  # A test beside a training is allowed.
            assert start(TRAIN__ENABLE=False, TEST__ENABLE=True)[0] == 0
        else:  # A new run does not move the folder of a test.
            status, printed = start(TRAIN__AUTO_RESUME=False)
            assert (status, error in printed.splitlines()[-1]) == (1, True), printed

    changed = {path.name for path, mtime in before.items() if path.stat().st_mtime_ns != mtime}
    assert changed <= {"stdout.log"}
    assert not list(run.glob("*.lock"))


def test_a_shared_tensorboard_folder_keeps_the_runs_apart(start: Start, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "TENSORBOARD__ENABLE": True,
        "TENSORBOARD__LOG_DIR": tmp_path / "curves",
    }
    run_ids = []
    for auto_resume in (True, False):
        assert start(TRAIN__AUTO_RESUME=auto_resume, **settings)[0] == 0
        record = read_record(str(tmp_path / "run"))
        assert record is not None
        run_ids.append(record.run_id)
    assert len(set(run_ids)) == 2
    for run_id in run_ids:
        assert len(list((tmp_path / "curves" / run_id).glob("events.out.tfevents.*"))) == 1
    assert {path.name for path in (tmp_path / "curves").iterdir()} == set(run_ids)


def test_a_run_that_was_set_aside_can_be_used_where_it_is(
    start: Start, finish: Finish, tmp_path: Path
) -> None:
    old = set_aside(str(finish()))
    status, printed = start(folder=f"run/previous_runs/{old.name}")
    assert (status, "is finished" in printed) == (0, True)

    # The user brings it back, and it is set aside again. It never meets the rest of the first time.
    again = tmp_path / "again"
    shutil.copytree(old, again)
    shutil.copytree(old, again / "previous_runs" / old.name)
    assert start(folder="again", TRAIN__AUTO_RESUME=False)[0] == 0
    assert len(list((again / "previous_runs").iterdir())) == 2


def test_folders_of_a_user_are_never_moved(start: Start, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("test", "checkpoints", "tensorboard", "skipped_steps"):
        (run / name).mkdir(parents=True)
        (run / name / "video.mp4").touch()
    assert start(TRAIN__AUTO_RESUME=False)[0] == 0
    assert len(list(run.rglob("video.mp4"))) == 4
    assert not (run / "previous_runs").exists()


def test_set_aside_names_a_folder_for_files_of_no_known_run(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test/test.json").write_text("{}")
    (tmp_path / "previous_tests/001").mkdir(parents=True)
    (tmp_path / "previous_tests/001/test.json").write_text("{}")
    (tmp_path / "mine.txt").touch()
    folder = set_aside(str(tmp_path))
    assert folder.name.startswith("unknown-")
    assert (folder / "test/test.json").exists()
    assert (folder / "previous_tests/001/test.json").exists()
    assert (tmp_path / "mine.txt").exists()


def test_an_impossible_output_folder_is_named_at_once(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, printed = start(folder="file/run")
    assert status == 1
    assert f"OUTPUT_DIR is '{tmp_path}/file/run', but {tmp_path}/file is a file" in printed
