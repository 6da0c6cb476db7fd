"""Lists of own videos, split by class, and of those videos of official lists that are there."""

from pathlib import Path

import pytest

from slowfast.datasets.annotations import Annotations, read_path_list
from slowfast.datasets.labels import read_class_names
from slowfast.datasets.prepare import Found, split_sizes, write_folder_lists, write_found_lists

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
    # Of 10 videos, 1 is a tenth, but the test gets a fifth; of 20, it gets 3.
    assert write_folder_lists(videos, lists, shares=SHARES) == {
        "train": {"ant": 13, "zebra": 6},
        "val": {"ant": 4, "zebra": 2},
        "test": {"ant": 3, "zebra": 2},
    }
    assert read_class_names(str(lists / "classes.txt")) == ["ant", "zebra"]
    seen = []
    for split in ("train", "val", "test"):
        rows = read_path_list(str(lists / f"{split}.csv"), separator=",", num_classes=2)
        seen += [rows[row] for row in range(len(rows))]
        assert {video.label for video in seen[-len(rows) :]} == {0, 1}
    assert {video.path for video in seen} == {str(path.relative_to(videos)) for path in videos.rglob("*.mp4")}
    assert len(seen) == 30
    assert all(video.path.startswith(["ant", "zebra"][video.label]) for video in seen)


@pytest.mark.parametrize(
    ("num_videos", "sizes"),  # of train, val and test, with shares of 0.15
    [
        (1, (1, 0, 0)),
        (2, (1, 1, 0)),
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (9, (7, 1, 1)),
        (10, (6, 2, 2)),
        (14, (10, 2, 2)),
        (15, (9, 3, 3)),
        (23, (17, 3, 3)),
        (30, (22, 4, 4)),  # round(4.5) is 4
        (1000, (700, 150, 150)),
    ],
)
def test_sizes_of_the_splits_of_a_class_by_hand(num_videos: int, sizes: tuple[int, int, int]) -> None:
    expected = dict(zip(("train", "val", "test"), sizes, strict=True))
    assert split_sizes(num_videos, shares={"val": 0.15, "test": 0.15}) == expected


@pytest.mark.parametrize("num_videos", range(3, 40))
@pytest.mark.parametrize(("val", "test"), [(0.0, 0.0), (0.49, 0.49), (0.9, 0.05), (0.05, 0.9)])
def test_no_share_takes_a_whole_class(num_videos: int, val: float, test: float) -> None:
    sizes = split_sizes(num_videos, shares={"val": val, "test": test})
    assert min(sizes.values()) >= 1
    assert sum(sizes.values()) == num_videos


def test_a_class_too_small_for_all_lists_is_in_some(tmp_path: Path) -> None:
    videos = make_tree(tmp_path / "videos", few=2, many=3, one=1)
    assert write_folder_lists(videos, tmp_path / "lists", shares=SHARES) == {
        "train": {"few": 1, "many": 1, "one": 1},
        "val": {"few": 1, "many": 1, "one": 0},
        "test": {"few": 0, "many": 1, "one": 0},
    }


def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    for shares in ({"val": 0.5, "test": 0.5}, {"val": -0.1, "test": 0.1}):
        with pytest.raises(ValueError, match="less than 1 together, so that some videos are left"):
            write_folder_lists(make_tree(tmp_path / str(shares), a=9), tmp_path, shares=shares)


def test_the_split_is_a_function_of_its_seed(tmp_path: Path) -> None:
    videos = make_tree(tmp_path / "videos", a=20, b=20)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_folder_lists(videos, tmp_path / name, shares=SHARES, seed=seed)
    one, two, three = ((tmp_path / name / "val.csv").read_text() for name in ("one", "two", "three"))
    assert one == two != three


def test_lists_are_never_overwritten_by_others(tmp_path: Path) -> None:
    videos, lists = make_tree(tmp_path / "videos", a=20), tmp_path / "lists"
    write_folder_lists(videos, lists, shares=SHARES)
    before = {path.name: path.read_text() for path in lists.iterdir()}
    write_folder_lists(videos, lists, shares=SHARES)
    with pytest.raises(FileExistsError, match=r"train\.csv is there already, with other rows"):
        write_folder_lists(videos, lists, shares=SHARES, seed=1)
    assert {path.name: path.read_text() for path in lists.iterdir()} == before


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        write_folder_lists(tmp_path / "none", tmp_path, shares=SHARES)
    with pytest.raises(FileNotFoundError, match="no class folders with videos"):
        write_folder_lists(make_tree(tmp_path / "empty", a=0), tmp_path, shares=SHARES)
    with pytest.raises(ValueError, match="few: no class has more than 2 videos, which leaves none for test"):
        write_folder_lists(make_tree(tmp_path / "few", a=2, b=1), tmp_path, shares=SHARES)


# ---- Lists of what is there ------------------------------------------------------------------------------------------


def touch(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def find(tmp_path: Path, *listed: str, frame_template: str | None = None) -> Found:
    annotations = {"val": Annotations(list(listed), list(range(len(listed))))}
    return write_found_lists(
        annotations,
        tmp_path / "lists",
        videos=tmp_path / "videos",
        class_names=["x", "y"],
        list_names={"val": "val.csv"},
        frame_template=frame_template,
    )["val"]


def test_videos_are_found_wherever_they_lie_and_whatever_their_suffix(tmp_path: Path) -> None:
    listed = ["a.mp4", "b c.mp4", "class/d.avi", "class/e.1.avi", "gone.mp4", "class/gone.avi"]
    touch(tmp_path / "videos", "a.mp4", "deep/er/b c.webm", "class/d.mp4", "other/d.mp4", "e.1.mp4", "._gone.mp4")
    result = find(tmp_path, *listed)
    assert result == (tmp_path / "lists/val.csv", 6, 2)
    assert result.list_path.read_text() == "a.mp4,0\ndeep/er/b c.webm,1\nclass/d.mp4,2\ne.1.mp4,3\n"
    assert (tmp_path / "lists/missing_val.txt").read_text() == "gone.mp4\nclass/gone.avi\n"
    assert read_class_names(str(tmp_path / "lists/classes.txt")) == ["x", "y"]


def test_a_listed_path_comes_before_others_of_its_name(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "class/a.avi", "class/a.mp4", "a.avi")
    assert find(tmp_path, "class/a.avi").list_path.read_text() == "class/a.avi,0\n"


def test_a_name_that_may_be_two_files_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "train/a.mp4", "replacement/a.mp4")
    with pytest.raises(ValueError, match=r"a\.mp4 may be replacement/a\.mp4 or train/a\.mp4; take away all but one"):
        find(tmp_path, "a.mp4")


def test_frame_folders_are_listed_with_their_number_of_frames(tmp_path: Path) -> None:
    frames = [f"sub/7.5/{number:05d}.jpg" for number in range(1, 13)]
    touch(tmp_path / "videos", *frames, "8/00001.jpg", "8/00002.jpg", ".9.part/00001.jpg")
    result = find(tmp_path, "7.5.webm", "8", "9.webm", frame_template="{:05d}.jpg")
    assert result.list_path.read_text() == "sub/7.5 12 0\n8 2 1\n"
    assert (tmp_path / "lists/missing_val.txt").read_text() == "9.webm\n"


def test_lists_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="videos: no such folder, or no videos in it"):
        find(tmp_path, "a.mp4")
    touch(tmp_path / "videos", "other.mp4")
    with pytest.raises(FileNotFoundError, match=r"none of the 2 videos of val is there; the first is a\.mp4"):
        find(tmp_path, "a.mp4", "b.mp4")
    assert not (tmp_path / "lists").exists()
