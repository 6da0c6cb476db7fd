"""Lists of own videos, split by class, and of those videos of official lists that are there."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from slowfast.datasets.annotations import Annotations, read_path_list
from slowfast.datasets.class_name_files import read_class_names
from slowfast.preparation.lists import (
    Found,
    write_fold_lists,
    write_folder_lists,
    write_found_lists,
)
from slowfast.preparation.splits import split_sizes

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
    assert write_folder_lists(videos, lists, shares=SHARES).sizes == {
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
    assert {video.path for video in seen} == {
        str(path.relative_to(videos)) for path in videos.rglob("*.mp4")
    }
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
def test_sizes_of_the_splits_of_a_class_by_hand(
    num_videos: int, sizes: tuple[int, int, int]
) -> None:
    expected = dict(zip(("train", "val", "test"), sizes, strict=True))
    assert split_sizes(num_videos, shares={"val": 0.15, "test": 0.15}) == expected


@pytest.mark.parametrize("num_videos", range(3, 40))
@pytest.mark.parametrize(("val", "test"), [(0.01, 0.01), (0.49, 0.49), (0.9, 0.05), (0.05, 0.9)])
def test_no_share_takes_a_whole_class(num_videos: int, val: float, test: float) -> None:
    sizes = split_sizes(num_videos, shares={"val": val, "test": test})
    assert min(sizes.values()) >= 1
    assert sum(sizes.values()) == num_videos


def test_a_class_too_small_for_all_lists_is_in_some(tmp_path: Path) -> None:
    videos = make_tree(tmp_path / "videos", few=2, many=3, one=1)
    assert write_folder_lists(videos, tmp_path / "lists", shares=SHARES).sizes == {
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
    one, two, three = (
        (tmp_path / name / "val.csv").read_text() for name in ("one", "two", "three")
    )
    assert one == two != three


def splits_in(lists: Path) -> dict[str, tuple[str, int]]:
    """The list and the label of each video."""
    found = {}
    for path in lists.glob("*.csv"):
        for line in path.read_text().splitlines():
            video, label = line.rsplit(",", 1)
            found[video] = (path.stem, int(label))
    return found


def test_a_share_of_0_means_no_list(tmp_path: Path) -> None:
    videos, lists = make_tree(tmp_path / "videos", a=20, b=2), tmp_path / "lists"
    write_folder_lists(videos, lists, shares=SHARES)
    for shares, names in (({"val": 0.2, "test": 0}, "train val"), ({"val": 0, "test": 0}, "train")):
        write_folder_lists(videos, lists, shares=shares, force=True)
        assert sorted(path.stem for path in lists.glob("*.csv")) == names.split()
        assert len(splits_in(lists)) == 22
    assert split_sizes(2, shares={"val": 0, "test": 0.1}) == {"train": 1, "val": 0, "test": 1}


@pytest.mark.parametrize("seed", [0, 1])
def test_added_videos_move_none_that_are_listed(tmp_path: Path, seed: int) -> None:
    videos, lists = make_tree(tmp_path / "videos", b=10, d=20), tmp_path / "lists"
    write_folder_lists(videos, lists, shares=SHARES, seed=seed)
    before = splits_in(lists)
    again = write_folder_lists(videos, lists, shares=SHARES, seed=7)
    assert (again.num_kept, again.num_added, splits_in(lists)) == (30, 0, before)

    for number in range(40):
        (videos / "b" / f"0 new {number}.mp4").touch()
    make_tree(videos, a=5, c=0)
    (videos / "d/video 0.mp4").unlink()
    result = write_folder_lists(videos, lists, shares=SHARES, seed=seed)
    after = splits_in(lists)
    kept = {video: place for video, place in before.items() if video != "d/video 0.mp4"}
    assert {video: after[video] for video in kept} == kept
    assert (result.num_kept, result.num_added, len(after)) == (29, 45, 74)
    assert read_class_names(str(lists / "classes.txt")) == ["b", "d", "a"]
    assert {label for video, (_, label) in after.items() if video.startswith("a/")} == {2}
    # As many as a class of 50 gets: a fifth for validation, a tenth for the test.
    assert {split: result.sizes[split]["b"] for split in SIDES} == {
        "train": 35,
        "val": 10,
        "test": 5,
    }


SIDES = ("train", "val", "test")


def test_lists_that_split_has_not_written_are_kept(tmp_path: Path) -> None:
    videos, lists = make_tree(tmp_path / "videos", a=20, b=20), tmp_path / "lists"
    lists.mkdir()
    (lists / "train.csv").write_text("x.mp4,0\n")
    with pytest.raises(
        FileExistsError, match=r"cannot be added to: .*classes\.txt: no such file.*; --force"
    ):
        write_folder_lists(videos, lists, shares=SHARES)
    (lists / "classes.txt").write_text("b\na\n")
    (lists / "train.csv").write_text("b/video 0.mp4,1\n")
    with pytest.raises(
        FileExistsError, match=r"train\.csv lists b/video 0\.mp4 in the class a.*; --force"
    ):
        write_folder_lists(videos, lists, shares=SHARES)
    assert {path.name for path in lists.iterdir()} == {"train.csv", "classes.txt"}
    assert write_folder_lists(videos, lists, shares=SHARES, force=True).num_kept == 0
    assert read_class_names(str(lists / "classes.txt")) == ["a", "b"]


def make_groups(folder: Path) -> Path:
    """12 patients with 2 to 7 videos in each of two classes."""
    for patient in range(12):
        for name in ("fall", "walk"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(2 + patient % 6):
                (folder / name / f"p{patient:02d} {number}.mp4").touch()
    return folder


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_in_one_list_alone(tmp_path: Path, seed: int) -> None:
    videos, lists = make_groups(tmp_path / "videos"), tmp_path / "lists"
    write_folder_lists(
        videos, lists, shares={"val": 0.2, "test": 0.2}, seed=seed, pattern="p[0-9]+"
    )
    places = splits_in(lists)
    groups = {(video.split("/")[1][:3], split) for video, (split, _) in places.items()}
    assert len(groups) == 12
    sizes = Counter(places.values())
    for label in (0, 1):  # 54 videos of each class, 11 of which are a fifth
        assert 7 <= sizes["val", label] <= 15
        assert 7 <= sizes["test", label] <= 15

    (videos / "walk/p03 new.mp4").touch()
    write_folder_lists(videos, lists, shares={"val": 0.2, "test": 0.2}, pattern="(p[0-9]+)")
    assert splits_in(lists)["walk/p03 new.mp4"][0] == places["walk/p03 0.mp4"][0]


def test_a_pattern_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    videos, lists = make_groups(tmp_path / "videos"), tmp_path / "lists"
    (videos / "walk/other.mp4").touch()
    for pattern, message in (
        ("p[0-9]+", r"not found in 1 video: walk/other\.mp4"),
        ("p[0-9", "no regular expression: "),
        (".", "leave no videos for val"),
    ):
        with pytest.raises(ValueError, match=message):
            write_folder_lists(videos, lists, shares=SHARES, pattern=pattern)
    write_folder_lists(videos, lists, shares=SHARES)
    with pytest.raises(ValueError, match=r"the group of .* is in .* and in .*; --force"):
        write_folder_lists(videos, lists, shares=SHARES, pattern="p[0-9]|other")


@pytest.mark.parametrize("pattern", ["", "p[0-9]+"])
def test_each_video_is_validated_in_one_fold(tmp_path: Path, pattern: str) -> None:
    videos, lists = make_groups(tmp_path / "videos"), tmp_path / "lists"
    write_fold_lists(videos, lists, num_folds=4, pattern=pattern)
    folds = [splits_in(lists / f"fold{fold}") for fold in range(1, 5)]
    assert all(len(fold) == 108 for fold in folds)
    validated = [video for fold in folds for video, (split, _) in fold.items() if split == "val"]
    assert sorted(validated) == sorted(folds[0])
    for fold in folds:
        sizes = Counter(fold.values())  # 54 / 4 of each class
        assert all(
            (9 if pattern else 13) <= sizes["val", label] <= (18 if pattern else 14)
            for label in (0, 1)
        )
        if pattern:
            assert (
                len({(video.split("/")[1][:3], split) for video, (split, _) in fold.items()}) == 12
            )

    (videos / "walk/p03 new.mp4").touch()
    assert write_fold_lists(videos, lists, num_folds=4, pattern=pattern).num_kept == 108
    for number, fold in enumerate(folds, 1):
        again = splits_in(lists / f"fold{number}")
        assert {video: again[video] for video in fold} == fold
    with pytest.raises(FileExistsError, match="has more than 3 folds"):
        write_fold_lists(videos, lists, num_folds=3)


def test_more_folds_than_are_there_need_force(tmp_path: Path) -> None:
    videos, lists = make_tree(tmp_path / "videos", b=9, c=9), tmp_path / "lists"
    write_fold_lists(videos, lists, num_folds=3)
    make_tree(tmp_path / "videos", a=1)
    with pytest.raises(FileExistsError, match="lists has only 3 folds; --force"):
        write_fold_lists(videos, lists, num_folds=4)


def test_labels_stay_where_the_last_fold_is_missing(tmp_path: Path) -> None:
    videos, lists = make_tree(tmp_path / "videos", b=9, c=9), tmp_path / "lists"
    write_fold_lists(videos, lists, num_folds=3)
    shutil.rmtree(lists / "fold3")  # as after a call that was stopped
    make_tree(tmp_path / "videos", a=3)
    write_fold_lists(videos, lists, num_folds=3)
    assert read_class_names(str(lists / "fold1/classes.txt")) == ["b", "c", "a"]


def test_all_folds_have_the_same_test(tmp_path: Path) -> None:
    videos, lists = make_tree(tmp_path / "videos", a=20, b=20), tmp_path / "lists"
    write_fold_lists(videos, lists, num_folds=3, test_share=0.2)
    tests = {(lists / f"fold{fold}/test.csv").read_text() for fold in (1, 2, 3)}
    assert [len(text.splitlines()) for text in tests] == [8]
    assert Counter(split for split, _ in splits_in(lists / "fold2").values())["test"] == 8


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        write_folder_lists(tmp_path / "none", tmp_path, shares=SHARES)
    with pytest.raises(FileNotFoundError, match="no class folders with videos"):
        write_folder_lists(make_tree(tmp_path / "empty", a=0), tmp_path, shares=SHARES)
    with pytest.raises(
        ValueError, match="few: no class has more than 2 videos, which leaves none for test"
    ):
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
    touch(
        tmp_path / "videos",
        "a.mp4",
        "deep/er/b c.webm",
        "class/d.mp4",
        "other/d.mp4",
        "e.1.mp4",
        "._gone.mp4",
    )
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
    with pytest.raises(
        ValueError, match=r"a\.mp4 may be replacement/a\.mp4 or train/a\.mp4; take away all but one"
    ):
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
    with pytest.raises(
        FileNotFoundError, match=r"none of the 2 videos of val is there; the first is a\.mp4"
    ):
        find(tmp_path, "a.mp4", "b.mp4")
    assert not (tmp_path / "lists").exists()


def test_a_name_that_no_list_can_hold_leaves_no_list(tmp_path: Path) -> None:
    videos = make_tree(tmp_path / "videos", a=20)
    bad = videos / "a" / os.fsdecode(b"caf\xe9.mp4")
    bad.touch()
    with pytest.raises(ValueError, match=r"caf\\udce9\.mp4': the name is not UTF-8"):
        write_folder_lists(videos, tmp_path / "lists", shares=SHARES)
    assert not (tmp_path / "lists").exists()
    bad.rename(videos / "a" / " new.mp4")
    write_folder_lists(videos, tmp_path / "lists", shares=SHARES)
