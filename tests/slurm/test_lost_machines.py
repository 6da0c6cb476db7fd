"""Jobs that lose a machine: they end with its name, and the next start goes on from the newest checkpoint."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast.utils.checkpoint import newest_checkpoint
from tests.slurm.cluster import Cluster, assert_same_end, job_in, wait_until

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
    if status:  # Slurm has put the job back into the queue, or has given it up: it depends on who is faster
        status, output, errors = cluster.submit(*arguments, output=run, job_dir=tmp_path / "second").end()
    assert status == 0, output + errors
    assert "going on at epoch" in output
    assert_same_end(run, quiet)
