"""Jobs that a scheduler, a user or a broken machine ends: they go on, and end in the weights of the quiet run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast.distributed.submission import Job
from slowfast.utils.checkpoint import load_checkpoint, newest_checkpoint
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


def a_step_later(folder: Path) -> None:
    """Return when the run in a folder has taken some more steps."""
    before = len(losses_in(folder))
    wait_until(lambda: len(losses_in(folder)) > before + 1)


def wait_for_starts(job: Job, starts: list[int]) -> None:
    """Return when the tasks of a job have been started so many times."""
    wait_until(lambda: [status["starts"] for status in job.statuses()] == starts)


def copied_source(folder: Path) -> Path:
    """Return a copy of the source and of the experiment, for edits."""
    for name in ("slowfast", "tools"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(QUICKSTART, folder)
    return folder


def edit(source: Path) -> None:
    for path in (
        source / "slowfast/__init__.py",
        source / "slowfast/distributed/submission.py",
        source / "tools/run_net.py",
    ):
        path.write_text("raise SystemExit('edited after the submission')\n")
    (source / QUICKSTART.name).write_text("NONSENSE: 1\n")


@pytest.mark.parametrize("kind", ["loopback", "netns", *INSTEAD])
def test_interruptions_and_edits_of_the_source_change_nothing(
    kind: str, start_cluster: StartCluster, settings: list[str], quiet: Path, tmp_path: Path
) -> None:
    cluster, run, source = start_cluster(kind), tmp_path / "run", copied_source(tmp_path / "source")
    # Without AUTO_RESUME, a new command would begin a new run; a later start of the same job does not.
    arguments = [*settings, "--cfg", str(source / QUICKSTART.name), "TRAIN.AUTO_RESUME", "False"]
    if kind == "loopback":
        arguments += [
            "--timeout",
            "2",
            "--signal_delay",
            "60",
        ]  # which Slurm sends after 30 to 60 s
    pace = {"local": "0.2", "loopback": "2,0.1", "netns": "1,1,0.1"}[kind]
    submitted = cluster.submit(*arguments, output=run, source=source, pace=pace)
    job = job_in(tmp_path / "jobs")
    a_step_later(run)
    edit(source)
    if kind == "local":
        cluster.interrupt(job)
    if kind == "netns":
        cluster.say(
            "sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--wait", "--wrap=true"
        )
        wait_for_starts(job, [2, 2])
        a_step_later(run)
        cluster.say("scontrol", "requeue", job.job_id)  # as an administrator does
    status, output, errors = submitted.end()
    assert status == 0, output + errors
    num_starts = 3 if kind == "netns" else 2
    assert [(fields["starts"], fields["status"]) for fields in job.statuses()] == [
        (num_starts, 0)
    ] * 2
    assert f"restart {num_starts - 1}" in output
    assert output.count("goes back to the queue after 1 start") == 1
    signal_name = "SIGTERM" if kind == "netns" else "SIGUSR2"
    assert f"stopped by {signal_name}" in output
    assert len(set(losses_in(run))) == len(losses_in(quiet))
    assert_same_end(run, quiet)


def test_a_time_limit_that_leaves_no_time_for_a_checkpoint_ends_the_job(
    start_cluster: StartCluster,
    settings: list[str],
    quiet: Path,
    tmp_path: Path,
    serve: Callable[..., list[int]],
) -> None:
    cluster, run = start_cluster("local"), tmp_path / "run"
    submitted = cluster.submit(*settings, output=run, pace="0.5")
    job = job_in(tmp_path / "jobs")
    for start, has_time in enumerate([False, True, False, False], start=1):
        wait_for_starts(job, [start, start])
        wait_until(lambda: len(cluster.commands_of(job)) == 2)
        if has_time:
            a_step_later(run)
        cluster.interrupt(job)
    status, output, errors = submitted.end()
    assert status == 1
    assert output.count("goes back to the queue") == 3
    assert "the time limit ended 2 starts in a row before they had saved a checkpoint" in errors
    assert "submit it again with a longer --timeout" in errors
    assert_whole_and_the_run_goes_on(run, settings, quiet, serve)


def test_a_job_that_is_canceled_leaves_whole_checkpoints(
    start_cluster: StartCluster,
    settings: list[str],
    quiet: Path,
    tmp_path: Path,
    serve: Callable[..., list[int]],
) -> None:
    cluster, run = start_cluster("loopback"), tmp_path / "run"
    submitted = cluster.submit(*settings, output=run, pace="0.5")
    job = job_in(tmp_path / "jobs")
    a_step_later(run)
    cluster.say("scancel", job.job_id)
    assert submitted.end()[0] != 0
    assert cluster.state(job) == "CANCELLED"
    assert_whole_and_the_run_goes_on(run, settings, quiet, serve)


def assert_whole_and_the_run_goes_on(
    run: Path, settings: list[str], quiet: Path, serve: Callable[..., list[int]]
) -> None:
    """The newest checkpoint is whole and lies within the run, which ends on this machine as if nothing had been."""
    state = load_checkpoint(str(newest_checkpoint(str(run))))
    assert (0, 0) < (state["epoch"], state["step"]) < (EPOCHS, 0)
    here = [*settings, "NUM_GPUS", "2", "TRAIN.BATCH_SIZE", "2", "OUTPUT_DIR", str(run)]
    assert serve(here, num_processes=2) == [0, 0]
    assert_same_end(run, quiet)
