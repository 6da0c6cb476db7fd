"""Data loader: workers that die or hang are explained, and nothing leaks."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from slowfast.config import CfgNode
from slowfast.datasets.build import VideoLoader, build_loader
from slowfast.datasets.decode import DecodeError, VideoFile
from slowfast.datasets.loader import LoaderError, warn_about_many_workers
from tests.resources import left_since, resources

QUICKSTART = Path(__file__).parents[2] / "exp/quickstart/config.yaml"


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_worker_that_hangs_is_named_with_its_file(
    tiny_cfg: Callable[..., CfgNode], silent_address: str, tmp_path: Path
) -> None:
    (tmp_path / "val.csv").write_text(f"{silent_address}/a.mp4,0\n")
    cfg = tiny_cfg(
        DATA__PATH_TO_DATA_DIR=tmp_path,
        DATA__PATH_PREFIX="",
        DATA_LOADER__NUM_WORKERS=1,
        DATA_LOADER__TIMEOUT=2,
    )
    where = rf"worker 0 at {silent_address}/a\.mp4"
    message = rf"rank 0: no batch came within 2 s; {where}. .* raise DATA_LOADER\.TIMEOUT"
    with pytest.raises(LoaderError, match=message):
        list(build_loader(cfg, "val"))


def kill_worker(loader: VideoLoader, number: signal.Signals) -> None:
    """Send a signal to a worker after the second step of a pass."""
    for step, _ in enumerate(loader):
        if step == 1:
            os.kill(loader._iterator._workers[0].pid, number)  # type: ignore[union-attr]


def test_a_killed_worker_ends_the_pass_with_an_error(
    tiny_cfg: Callable[..., CfgNode],
) -> None:
    loader = build_loader(tiny_cfg(DATA_LOADER__NUM_WORKERS=2, TRAIN__BATCH_SIZE=1), "train")
    message = r"rank 0: DataLoader worker .* killed.*lower DATA_LOADER\.NUM_WORKERS"
    with pytest.raises(LoaderError, match=message):
        kill_worker(loader, signal.SIGKILL)


def test_a_bus_error_is_blamed_on_shared_memory(tiny_cfg: Callable[..., CfgNode]) -> None:
    loader = build_loader(tiny_cfg(DATA_LOADER__NUM_WORKERS=2, TRAIN__BATCH_SIZE=1), "train")
    with pytest.raises(LoaderError, match=r"^rank 0: /dev/shm is too small .* --shm-size=8g"):
        kill_worker(loader, signal.SIGBUS)


LOAD_IN_SMALL_SHARED_MEMORY = """
import subprocess
import sys
from pathlib import Path

from slowfast.config import load_cfg
from slowfast.datasets.build import build_loader


def load(split, *overrides):
    cfg = load_cfg(sys.argv[1], [*sys.argv[2:], *overrides])
    try:
        print(sum(1 for _ in build_loader(cfg, split)), "batches", flush=True)
    except OSError as error:
        print(error, flush=True)


load("train", "DATA_LOADER.NUM_WORKERS", "2")
load("train", "DATA_LOADER.NUM_WORKERS", "1", "TRAIN.BATCH_SIZE", "1")
subprocess.run("cat /dev/zero > /dev/shm/other", shell=True, stderr=subprocess.DEVNULL)
load("val", "DATA_LOADER.NUM_WORKERS", "1")
load("val", "DATA_LOADER.NUM_WORKERS", "0")
"""


def test_shared_memory_too_small_is_one_sentence(
    tiny_settings: Callable[..., list[str]], repository: Path
) -> None:
    mount = 'mount -t tmpfs -o size=2m none /dev/shm && exec "$@"'
    on_small = ["unshare", "-m", "sh", "-c", mount, "-"]
    if subprocess.run([*on_small, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a small /dev/shm (unshare -m, mount)")

    settings = tiny_settings(DATA__TRAIN_CROP_SIZE=64, DATA_LOADER__TIMEOUT=60)
    done = subprocess.run(
        [*on_small, sys.executable, "-c", LOAD_IN_SMALL_SHARED_MEMORY, str(QUICKSTART), *settings],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    too_small, small_enough, full, no_workers = done.stdout.splitlines()

    # A batch is 8 videos * 3 channels * 4 frames * 64 * 64 pixels * 4 bytes: 1.5 MiB.
    pattern = (
        r"rank 0: /dev/shm is too small for the batches of the loader workers: [012]\.\d MiB of "
        r"2\.0 MiB are free, and 2 workers may fill it with 4 batches of 1\.5 MiB. Enlarge it "
        r"\(docker run --shm-size=8g\), lower DATA_LOADER\.NUM_WORKERS \(0 needs none of it\), or "
        r"lower TRAIN\.BATCH_SIZE"
    )
    assert re.fullmatch(pattern, too_small)
    assert small_enough == "32 batches"
    # All 16 videos for validation, of 32 * 32 pixels: 0.75 MiB.
    assert "0.0 MiB of 2.0 MiB are free, and 1 worker may fill it with 2 batches of 0.8 MiB" in full
    assert full.endswith("or lower TEST.BATCH_SIZE")
    assert no_workers == "1 batches"
    assert "Traceback" not in done.stderr


@pytest.fixture
def on_one_core() -> Iterator[None]:
    """Restrict this process to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.usefixtures("on_one_core")
def test_more_workers_than_cores_are_reported_once(
    tiny_cfg: Callable[..., CfgNode],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    cfg = tiny_cfg(DATA_LOADER__NUM_WORKERS=3)
    for split in ("train", "val", "test"):
        build_loader(cfg, split)
    lines = ["DATA_LOADER.NUM_WORKERS is 3: 3 loader workers on 1 core. Lower it to 1"]
    assert caplog.messages == lines
    assert len(recwarn) == 0

    caplog.clear()
    build_loader(tiny_cfg(DATA_LOADER__NUM_WORKERS=3, TRAIN__ENABLE=False), "test")
    assert caplog.messages == lines

    caplog.clear()
    warn_about_many_workers(8, num_processes=2)
    assert caplog.messages == [
        "DATA_LOADER.NUM_WORKERS is 8: 16 loader workers on 1 core. Lower it to 0, which lets "
        "each process load its own batches"
    ]


@pytest.mark.usefixtures("on_one_core")
def test_workers_that_have_cores_are_not_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    warn_about_many_workers(1, num_processes=1)
    # Two tasks of Slurm on this machine, with one core each.
    variables = {
        "STEP_NUM_TASKS": "2",
        "STEP_NUM_NODES": "1",
        "PROCID": "0",
        "LOCALID": "0",
        "CPUS_PER_TASK": "1",
        "JOB_ID": "7",
        "STEP_ID": "0",
        "STEP_NODELIST": "a1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    warn_about_many_workers(1, num_processes=2)
    assert caplog.messages == []


def test_an_error_of_the_dataset_is_not_blamed_on_a_worker(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text("".join(f"{name}.mp4,0\n" for name in "abcdefgh"))
    cfg = tiny_cfg(DATA__PATH_TO_DATA_DIR=tmp_path, DATA_LOADER__NUM_WORKERS=1)
    with pytest.raises(DecodeError, match="10 videos in a row are unreadable"):
        list(build_loader(cfg, "train"))


def test_leaving_a_pass_early_neither_hangs_nor_leaks(
    tiny_cfg: Callable[..., CfgNode], motion_folder: Path
) -> None:
    path = str(next(motion_folder.glob("test/*.mp4")))

    def leave_early(num_passes: int) -> None:
        with VideoFile(path) as video:
            for number in range(num_passes):
                next(iter(video._decode([number % 20, 20 + number % 10])))  # the decoder stays full
            assert video.read([3]).shape[0] == 1
        for _ in range(3):
            next(iter(build_loader(tiny_cfg(DATA_LOADER__NUM_WORKERS=2), "test")))

    # The first dataset with workers leaves two descriptors of shared memory open for all others.
    leave_early(1)
    before = resources()
    leave_early(1000)
    assert left_since(before) == Counter()


@pytest.mark.parametrize("num_opens", [1000, pytest.param(20_000, marks=pytest.mark.soak)])
def test_opening_files_of_all_kinds_leaves_nothing_behind(
    num_opens: int, broken_folder: Path, motion_folder: Path, tmp_path: Path
) -> None:
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(np.random.default_rng(0).bytes(20_000))
    kinds = ("good 0", "good 1", "truncated 9", "empty 5", "audio 13", "corrupt 17", "missing 2")
    paths = [*(str(broken_folder / f"{kind}.mp4") for kind in kinds), str(garbage)]

    def open_many(count: int) -> int:
        num_read = 0
        for number in range(count):
            with contextlib.suppress(DecodeError), VideoFile(paths[number % len(paths)]) as video:
                num_read += len(video.read([number % video.num_frames]))
        return num_read

    open_many(500)  # lets libraries set up what they keep
    before = resources()
    assert open_many(num_opens) >= 2 * num_opens // len(paths)
    assert left_since(before) == Counter()
    assert resources().memory - before.memory < num_opens * 10 * 1024
