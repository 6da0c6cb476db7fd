"""Clusters, and the uninterrupted run that all others are compared with."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slowfast.preparation.motion import make_motion
from tests.slurm.cluster import EPOCHS, QUICKSTART, Cluster, why_not


@pytest.fixture(scope="session")
def start_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Cluster]]:
    """Start a cluster of a kind once for all tests, or skip the test with the reason."""
    clusters: dict[str, Cluster] = {}
    outside = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM", "SBATCH", "SRUN"))
    }

    def start(kind: str) -> Cluster:
        if reason := why_not(kind):
            pytest.skip(reason)
        if kind not in clusters:
            folder = tmp_path_factory.mktemp(kind)
            clusters[kind] = Cluster(kind, folder=folder, env=outside | {"OMP_NUM_THREADS": "1"})
        return clusters[kind]

    yield start
    for cluster in clusters.values():
        cluster.stop()


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a short training of the quickstart model."""
    data = tmp_path_factory.mktemp("motion")
    make_motion(data, seed=5, videos_per_class={"train": 4, "val": 1, "test": 1})

    values = {
        "MODEL.MODEL_NAME": "Patient",
        "DATA.PATH_TO_DATA_DIR": data,
        "DATA.PATH_PREFIX": data,
        "DATA.CLASS_NAMES": data / "classes.txt",
        "TRAIN.EVAL_PERIOD": EPOCHS,
        "TRAIN.CHECKPOINT_PERIOD": EPOCHS,  # So a job resumes in the middle of an epoch.
        "TRAIN.REHEARSE": False,
        "TEST.ENABLE": False,
        "TEST.BATCH_SIZE": 8,
        "SOLVER.MAX_EPOCH": EPOCHS,
        "SOLVER.WARMUP_EPOCHS": 0,
        "LOG_PERIOD": 1,
        "DIST_BACKEND": "gloo",
        "DIST_TIMEOUT": 60,
    }
    words = [str(word) for word in itertools.chain.from_iterable(values.items())]
    return ["--import", "patient_model", "--cfg", str(QUICKSTART), *words]


@pytest.fixture(scope="session")
def uninterrupted(
    settings: list[str], tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., list[int]]
) -> Path:
    """Folder of a run of two processes on this machine that nothing interrupts."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    arguments = [*settings, "NUM_GPUS", "2", "TRAIN.BATCH_SIZE", "2", "OUTPUT_DIR", str(folder)]
    assert serve(arguments, num_processes=2) == [0, 0]
    return folder
