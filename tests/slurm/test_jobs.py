"""Jobs of tools/submit.py that nothing interrupts, and one that fails for its own reasons."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.slurm.cluster import INSTEAD, REPOSITORY, Cluster, assert_same_end, job_in, losses_in

pytestmark = pytest.mark.slurm

StartCluster = Callable[[str], Cluster]

RUN_NET = str(REPOSITORY / "tools/run_net.py")
ON_CPU = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "tests/plugins")}


@pytest.mark.parametrize("launcher", ["spawn", "torchrun on two machines"])
def test_launchers_of_two_processes_train_the_same(
    launcher: str, settings: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    commands = [[sys.executable, RUN_NET, "NUM_GPUS", "2", "TRAIN.BATCH_SIZE", "2"]]
    if launcher != "spawn":
        endpoint = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
        torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        torchrun += ["--rdzv-backend=c10d", endpoint]
        commands = [[sys.executable, *torchrun, RUN_NET, "TRAIN.BATCH_SIZE", "1"]] * 2
    output = ["OUTPUT_DIR", str(tmp_path)]
    processes = [
        subprocess.Popen([*command, *settings, *output], env=os.environ | ON_CPU)
        for command in commands
    ]
    assert [process.wait(timeout=240) for process in processes] == [0] * len(commands)
    assert losses_in(tmp_path) == losses_in(uninterrupted)
    assert_same_end(tmp_path, uninterrupted)


def test_two_machines_train_as_two_processes_do(
    start_cluster: StartCluster, settings: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    cluster = start_cluster("netns")
    status, output, errors = cluster.submit(*settings, output=tmp_path / "run").end()
    assert status == 0, output + errors
    assert losses_in(tmp_path / "run") == losses_in(uninterrupted)
    assert_same_end(tmp_path / "run", uninterrupted)
    assert "node1 (rank 0), node2 (rank 1)" in output
    assert "right sums" in output
    (command,) = tmp_path.glob("jobs/*/command.sh")
    assert "code/slowfast/__main__.py train" in command.read_text()


def test_an_array_of_seeds_ends_in_one_table(
    start_cluster: StartCluster, settings: list[str], tmp_path: Path
) -> None:
    cluster, run = start_cluster("loopback"), tmp_path / "run"
    array = ["--array", "RNG_SEED=0,1", "--num_shards", "1"]
    array += ["SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "True"]
    status, output, errors = cluster.submit(*settings, *array, output=run).end()
    assert status == 0, output + errors
    table = output[output.index("run         job") :].splitlines()
    assert [line.split()[0] for line in table[1:3]] == ["RNG_SEED=0", "RNG_SEED=1"]
    assert [line.split()[2:4] for line in table[1:3]] == [["COMPLETED", "1"]] * 2
    assert [line.split()[-1] for line in table[1:3]] == ["8/8", "8/8"]
    assert (run / "RNG_SEED=1/test/metrics.json").exists()
    assert losses_in(run / "RNG_SEED=0") != losses_in(run / "RNG_SEED=1")


@pytest.mark.parametrize("kind", ["netns", *INSTEAD])
def test_a_failed_job_shows_its_traceback_and_ends(
    kind: str, start_cluster: StartCluster, settings: list[str], tmp_path: Path
) -> None:
    cluster = start_cluster(kind)
    (cluster.folder / "broken_model.py").write_text(
        "from slowfast.models import build as models\n"
        "from slowfast.distributed.collectives import rank\n"
        "def build(cfg):\n"
        "    if rank() == 1: raise ValueError('broken on purpose')\n"
        "    return models.build_uniformer(cfg)\n"
        "models.add_model('Broken', models.Model(build))\n"
    )

    broken = ["--import", "broken_model", "MODEL.MODEL_NAME", "Broken"]
    status, _, errors = cluster.submit(*settings, *broken, output=tmp_path / "run").end()
    assert status == 1
    assert errors.count("ValueError: broken on purpose") == 1
    assert re.search(r"rank 1 on \S+ failed:", errors)

    tasks = job_in(tmp_path / "jobs").statuses()
    assert [(task.starts, task.status) for task in tasks] == [(1, 1), (1, 1)]
