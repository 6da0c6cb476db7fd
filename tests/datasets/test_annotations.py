from pathlib import Path

import pytest

from slowfast.datasets.annotations import read_class_names, read_frame_list, read_path_list
from slowfast.datasets.records import Video


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_paths_may_hold_the_separator_spaces_and_any_letters(tmp_path: Path) -> None:
    rows = read_path_list(
        write(tmp_path / "train.csv", "a b/c,d.mp4,3\né/ü.mp4,0\n\nx.mp4,1\n"), separator=",", num_classes=4
    )
    assert [rows[row] for row in range(len(rows))] == [
        Video("a b/c,d.mp4", 3, None),
        Video("é/ü.mp4", 0, None),
        Video("x.mp4", 1, None),
    ]


def test_frame_lists_give_folder_frames_and_label(tmp_path: Path) -> None:
    rows = read_frame_list(write(tmp_path / "list.txt", "100218 42 134\nmy clip 7 0\n"), num_classes=174)
    assert [rows[0], rows[1]] == [Video("100218", 134, 42), Video("my clip", 0, 7)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("a.mp4,0\nb.mp4\n", r"line 2 is 'b\.mp4'; expected a path and a label with ','"),
        ("a.mp4,0\n,1\n", "line 2"),
        ("a.mp4,dog\n", "line 1 has the label 'dog'"),
        ("a.mp4,0\n\nb.mp4,4\n", "line 3 has the label 4, but MODEL.NUM_CLASSES=4 counts from 0"),
        ("a.mp4,-1\n", "label '-1'"),
    ],
)
def test_a_bad_path_list_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_path_list(write(tmp_path / "train.csv", text), separator=",", num_classes=4)


@pytest.mark.parametrize("line", ["clip 3", "clip x 1", "clip 0 1"])
def test_a_bad_frame_list_names_the_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        read_frame_list(write(tmp_path / "list.txt", f"clip 3 1\n{line}\n"), num_classes=4)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file"):
        read_path_list(str(tmp_path / "none.csv"), separator=",", num_classes=4)


def test_class_names_come_in_the_order_of_the_labels(tmp_path: Path) -> None:
    assert read_class_names(write(tmp_path / "classes.txt", "zumba\nabseiling\n")) == ["zumba", "abseiling"]
