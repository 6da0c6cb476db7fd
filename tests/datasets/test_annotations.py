"""Annotations in columns: lookup, selection, checksums, and memory shared by workers."""

from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.records import Video


def list_videos(annotations: Annotations) -> list[Video]:
    return [annotations[row] for row in range(len(annotations))]


def test_rows_are_found_by_their_paths() -> None:
    rows = Annotations(["a.mp4", "b.mp4", "a.mp4", "ü.mp4"], [0, 1, 2, 3])
    assert rows.find_rows(["ü.mp4", "a.mp4", "none.mp4"]).tolist() == [0, 2, 3]
    assert rows.find_rows([]).tolist() == []
    assert rows.find_rows(["a"]).dtype == np.int64


def test_a_selection_is_a_list_of_its_own() -> None:
    rows = Annotations(["a", "b", "c"], [0, 1, 2], num_frames=[3, 4, 5])
    assert list_videos(rows.select([2, 0])) == [Video("c", 2, 5), Video("a", 0, 3)]
    assert rows.select([2, 0]).find_rows(["a", "b"]).tolist() == [1]
    assert len(rows.select([])) == 0

    rows = Annotations(["a", "b"], [0, 1])
    assert list_videos(rows.select(np.array([1]))) == [Video("b", 1, None)]


def test_the_list_is_kept_in_columns() -> None:
    rows = Annotations([f"video {number}.mp4" for number in range(1000)], list(range(1000)))
    assert rows[999] == Video("video 999.mp4", 999, None)
    assert not [value for value in vars(rows).values() if isinstance(value, list | dict)]


def private_kilobytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def read_rows(rows: Annotations, connection: Connection) -> None:
    before = private_kilobytes()
    for row in np.random.default_rng(0).integers(len(rows), size=1000):
        assert rows[row].path == f"{row:080d}.mp4"
    connection.send((private_kilobytes() - before, len(list(Path("/proc/self/task").iterdir()))))


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells the memory of a process there"
)
def test_forked_workers_share_the_rows_without_threads() -> None:
    paths = [f"{number:080d}.mp4" for number in range(200_000)]  # 20 MB
    rows = Annotations(paths, np.zeros(200_000))

    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=read_rows, args=(rows, sender))
    worker.start()
    assert receiver.poll(60), "the worker does not answer"
    kilobytes, num_threads = receiver.recv()
    worker.join()

    assert num_threads == 1
    assert kilobytes < 4000


def test_either_all_videos_have_a_label_or_none() -> None:
    assert Annotations(["a", "b"], [0, 3]).is_labeled
    assert not Annotations(["a", "b"], [-1, -1]).is_labeled
    assert not Annotations(["a", "b"], [-1, -1]).select([1]).is_labeled
    with pytest.raises(ValueError, match=r"c \(row 2 from 0\) has no label, but a \(row 0\) has"):
        Annotations(["a", "b", "c"], [3, 0, -1])
