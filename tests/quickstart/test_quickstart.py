"""The quickstart as a user runs it, with `make quickstart-test`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slowfast.datasets.decode import VideoFile
from slowfast.preparation.encode import write_video
from slowfast.preparation.motion import make_motion
from slowfast.preparation.motion_classes import CLASSES
from tests.engine.outputs import read_logits
from tests.quickstart.conftest import Quickstart

pytestmark = pytest.mark.quickstart

NUM_TEST_VIDEOS = 192
BACKWARDS = {"left": "right", "right": "left", "growing": "shrinking", "shrinking": "growing"}


def table_of(printed: str) -> list[str]:
    """Return the lines of the table of accuracies."""
    lines = [line.rstrip() for line in printed.splitlines()]
    is_head = [line.split()[:2] == ["class", "videos"] for line in lines]
    start = is_head.index(True)
    return lines[start : start + len(CLASSES) + 2]


def result_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "test/metrics.json").read_text())


def check_table(run: Quickstart, printed: str, *, num_videos: int) -> float:
    """Compare what test.sh printed with the result that it wrote. Return the top-1 accuracy."""
    result = result_in(run.output)
    assert result["num_videos"] == num_videos
    table = table_of(printed)
    assert [line.split()[0] for line in table[1:-1]] == list(CLASSES)
    assert f"{result['top1']:.2f}" in table[-1]
    assert str(run.output / "test") in printed
    return float(result["top1"])


def test_its_videos_are_those_of_one_process(quickstart: Quickstart, tmp_path: Path) -> None:
    make_motion(tmp_path, videos_per_class={"train": 2, "val": 1, "test": 1})
    videos = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.mp4")]
    assert len(videos) == 4 * len(CLASSES)
    for video in videos:
        assert (quickstart.data / video).read_bytes() == (tmp_path / video).read_bytes(), video


def test_two_processes_give_the_table_of_one(
    quickstart: Quickstart, serve: Callable[..., list[int]], tmp_path: Path
) -> None:
    rows = (quickstart.data / "test.csv").read_text().splitlines()
    (tmp_path / "test.csv").write_text("\n".join(rows[::5]))
    tables, scores = [], []

    for num_processes in (1, 2):
        output = tmp_path / f"run {num_processes}"
        settings = {
            "TRAIN.ENABLE": False,
            "TEST.CHECKPOINT_FILE_PATH": max((quickstart.output / "checkpoints").iterdir()),
            "DATA.PATH_TO_DATA_DIR": tmp_path,
            "DATA.PATH_PREFIX": quickstart.data,
            "DATA.CLASS_NAMES": quickstart.data / "classes.txt",
            "DIST_BACKEND": "gloo",
            "OUTPUT_DIR": output,
        }
        config = str(quickstart.repository / "exp/quickstart/config.yaml")
        overrides = [str(word) for pair in settings.items() for word in pair]
        printed = tmp_path / f"printed {num_processes}"
        command = ["--cfg", config, *overrides]
        statuses = serve(command, num_processes=num_processes, output=printed)
        assert statuses == [0] * num_processes
        tables.append(table_of(printed.read_text()))
        scores.append(read_logits(output))

    assert tables[0] == tables[1]
    assert np.array_equal(scores[0], scores[1])


def test_it_learns_to_tell_motions_apart(quickstart: Quickstart) -> None:
    printed = quickstart.script("test.sh")
    assert check_table(quickstart, printed, num_videos=NUM_TEST_VIDEOS) >= 95


def test_videos_played_backwards_get_the_opposite_class(
    quickstart: Quickstart, tmp_path: Path
) -> None:
    lines = (quickstart.data / "test.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines]
    rows = [[path, label] for path, label in rows if CLASSES[int(label)] in BACKWARDS]
    expected = np.array([CLASSES.index(BACKWARDS[CLASSES[int(label)]]) for _, label in rows])
    for path, _ in rows:
        write_reversed(quickstart.data / path, tmp_path / Path(path).name)
    lines = [f"{Path(path).name},{label}\n" for path, label in rows]
    (tmp_path / "test.csv").write_text("".join(lines))

    weights = str(max((quickstart.output / "checkpoints").iterdir()))
    folders = ("DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(tmp_path))
    quickstart.script("test.sh", *folders, OUTPUT_DIR=str(tmp_path / "out"), WEIGHTS=weights)
    predicted = read_logits(tmp_path / "out").sum(axis=1).argmax(axis=1)
    assert len(predicted) == NUM_TEST_VIDEOS // 2
    for opposite in BACKWARDS.values():
        label = CLASSES.index(opposite)
        assert (predicted[expected == label] == label).mean() >= 0.85, opposite


def write_reversed(source: Path, path: Path) -> None:
    with VideoFile(str(source)) as video:
        frames = video.read(range(video.num_frames))
    write_video(path, frames[::-1])
