"""Which videos of a test are worth a look, and which row a path is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from slowfast.datasets.records import Span, split_video_name, video_name
from slowfast.evaluation.listed_videos import choose_videos, find_videos
from slowfast.evaluation.predictions import SCHEMA
from slowfast.evaluation.result import Result


def make_result(rows: list[dict[str, Any]], *, is_labeled: bool = True) -> Result:
    """Return a result with some predictions: label, prediction and probability of each row."""
    filled = [
        {
            "row": number,
            "path": f"{number}.mp4",
            "class_name": f"class {row['label']}" if is_labeled else None,
            "status": "scored",
            "reason": "",
            **row,
            "top_probabilities": [row.get("probability", 0.5)],
        }
        for number, row in enumerate(rows)
    ]
    table = pa.Table.from_pylist(filled, SCHEMA)

    class InMemory(Result):
        def predictions(self, *columns: str) -> pa.Table:
            return table.select(columns)

    record: Any = SimpleNamespace(is_labeled=is_labeled)
    return InMemory(Path("unused"), record, {})


# Rows 0 to 2 are mistakes, 3 to 6 are right: two of class 0, one of class 1 and one of class 2.
ROWS = [
    {"label": 0, "prediction": 1, "probability": 0.6},
    {"label": 0, "prediction": 1, "probability": 0.9},
    {"label": 1, "prediction": 0, "probability": 0.7},
    {"label": 0, "prediction": 0, "probability": 0.99},
    {"label": 0, "prediction": 0, "probability": 0.98},
    {"label": 1, "prediction": 1, "probability": 0.5},
    {"label": 2, "prediction": 2, "probability": 0.6},
]


@pytest.mark.parametrize(
    ("num", "expected"),
    [
        (1, [1]),
        (2, [1, 3]),
        (4, [1, 2, 3, 5]),
        (6, [1, 2, 0, 3, 5, 6]),
        (7, [1, 2, 0, 3, 5, 6, 4]),
        (20, [1, 2, 0, 3, 5, 6, 4]),
    ],
)
def test_half_are_confident_mistakes_the_others_in_turn(num: int, expected: list[int]) -> None:
    chosen = choose_videos(make_result(ROWS), num=num, prefix="/videos")
    assert [video.row for video in chosen] == expected
    assert chosen[0].path == "/videos/1.mp4"
    assert chosen[0].label == "class 0"


def test_without_mistakes_all_are_right_ones() -> None:
    chosen = choose_videos(make_result(ROWS[3:]), num=3, prefix="")
    assert [video.row for video in chosen] == [0, 2, 3]


def test_without_labels_half_are_the_least_confident() -> None:
    result = make_result([{**row, "label": None} for row in ROWS], is_labeled=False)
    chosen = choose_videos(result, num=4, prefix="")
    assert [video.row for video in chosen] == [5, 0, 3, 1]
    assert chosen[0].label == ""


def test_unscored_videos_are_never_chosen() -> None:
    unreadable = {"label": 0, "prediction": None, "status": "unreadable"}
    result = make_result([unreadable, *ROWS])
    assert 0 not in [video.row for video in choose_videos(result, num=20, prefix="")]


def test_a_path_is_found_however_it_is_written(tmp_path: Path) -> None:
    names = ["a/x.mp4", "b/x.mp4", "c/frames", "a/x.mp4#t=1,2"]
    result = make_result([{**ROWS[0], "path": name} for name in names])
    for folder in ("a", "b", "c/frames"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "b")

    paths = [f"{tmp_path}/b/../a/x.mp4", f"{tmp_path}/link/x.mp4", f"{tmp_path}/c/frames/", "x.mp4"]
    found = find_videos(result, paths, prefix=str(tmp_path))
    assert {path: video.row for path, video in found.items()} == dict(
        zip(paths[:3], (0, 1, 2), strict=True)
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.mp4#t=12.5,20", "b c/#t=x.mp4#t=0,1e-05"])
def test_a_name_is_split_and_joined_again(name: str) -> None:
    path, span = split_video_name(name)
    assert video_name(path, span) == name
    assert split_video_name("a.mp4#t=12.5,20") == ("a.mp4", Span(12.5, 20.0))
