"""Jobs that a scheduler or a user interrupts: they resume and end with the same weights."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast.distributed.submitted_job import SubmittedJob
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import newest_checkpoint
from tests.slurm.cluster import (
    EPOCHS,
    INSTEAD,
    QUICKSTART,
    REPOSITORY,
    Cluster,
    assert_same_end,
    job_in,
    losses_in,
    wait_until,
)

pytestmark = pytest.mark.slurm

StartCluster = Callable[[str], Cluster]


def wait_for_a_step(folder: Path) -> None:
    """Wait until the run in a folder has taken some more steps."""
    before = len(losses_in(folder))
    wait_until(lambda: len(losses_in(folder)) > before + 1)


def wait_for_starts(job: SubmittedJob, starts: list[int]) -> None:
    """Wait until the tasks of a job have been started so many times."""
    wait_until(lambda: [task.starts for task in job.statuses()] == starts)


def copy_repository(folder: Path) -> Path:
    """Copy the source and the experiment, for edits."""
    for name in ("slowfast", "tools"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(QUICKSTART, folder)
    return folder


def break_source(source: Path) -> None:
    for path in (
        source / "slowfast/__init__.py",
        source / "slowfast/distributed/submitted_task.py",
        source / "tools/run_net.py",
    ):
        path.write_text("raise SystemExit('edited after the submission')\n")
    (source / QUICKSTART.name).write_text("NONSENSE: 1\n")


@pytest.mark.parametrize("kind", ["loopback", "netns", *INSTEAD])
def test_interruptions_and_edits_of_the_source_change_nothing(
    kind: str, start_cluster: StartCluster, settings: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    cluster, run = start_cluster(kind), tmp_path / "run"
    source = copy_repository(tmp_path / "source")
    # Without AUTO_RESUME, only later starts of the same job resume.
    arguments = [*settings, "--cfg", str(source / QUICKSTART.name), "TRAIN.AUTO_RESUME", "False"]
    if kind == "loopback":  # Slurm sends the signal after 30 to 60 s.
        arguments += ["--timeout", "2", "--signal_delay", "60"]
    pace = {"local": "0.2", "loopback": "2,0.1", "netns": "1,1,0.1"}[kind]
    submitted = cluster.submit(*arguments, output=run, source=source, pace=pace)
    job = job_in(tmp_path / "jobs")

    wait_for_a_step(run)
    break_source(source)
    if kind == "local":
        cluster.interrupt(job)
    if kind == "netns":
        urgent = ("--partition=urgent", "--nodes=2", "--exclusive", "--wait", "--wrap=true")
        cluster.ask("sbatch", *urgent)
        wait_for_starts(job, [2, 2])
        wait_for_a_step(run)
        cluster.ask("scontrol", "requeue", job.job_id)  # As an administrator does.

    status, output, errors = submitted.end()
    assert status == 0, output + errors

    num_starts = 3 if kind == "netns" else 2
    assert [(task.starts, task.status) for task in job.statuses()] == [(num_starts, 0)] * 2
    assert f"restart {num_starts - 1}" in output
    assert output.count("goes back to the queue after 1 start") == 1
    signal_name = "SIGTERM" if kind == "netns" else "SIGUSR2"
    assert f"stopped by {signal_name}" in output
    assert len(set(losses_in(run))) == len(losses_in(uninterrupted))
    assert_same_end(run, uninterrupted)


def test_a_time_limit_before_any_checkpoint_ends_the_job(
    start_cluster: StartCluster,
    settings: list[str],
    uninterrupted: Path,
    tmp_path: Path,
    serve: Callable[..., list[int]],
) -> None:
    cluster, run = start_cluster("local"), tmp_path / "run"
    submitted = cluster.submit(*settings, output=run, pace="0.5")
    job = job_in(tmp_path / "jobs")
    for start, has_time in enumerate([False, True, False, False], start=1):
        wait_for_starts(job, [start, start])
        wait_until(lambda: len(cluster.find_commands(job)) == 2)
        if has_time:
            wait_for_a_step(run)
        cluster.interrupt(job)

    status, output, errors = submitted.end()
    assert status == 1
    assert output.count("goes back to the queue") == 3
    assert "the time limit ended 2 starts in a row before they had saved a checkpoint" in errors
    assert "Submit it again with a longer --timeout" in errors
    assert_the_run_resumes(run, settings, uninterrupted, serve)


def test_a_canceled_job_leaves_whole_checkpoints(
    start_cluster: StartCluster,
    settings: list[str],
    uninterrupted: Path,
    tmp_path: Path,
    serve: Callable[..., list[int]],
) -> None:
    cluster, run = start_cluster("loopback"), tmp_path / "run"
    submitted = cluster.submit(*settings, output=run, pace="0.5")
    job = job_in(tmp_path / "jobs")
    wait_for_a_step(run)
    cluster.ask("scancel", job.job_id)
    assert submitted.end()[0] != 0
    assert cluster.state(job) == "CANCELLED"
    assert_the_run_resumes(run, settings, uninterrupted, serve)


def assert_the_run_resumes(
    run: Path, settings: list[str], uninterrupted: Path, serve: Callable[..., list[int]]
) -> None:
    """Check that the newest checkpoint lies within the run, and resume it on this machine."""
    state = load_checkpoint(str(newest_checkpoint(str(run))))
    assert (0, 0) < (state["epoch"], state["step"]) < (EPOCHS, 0)
    here = [*settings, "NUM_GPUS", "2", "TRAIN.BATCH_SIZE", "2", "OUTPUT_DIR", str(run)]
    assert serve(here, num_processes=2) == [0, 0]
    assert_same_end(run, uninterrupted)
