"""Two runs in one folder: which one is resumed, refused or set aside, and that nothing is ever mixed."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import simplejson
import torch

from slowfast.distributed.folder_lock import FolderLock
from slowfast.distributed.job import current_job
from slowfast.engine.run_folder import read_record, set_aside
from slowfast.utils.checkpoint import checkpoint_path, checkpoints_of, load_checkpoint

Serve = Callable[..., list[int]]


@pytest.fixture
def start(
    serve: Serve, arguments: Callable[..., list[str]], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Run an experiment of 4 steps an epoch in the folder `run`; returns its status and what it printed."""

    def run(*, environment: dict[str, str] | None = None, **settings: Any) -> tuple[int, str]:
        said = tmp_path / "said"
        said.unlink(missing_ok=True)
        defaults: dict[str, Any] = {
            "TRAIN__BATCH_SIZE": 8,
            "SOLVER__MAX_EPOCH": 1,
            "DATA_LOADER__NUM_WORKERS": 0,
        }
        folder = settings.pop("folder", "run")
        command = arguments(folder, 1, **(defaults | settings))
        (status,) = serve(command, num_processes=1, output=said, environment=environment)
        return status, said.read_text()

    return run


Start = Callable[..., tuple[int, str]]


def epochs_in(folder: Path) -> list[int]:
    return [load_checkpoint(path)["epoch"] for path in checkpoints_of(str(folder))]


def test_a_new_run_sets_the_old_one_aside(start: Start, tmp_path: Path) -> None:
    assert start(SOLVER__MAX_EPOCH=4)[0] == 0
    old_log = (tmp_path / "run/stdout.log").read_text()
    status, said = start(
        TRAIN__AUTO_RESUME=False, SOLVER__MAX_EPOCH=2, TRAIN__KEEP_LAST=1, TEST__ENABLE=True
    )
    assert status == 0
    assert "holds another run, which is set aside" in said
    # It keeps, finds and tests its own checkpoints, although those of the old run have higher numbers.
    assert epochs_in(tmp_path / "run") == [2, 1]
    result = simplejson.loads((tmp_path / "run/test/result.json").read_text())
    assert result["weights"].endswith("run/checkpoints/checkpoint_epoch_00002.pyth")
    (old,) = (tmp_path / "run/previous_runs").iterdir()
    assert epochs_in(old) == [4, 3, 2, 1]
    assert (old / "stdout.log").read_text() == old_log
    assert simplejson.loads((old / "run.json").read_text())["run_id"] == old.name
    validation = simplejson.loads((tmp_path / "run/validation.json").read_text())
    assert [record["epoch"] for record in validation["validations"]] == [2]
    assert validation["run_by"]["command"] == result["run_by"]["command"]


def test_setting_aside_is_continued_after_a_kill(start: Start, tmp_path: Path) -> None:
    assert start()[0] == 0
    run_id = simplejson.loads((tmp_path / "run/run.json").read_text())["run_id"]
    record = read_record(str(tmp_path / "run"))
    assert record is not None
    # As a kill between two renames leaves it: announced, and one of the outputs moved.
    (tmp_path / "run/run.json").write_text(
        json.dumps(record._replace(goes_aside_to=run_id)._asdict())
    )
    (tmp_path / "run/previous_runs" / run_id).mkdir(parents=True)
    os.rename(tmp_path / "run/config.yaml", tmp_path / "run/previous_runs" / run_id / "config.yaml")
    status, said = start()
    assert status == 0
    assert "set aside" in said
    assert epochs_in(tmp_path / "run") == [1]
    aside = tmp_path / "run/previous_runs" / run_id
    assert {"checkpoints", "config.yaml", "run.json", "stdout.log"} <= {
        path.name for path in aside.iterdir()
    }


def test_a_restart_of_a_job_resumes_its_own_run(start: Start, tmp_path: Path) -> None:
    job = {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "0"}
    assert start(TRAIN__AUTO_RESUME=False, environment=job)[0] == 0
    first = simplejson.loads((tmp_path / "run/run.json").read_text())
    status, said = start(TRAIN__AUTO_RESUME=False, environment=job | {"SLURM_RESTART_COUNT": "1"})
    assert status == 0
    assert "is finished: it has 1 epoch" in said
    again = simplejson.loads((tmp_path / "run/run.json").read_text())
    assert again["run_id"] == first["run_id"]
    assert len(again["starts"]) == 2
    # The same allocation, no restart: another run.
    assert start(TRAIN__AUTO_RESUME=False, environment=job | {"SLURM_RESTART_COUNT": "1"})[0] == 0
    assert simplejson.loads((tmp_path / "run/run.json").read_text())["run_id"] != first["run_id"]


def test_other_start_weights_make_another_run(start: Start, tmp_path: Path) -> None:
    assert start(folder="first")[0] == 0
    weights = [tmp_path / f"{name}.pyth" for name in "ab"]
    for number, path in enumerate(weights):
        state = load_checkpoint(checkpoint_path(str(tmp_path / "first"), epoch=1))
        state["model_state"]["head.bias"] += number
        torch.save({"model_state": state["model_state"], "class_names": state["class_names"]}, path)
    assert start(TRAIN__CHECKPOINT_FILE_PATH=weights[0])[0] == 0

    status, said = start(TRAIN__CHECKPOINT_FILE_PATH=weights[1])
    assert status == 1
    assert "holds another run" in said
    assert "sha256 of the weights it started from: " in said

    shutil.move(weights[0], tmp_path / "moved.pyth")
    status, said = start(TRAIN__CHECKPOINT_FILE_PATH=tmp_path / "moved.pyth", SOLVER__MAX_EPOCH=1)
    assert status == 0
    assert (
        f"the weights in {tmp_path}/moved.pyth, which the run started from, are not loaded again"
        in said
    )
    status, said = start(TRAIN__CHECKPOINT_FILE_PATH=weights[0])
    assert status == 0
    assert (
        "the weights that this run started from are not there, and not needed to resume it" in said
    )
    assert "is finished" in said


def test_weights_within_the_run_that_would_move_are_refused(start: Start, tmp_path: Path) -> None:
    assert start()[0] == 0
    best = tmp_path / "run/best.pyth"
    status, said = start(TRAIN__CHECKPOINT_FILE_PATH=best, TRAIN__AUTO_RESUME=False)
    assert status == 1
    assert f"{best} is a file of the run in {tmp_path}/run, which would be set aside" in said
    assert best.exists()
    shutil.copy(best, tmp_path / "run/mine.pyth")  # a file of the user's, which stays where it is
    assert (
        start(TRAIN__CHECKPOINT_FILE_PATH=tmp_path / "run/mine.pyth", TRAIN__AUTO_RESUME=False)[0]
        == 0
    )


def test_a_finished_run_with_fewer_epochs_is_finished(start: Start, tmp_path: Path) -> None:
    assert start(SOLVER__MAX_EPOCH=3)[0] == 0
    status, said = start(SOLVER__MAX_EPOCH=2, TRAIN__RESUME_WITH_CHANGES=True)
    assert status == 0
    assert "is finished: it has 3 epochs, and SOLVER.MAX_EPOCH is 2" in said
    assert epochs_in(tmp_path / "run") == [3, 2, 1]


def test_two_rows_of_a_class_that_change_places_make_another_run(
    start: Start, tmp_path: Path, motion_folder: Path
) -> None:
    lists = [tmp_path / name for name in ("lists", "swapped")]
    for folder in lists:
        folder.mkdir()
        for split in ("train", "val", "test"):
            shutil.copy(motion_folder / f"{split}.csv", folder)
    rows = (lists[1] / "train.csv").read_text().splitlines()
    one, other = [number for number, row in enumerate(rows) if row.endswith(",3")][:2]
    rows[one], rows[other] = rows[other], rows[one]
    (lists[1] / "train.csv").write_text("\n".join(rows) + "\n")

    assert start(DATA__PATH_TO_DATA_DIR=lists[0])[0] == 0
    status, said = start(DATA__PATH_TO_DATA_DIR=lists[1])
    assert status == 1
    assert "checksum of their paths, in order: " in said
    # The same videos elsewhere, with paths written whole, are the same.
    whole = [f"{motion_folder}/{row}" for row in (lists[0] / "train.csv").read_text().splitlines()]
    (lists[0] / "train.csv").write_text("\n".join(whole) + "\n")
    status, said = start(DATA__PATH_TO_DATA_DIR=lists[0])
    assert (status, "is finished" in said) == (0, True)


@pytest.mark.parametrize("name", ["training", "test"])
def test_a_folder_that_is_in_use_is_refused_with_its_holder(
    start: Start, tmp_path: Path, name: str
) -> None:
    assert start()[0] == 0
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()
    }
    with FolderLock(tmp_path / f"run/{name}.lock", purpose=name, job=current_job()):
        status, said = start(TRAIN__ENABLE=name == "training", TEST__ENABLE=name == "test")
        assert status == 1
        assert (
            f"error: {tmp_path}/run: a {name} of process {os.getpid()} on host "
            in said.splitlines()[-1]
        )
        if name == "training":  # a test beside it
            assert start(TRAIN__ENABLE=False, TEST__ENABLE=True)[0] == 0
        else:  # nor is a folder moved away from under a test
            status, said = start(TRAIN__AUTO_RESUME=False)
            assert status == 1
            assert (
                f"error: {tmp_path}/run: a test of process {os.getpid()} on host "
                in said.splitlines()[-1]
            )
    after = {path: path.stat().st_mtime_ns for path in before}
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed <= {"stdout.log"}
    assert not list((tmp_path / "run").glob("*.lock"))


def test_what_decides_about_a_run_is_required_of_a_checkpoint(start: Start, tmp_path: Path) -> None:
    assert start(SOLVER__MAX_EPOCH=2)[0] == 0
    path = checkpoint_path(str(tmp_path / "run"), epoch=2)
    whole = load_checkpoint(path)
    for key in ("step", "counters", "num_parts"):
        torch.save({name: value for name, value in whole.items() if name != key}, path)
        status, said = start(SOLVER__MAX_EPOCH=2)
        assert status == 1
        assert f"{path}: cannot be resumed: it has no {key};" in said
    torch.save(whole | {"format": 99}, path)
    status, said = start(SOLVER__MAX_EPOCH=2)
    assert status == 1
    assert f"{path}: has format 99 of checkpoints, this version reads format 1" in said


def test_a_lost_or_damaged_record_is_made_again(start: Start, tmp_path: Path) -> None:
    assert start()[0] == 0
    path = tmp_path / "run/run.json"
    run_id = simplejson.loads(path.read_text())["run_id"]
    for damage in ("missing", "", "{", "[]", '{"run_id": 3}'):
        path.unlink() if damage == "missing" else path.write_text(damage)
        status, said = start()
        assert (status, "is finished" in said) == (0, True), said
        assert simplejson.loads(path.read_text())["run_id"] == run_id
    # Without a record, and without a checkpoint that says whose it is, nothing is mixed.
    path.unlink()
    torch.save({"model_state": {}}, checkpoint_path(str(tmp_path / "run"), epoch=1))
    status, said = start()
    assert status == 1
    assert "no checkpoint says of which run it is" in said
    assert start(TRAIN__AUTO_RESUME=False)[0] == 0


def test_checkpoints_of_other_runs_are_left_alone(start: Start, tmp_path: Path) -> None:
    assert start(folder="other", RNG_SEED=1)[0] == 0
    assert start()[0] == 0
    foreign = checkpoint_path(str(tmp_path / "run"), epoch=7)
    shutil.copy(checkpoint_path(str(tmp_path / "other"), epoch=1), foreign)
    settings: dict[str, Any] = {
        "SOLVER__MAX_EPOCH": 3,
        "TRAIN__RESUME_WITH_CHANGES": True,
        "TRAIN__KEEP_LAST": 2,
    }
    status, said = start(**settings, TEST__ENABLE=True)
    assert status == 0
    assert "1 checkpoint of other runs, left alone" in said
    assert foreign.exists()
    assert simplejson.loads((tmp_path / "run/test/result.json").read_text())["weights"].endswith(
        "epoch_00003.pyth"
    )


def test_a_folder_or_a_loop_named_like_a_checkpoint_is_passed_over(
    start: Start, tmp_path: Path
) -> None:
    assert start()[0] == 0
    checkpoint_path(str(tmp_path / "run"), epoch=8).mkdir()
    loop = checkpoint_path(str(tmp_path / "run"), epoch=9)
    loop.symlink_to(loop.name)
    status, said = start(SOLVER__MAX_EPOCH=2, TRAIN__RESUME_WITH_CHANGES=True, TEST__ENABLE=True)
    assert status == 0, said
    assert said.count("trying the checkpoint before it") == 2
    assert "resuming at epoch 2, step 1" in said


def test_an_empty_or_lost_validation_record_does_not_stop_a_run(
    start: Start, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"TRAIN__EVAL_PERIOD": 1, "TRAIN__RESUME_WITH_CHANGES": True}
    assert start(SOLVER__MAX_EPOCH=2, **settings)[0] == 0
    path = tmp_path / "run/validation.json"
    first = simplejson.loads(path.read_text())["validations"][0]
    path.write_text("")
    status, said = start(SOLVER__MAX_EPOCH=3, **settings)
    assert status == 0
    assert f"{path}: is empty; the records in the checkpoint are used" in said
    records = simplejson.loads(path.read_text())["validations"]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[0] == first


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


def test_training_stops_early_and_stays_stopped(start: Start, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "SOLVER__MAX_EPOCH": 20,
        "SOLVER__BASE_LR": 1e-12,  # nothing improves
        "SOLVER__COSINE_END_LR": 0,
        "TRAIN__EMA_DECAY": 0,
        "TRAIN__EVAL_PERIOD": 1,
        "TRAIN__EARLY_STOP_PATIENCE": 2,
        "TRAIN__CHECKPOINT_PERIOD": 10,
    }
    status, said = start(**settings)
    assert status == 0
    assert "stopping early after epoch 3: 2 validations without a better top1" in said
    assert epochs_in(tmp_path / "run") == [3]
    assert load_checkpoint(tmp_path / "run/best.pyth")["epoch"] == 1
    status, said = start(**settings)
    assert status == 0
    assert ": train epoch" not in said
    assert epochs_in(tmp_path / "run") == [3]


def test_a_save_after_a_damaged_checkpoint_is_not_pruned(
    start: Start, serve: Serve, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "TRAIN__BATCH_SIZE": 2,
        "SOLVER__MAX_EPOCH": 3,
        "TRAIN__KEEP_LAST": 2,
    }
    settings |= {"TRAIN__EVAL_PERIOD": 3, "DATA_LOADER__NUM_WORKERS": 0}
    command = arguments("run", 1, **settings)
    assert serve(command, num_processes=1) == [0]
    (tmp_path / "run/best.pyth").unlink()
    newest, *_ = checkpoints_of(str(tmp_path / "run"))
    newest.write_bytes(newest.read_bytes()[:1000])
    assert serve(command, num_processes=1, signal="SIGTERM", when="training") == [75]
    assert newest.with_name(f"{newest.name}.damaged").exists()
    saved = checkpoints_of(str(tmp_path / "run"))[0]
    assert (load_checkpoint(saved)["epoch"], load_checkpoint(saved)["step"]) > (2, 0)
    said = tmp_path / "said"
    assert serve(command, num_processes=1, output=said) == [0]
    assert f"from {saved}" in said.read_text()


def test_a_run_that_was_set_aside_can_be_used_where_it_is(start: Start, tmp_path: Path) -> None:
    assert start()[0] == 0
    assert start(TRAIN__AUTO_RESUME=False)[0] == 0
    (old,) = (tmp_path / "run/previous_runs").iterdir()
    status, said = start(folder=f"run/previous_runs/{old.name}")
    assert (status, "is finished" in said) == (0, True)
    # Brought back and set aside again, it never meets what is left of the first time.
    shutil.copytree(old, tmp_path / "again/previous_runs" / old.name)
    for path in old.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / "again" / path.name)
    assert start(folder="again", TRAIN__AUTO_RESUME=False)[0] == 0
    assert len(list((tmp_path / "again/previous_runs").iterdir())) == 2


def test_folders_of_a_user_are_never_moved(start: Start, tmp_path: Path) -> None:
    for name in ("test", "checkpoints", "tensorboard", "skipped_steps"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "video.mp4").touch()
    assert start(TRAIN__AUTO_RESUME=False)[0] == 0
    assert len(list((tmp_path / "run").rglob("video.mp4"))) == 4
    assert not (tmp_path / "run/previous_runs").exists()


def test_a_mistyped_path_of_start_weights_resumes_nothing(start: Start, tmp_path: Path) -> None:
    assert start()[0] == 0
    status, said = start(TRAIN__CHECKPOINT_FILE_PATH=tmp_path / "typo.pth")
    assert status == 1
    assert "typo.pth': no such file of weights" in said


def test_a_run_resumes_from_best_pyth_if_that_is_the_newest(start: Start, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"SOLVER__MAX_EPOCH": 4, "TRAIN__EVAL_PERIOD": 1}
    assert start(folder="quiet", **settings)[0] == 0
    assert start(**settings)[0] == 0
    for path in checkpoints_of(str(tmp_path / "run"))[:-1]:
        path.unlink()
    best = load_checkpoint(tmp_path / "run/best.pyth")
    status, said = start(**settings)
    assert status == 0
    if best["epoch"] > 1:
        assert f"from {tmp_path}/run/best.pyth" in said
    ends = [
        load_checkpoint(checkpoint_path(str(tmp_path / name), epoch=4)) for name in ("quiet", "run")
    ]
    assert ends[0]["validations"] == ends[1]["validations"]
    assert all(
        torch.equal(value, ends[1]["model_state"][name])
        for name, value in ends[0]["model_state"].items()
    )
    bests = [load_checkpoint(tmp_path / name / "best.pyth") for name in ("quiet", "run")]
    assert bests[0]["validation"] == bests[1]["validation"]


def test_set_aside_names_a_folder_for_files_of_no_known_run(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test/result.json").write_text("{}")
    (tmp_path / "mine.txt").touch()
    folder = set_aside(str(tmp_path))
    assert folder.name.startswith("unknown-")
    assert (folder / "test/result.json").exists()
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_too_small_for_the_checkpoints_is_found_first(start: Start, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path / "run"]
    ).returncode:
        pytest.skip("this root may not mount a disk")
    try:
        status, said = start(SOLVER__MAX_EPOCH=50, TRAIN__REHEARSE=True)
        assert status == 1
        assert "MB free, but this run will keep 54 checkpoints of " in said.splitlines()[-1]
        assert "TRAIN.KEEP_LAST (now 0; 0 keeps all)" in said.splitlines()[-1]
        assert "rehears" not in said
        assert start(SOLVER__MAX_EPOCH=2, TRAIN__KEEP_LAST=1)[0] == 0
    finally:
        subprocess.run(["umount", tmp_path / "run"], check=True)


def test_a_run_tells_of_its_first_step_and_how_long_it_will_take(start: Start) -> None:
    status, said = start(
        SOLVER__MAX_EPOCH=2, TRAIN__REHEARSE=True, TEST__ENABLE=True, LOG_PERIOD=100
    )
    assert status == 0
    lines = said.splitlines()
    found = [
        next(number for number, line in enumerate(lines) if text in line)
        for text in (
            "rehearsing training, checkpoint, validation and test on a few videos (TRAIN.REHEARSE False skips it)",
            "rehearsed training",
            "first step done in ",
            "time left for the whole run: about 0:00:",
            "train epoch 1/2  4/4",
        )
    ]
    assert found == sorted(found)
    assert re.search(
        r"about 0:00:\d\d \(6 steps in 0:00:\d\d(, 1 validation in 0:00:\d\d)?, test in 0:00:\d\d\)",
        said,
    )
    assert said.count(": of 95 weights, ") == 1, "the report of weights comes once, before the test"


def test_a_run_of_more_than_a_day_on_a_cpu_says_so(
    serve: Serve, arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    never = 10_000_000
    settings = {
        "SOLVER__MAX_EPOCH": never,
        "TRAIN__EVAL_PERIOD": never,
        "TRAIN__CHECKPOINT_PERIOD": never,
    }
    said = tmp_path / "said"
    command = arguments("run", 1, **settings)
    assert serve(command, num_processes=1, signal="SIGTERM", when=4.0, output=said) == [75]
    assert re.search(r"time left for the whole run: about \d+ days", said.read_text())
    assert "that is longer than a day, on a CPU: use a GPU (NUM_GPUS 1), " in said.read_text()


def test_two_checkouts_and_results_tell_which_code_ran(
    start: Start, tmp_path: Path, repository: Path
) -> None:
    status, said = start(TEST__ENABLE=True)
    assert status == 0
    assert f" in {repository}/slowfast; python " in said.splitlines()[0]
    result = simplejson.loads((tmp_path / "run/test/result.json").read_text())
    assert result["run_by"]["path"] == f"{repository}/slowfast"
    record = simplejson.loads((tmp_path / "run/run.json").read_text())
    assert record["starts"][0]["path"] == f"{repository}/slowfast"
