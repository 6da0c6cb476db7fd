"""Jobs that lose a machine: they end with its name, and the next start goes on from the newest checkpoint."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast.engine.run_folder import read_record
from slowfast.utils.checkpoint import load_checkpoint, newest_checkpoint
from tests.slurm.cluster import EPOCHS, Cluster, assert_same_end, job_in, wait_until

pytestmark = pytest.mark.slurm

StartCluster = Callable[[str], Cluster]


@pytest.mark.parametrize("kind", ["loopback", "netns"])
def test_a_machine_that_is_lost_is_named_and_the_run_goes_on(
    kind: str, start_cluster: StartCluster, settings: list[str], quiet: Path, tmp_path: Path
) -> None:
    cluster, run = start_cluster(kind), tmp_path / "run"
    lost = cluster.hosts[1]
    arguments = [*settings, "TRAIN.CHECKPOINT_MINUTES", "0.05"]
    submitted = cluster.submit(*arguments, output=run, pace="1.5,0.1")
    job = job_in(tmp_path / "jobs")
    wait_until(lambda: newest_checkpoint(str(run)))
    cluster.kill_node(lost)
    ends = re.compile(rf"rank 1 on {lost} stopped without a word|[Nn]ode failure on {lost}")
    wait_until(lambda: ends.search(job.log_path(0, "err").read_text()), seconds=60)
    wait_until(lambda: cluster.state(job) in ("PENDING", "FAILED"), seconds=60)
    cluster.start_node(lost)
    status, output, errors = submitted.end()
    if (
        status
    ):  # Slurm has put the job back into the queue, or has given it up: it depends on who is faster
        status, output, errors = cluster.submit(
            *arguments, output=run, job_dir=tmp_path / "second"
        ).end()
    assert status == 0, output + errors
    assert "resuming at epoch" in output
    assert_same_end(run, quiet)


def test_a_requeue_onto_another_node_takes_over_the_folder(
    start_cluster: StartCluster, settings: list[str], tmp_path: Path
) -> None:
    cluster, run = start_cluster("netns"), tmp_path / "run"
    # The nodes are on one machine here: by this name, their processes cannot see each other.
    other_host = "export SLOWFAST_HOST=$SLURMD_NODENAME"
    arguments = [
        *settings,
        "TRAIN.CHECKPOINT_MINUTES",
        "0.05",
        "TRAIN.AUTO_RESUME",
        "False",
        "--slurm_setup",
        other_host,
    ]
    submitted = cluster.submit(*arguments, output=run, pace="1.5,0.1", num_nodes=1)
    job = job_in(tmp_path / "jobs")
    wait_until(lambda: newest_checkpoint(str(run)))
    (before,) = job.statuses()
    cluster.kill_node(before["host"])  # its lock stays, and is seconds old
    status, output, errors = submitted.end()
    cluster.start_node(before["host"])
    assert status == 0, output + errors
    (after,) = job.statuses()
    assert after["host"] != before["host"]
    assert "training.lock: took over from a training of process" in output
    assert "an earlier start of this job" in output
    assert "resuming at epoch" in output
    assert load_checkpoint(str(newest_checkpoint(str(run))))["epoch"] == EPOCHS
    record = read_record(str(run))
    assert record is not None
    assert len(record.starts) == 2
