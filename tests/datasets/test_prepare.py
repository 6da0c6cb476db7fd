from pathlib import Path

import pytest

from slowfast.datasets.annotations import read_class_names, read_path_list
from slowfast.datasets.prepare import write_folder_lists

SHARES = {"val": 0.2, "test": 0.1}


def make_tree(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name / "more videos").mkdir(parents=True)
        for number in range(count):
            place = folder / name / ("more videos" if number % 2 else "")
            (place / f"video {number}.mp4").touch()
        (folder / name / "notes.txt").touch()
    return folder


def test_every_video_is_in_one_list_with_the_label_of_its_folder(tmp_path: Path) -> None:
    videos, lists = make_tree(tmp_path / "videos", zebra=10, ant=20), tmp_path / "lists"
    assert write_folder_lists(videos, lists, shares=SHARES) == {"train": 21, "val": 6, "test": 3}
    assert read_class_names(str(lists / "classes.txt")) == ["ant", "zebra"]
    seen = []
    for split in ("train", "val", "test"):
        rows = read_path_list(str(lists / f"{split}.csv"), separator=",", num_classes=2)
        seen += [rows[row] for row in range(len(rows))]
        assert {video.label for video in seen[-len(rows) :]} == {0, 1}
    assert {video.path for video in seen} == {str(path.relative_to(videos)) for path in videos.rglob("*.mp4")}
    assert len(seen) == 30
    assert all(video.path.startswith(["ant", "zebra"][video.label]) for video in seen)


def test_the_split_is_a_function_of_its_seed(tmp_path: Path) -> None:
    videos = make_tree(tmp_path / "videos", a=20, b=20)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_folder_lists(videos, tmp_path / name, shares=SHARES, seed=seed)
    one, two, three = ((tmp_path / name / "val.csv").read_text() for name in ("one", "two", "three"))
    assert one == two != three


def test_lists_are_never_overwritten(tmp_path: Path) -> None:
    videos = make_tree(tmp_path / "videos", a=20)
    write_folder_lists(videos, tmp_path / "lists", shares=SHARES)
    with pytest.raises(FileExistsError, match=r"train\.csv is there already"):
        write_folder_lists(videos, tmp_path / "lists", shares=SHARES)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        write_folder_lists(tmp_path / "none", tmp_path, shares=SHARES)
    with pytest.raises(FileNotFoundError, match="no class folders with videos"):
        write_folder_lists(make_tree(tmp_path / "empty", a=0), tmp_path, shares=SHARES)
    with pytest.raises(ValueError, match="few/a: 2 videos leave none for train"):
        write_folder_lists(make_tree(tmp_path / "few", a=2), tmp_path, shares=SHARES)
