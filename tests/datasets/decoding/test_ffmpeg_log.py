"""FFmpeg's log: capturing it does not block the workers of a loader."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from slowfast.datasets.decode import DecodeError, VideoFile
from tests.datasets.decoding.noise_videos import CODECS, draw, write


def open_many(folder: str, num_opens: int, seed: int) -> int:
    """Open and read files, most of them damaged. Return how many were refused."""
    paths = sorted(Path(folder).iterdir())
    rng = np.random.default_rng(seed)
    num_refused = 0
    for _ in range(num_opens):
        try:
            with VideoFile(str(paths[rng.integers(len(paths))])) as video:
                video.read([int(rng.integers(video.num_frames))])
        except DecodeError:
            num_refused += 1
    return num_refused


@pytest.mark.parametrize("num_opens", [40, pytest.param(10_000, marks=pytest.mark.soak)])
def test_eight_workers_that_read_damaged_files_do_not_hang(num_opens: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in CODECS:
        content = write(tmp_path / f"v{suffix}", draw(4)).read_bytes()
        for number in range(6):
            damaged = bytearray(content)
            for position in rng.integers(0, len(damaged), 4):
                damaged[position] = rng.integers(0, 256)
            (tmp_path / f"{number}{suffix}").write_bytes(damaged)

    # Workers are forked from a process that has already captured the log.
    open_many(str(tmp_path), 20, seed=0)
    tasks = [(str(tmp_path), num_opens, seed) for seed in range(8)]
    with multiprocessing.get_context("fork").Pool(8) as pool:
        results = pool.starmap_async(open_many, tasks)
        assert min(results.get(timeout=60 + num_opens)) > num_opens // 20
