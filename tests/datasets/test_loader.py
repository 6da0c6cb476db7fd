"""Workers that die or get stuck, and many videos in one process: an error that says where, no freeze, no leak."""

import contextlib
import gc
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from slowfast.config import CfgNode
from slowfast.datasets import build_loader
from slowfast.datasets.decode import DecodeError, VideoFile
from slowfast.datasets.loader import LoaderError


@pytest.fixture
def silent_address() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_worker_that_is_stuck_is_named_with_its_file(
    tiny_cfg: Callable[..., CfgNode], silent_address: str, tmp_path: Path
) -> None:
    (tmp_path / "val.csv").write_text(f"{silent_address}/a.mp4,0\n")
    cfg = tiny_cfg(
        DATA__PATH_TO_DATA_DIR=tmp_path, DATA__PATH_PREFIX="", DATA_LOADER__NUM_WORKERS=1, DATA_LOADER__TIMEOUT=2
    )
    message = rf"rank 0: no batch came within 2 s; worker 0 at {silent_address}/a\.mp4; .* raise DATA_LOADER\.TIMEOUT"
    with pytest.raises(LoaderError, match=message):
        list(build_loader(cfg, "val"))


def test_a_worker_that_is_killed_ends_the_pass_with_an_error(tiny_cfg: Callable[..., CfgNode]) -> None:
    loader = build_loader(tiny_cfg(DATA_LOADER__NUM_WORKERS=2, TRAIN__BATCH_SIZE=1), "train")

    def kill_a_worker_on_the_way() -> None:
        for step, _ in enumerate(loader):
            if step == 1:
                os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)  # type: ignore[union-attr]

    with pytest.raises(LoaderError, match=r"rank 0: DataLoader worker .* killed.*lower DATA_LOADER\.NUM_WORKERS"):
        kill_a_worker_on_the_way()


def test_an_error_of_the_data_set_is_not_taken_for_the_death_of_a_worker(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text("".join(f"{name}.mp4,0\n" for name in "abcdefgh"))
    loader = build_loader(tiny_cfg(DATA__PATH_TO_DATA_DIR=tmp_path, DATA_LOADER__NUM_WORKERS=1), "train")
    with pytest.raises(DecodeError, match="10 videos in a row cannot be read"):
        list(loader)


def test_leaving_a_pass_early_a_thousand_times_neither_hangs_nor_leaks(
    tiny_cfg: Callable[..., CfgNode], motion_folder: Path
) -> None:
    path = str(next(motion_folder.glob("test/*.mp4")))
    with VideoFile(path) as video:
        before = resources()
        for number in range(1000):
            for _ in video._decode([number % 20, 20 + number % 10]):
                break  # with the decoder full of frames
        assert video.read([3]).shape[0] == 1
    for _ in range(3):
        next(iter(build_loader(tiny_cfg(DATA_LOADER__NUM_WORKERS=2), "test")))
    gc.collect()
    assert resources()[1] <= before[1]


def resources() -> tuple[int, int, int]:
    """Resident memory in bytes, open descriptors and threads of this process."""
    status = Path("/proc/self/status").read_text()
    memory = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024
    return memory, len(os.listdir("/proc/self/fd")), threading.active_count() + len(os.listdir("/proc/self/task"))


def test_5000_opens_of_good_and_bad_files_leave_nothing_behind(
    broken_folder: Path, motion_folder: Path, tmp_path: Path
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
        gc.collect()
        return num_read

    open_many(500)  # what libraries set up once
    memory, descriptors, threads = resources()
    assert open_many(5000) >= 2 * 5000 // len(paths)
    after = resources()
    assert after[0] - memory < 50 * 2**20
    assert after[1:] == (descriptors, threads)
