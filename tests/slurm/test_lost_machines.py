"""Jobs that lose a machine: they name it, and the next start resumes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast.engine.run_folder import read_record
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import newest_checkpoint
from tests.slurm.cluster import EPOCHS, Cluster, assert_same_end, job_in, wait_until

pytestmark = pytest.mark.slurm

StartCluster = Callable[[str], Cluster]


@pytest.mark.parametrize("kind", ["loopback", "netns"])
def test_a_lost_machine_is_named_and_the_run_resumes(
    kind: str, start_cluster: StartCluster, settings: list[str], uninterrupted: Path, tmp_path: Path
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
    if status:  # Slurm requeues the job or gives it up, depending on who is faster.
        submitted = cluster.submit(*arguments, output=run, job_dir=tmp_path / "second")
        status, output, errors = submitted.end()
    assert status == 0, output + errors
    assert "resuming at epoch" in output
    assert_same_end(run, uninterrupted)


def test_a_requeue_on_another_node_takes_over_the_folder(
    start_cluster: StartCluster, settings: list[str], tmp_path: Path
) -> None:
    cluster, run = start_cluster("netns"), tmp_path / "run"
    # Both nodes are on this machine. The name keeps their processes from seeing each other.
    other_host = "export SLOWFAST_HOST=$SLURMD_NODENAME"
    arguments = [*settings, "TRAIN.CHECKPOINT_MINUTES", "0.05", "TRAIN.AUTO_RESUME", "False"]
    arguments += ["--slurm_setup", other_host]
    submitted = cluster.submit(*arguments, output=run, pace="1.5,0.1", num_nodes=1)
    job = job_in(tmp_path / "jobs")
    wait_until(lambda: newest_checkpoint(str(run)))

    (before,) = job.statuses()
    cluster.kill_node(before.host)  # Its lock stays and is seconds old.
    status, output, errors = submitted.end()
    cluster.start_node(before.host)
    assert status == 0, output + errors

    (after,) = job.statuses()
    assert after.host != before.host
    assert "training.lock: took over from a training of process" in output
    assert "an earlier start of this job" in output
    assert "resuming at epoch" in output
    assert load_checkpoint(str(newest_checkpoint(str(run))))["epoch"] == EPOCHS
    record = read_record(str(run))
    assert record is not None
    assert len(record.starts) == 2
