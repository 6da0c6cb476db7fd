"""Lists of those videos of a published dataset that exist below a folder."""

from pathlib import Path

import pytest

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.class_name_files import read_class_names
from slowfast.preparation.available_lists import AvailableList, write_available_lists
from tests.preparation.folders import touch


def write_available(
    tmp_path: Path, *listed: str, frame_template: str | None = None
) -> AvailableList:
    annotations = {"val": Annotations(list(listed), list(range(len(listed))))}
    return write_available_lists(
        annotations,
        tmp_path / "lists",
        videos=tmp_path / "videos",
        class_names=["x", "y"],
        list_names={"val": "val.csv"},
        frame_template=frame_template,
    )["val"]


def test_videos_are_found_at_any_depth_and_with_any_suffix(tmp_path: Path) -> None:
    listed = ["a.mp4", "b c.mp4", "class/d.avi", "class/e.1.avi", "gone.mp4", "class/gone.avi"]
    touch(
        tmp_path / "videos",
        "a.mp4",
        "deep/er/b c.webm",
        "class/d.mp4",
        "other/d.mp4",
        "e.1.mp4",
        "._gone.mp4",
    )
    result = write_available(tmp_path, *listed)
    assert result == (tmp_path / "lists/val.csv", 6, 2)
    assert result.path.read_text() == "a.mp4,0\ndeep/er/b c.webm,1\nclass/d.mp4,2\ne.1.mp4,3\n"
    assert (tmp_path / "lists/missing_val.txt").read_text() == "gone.mp4\nclass/gone.avi\n"
    assert read_class_names(str(tmp_path / "lists/classes.txt")) == ["x", "y"]


def test_a_listed_path_comes_before_others_of_its_name(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "class/a.avi", "class/a.mp4", "a.avi")
    assert write_available(tmp_path, "class/a.avi").path.read_text() == "class/a.avi,0\n"


def test_a_name_that_two_files_match_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "train/a.mp4", "replacement/a.mp4")
    with pytest.raises(
        ValueError, match=r"a\.mp4 matches replacement/a\.mp4 and train/a\.mp4. Remove all but one"
    ):
        write_available(tmp_path, "a.mp4")


def test_frame_folders_are_listed_with_their_number_of_frames(tmp_path: Path) -> None:
    frames = [f"sub/7.5/{number:05d}.jpg" for number in range(1, 13)]
    touch(tmp_path / "videos", *frames, "8/00001.jpg", "8/00002.jpg", ".9.part/00001.jpg")
    result = write_available(tmp_path, "7.5.webm", "8", "9.webm", frame_template="{:05d}.jpg")
    assert result.path.read_text() == "sub/7.5 12 0\n8 2 1\n"
    assert (tmp_path / "lists/missing_val.txt").read_text() == "9.webm\n"


def test_lists_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="videos: no such folder, or no videos in it"):
        write_available(tmp_path, "a.mp4")
    touch(tmp_path / "videos", "other.mp4")
    with pytest.raises(
        FileNotFoundError, match=r"has none of the 2 videos of val. The first is a\.mp4"
    ):
        write_available(tmp_path, "a.mp4", "b.mp4")
    assert not (tmp_path / "lists").exists()
