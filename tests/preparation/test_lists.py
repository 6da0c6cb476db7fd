"""Lists of your own videos, split class by class."""

import os
from collections import Counter
from pathlib import Path

import pytest

from slowfast.datasets.annotation_lists import Source, read_path_list
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.class_name_files import read_class_names
from slowfast.preparation.available_lists import write_available_lists
from slowfast.preparation.fold_lists import write_fold_lists
from slowfast.preparation.lists import write_folder_lists
from slowfast.preparation.splits import SPLITS, split_sizes
from tests.preparation.folders import make_classes, make_patients, read_splits

SHARES = {"val": 0.2, "test": 0.1}


def test_every_video_is_in_one_list_with_the_label_of_its_folder(tmp_path: Path) -> None:
    videos, lists = make_classes(tmp_path / "videos", zebra=10, ant=20), tmp_path / "lists"
    # The test gets a tenth, but at least a fifth of 10 videos, and at least 3 of 20.
    assert write_folder_lists(videos, lists, shares=SHARES).sizes == {
        "train": {"ant": 13, "zebra": 6},
        "val": {"ant": 4, "zebra": 2},
        "test": {"ant": 3, "zebra": 2},
    }
    assert read_class_names(str(lists / "classes.txt")) == ["ant", "zebra"]

    seen = []
    for split in SPLITS:
        rows = read_path_list(Source(str(lists / f"{split}.csv"), 2, separator=","))
        seen += [rows[row] for row in range(len(rows))]
        assert {video.label for video in seen[-len(rows) :]} == {0, 1}

    assert {video.path for video in seen} == {
        str(path.relative_to(videos)) for path in videos.rglob("*.mp4")
    }
    assert len(seen) == 30
    assert all(video.path.startswith(["ant", "zebra"][video.label]) for video in seen)


def test_a_class_too_small_for_all_lists_is_in_some(tmp_path: Path) -> None:
    videos = make_classes(tmp_path / "videos", few=2, many=3, one=1)
    assert write_folder_lists(videos, tmp_path / "lists", shares=SHARES).sizes == {
        "train": {"few": 1, "many": 1, "one": 1},
        "val": {"few": 1, "many": 1, "one": 0},
        "test": {"few": 0, "many": 1, "one": 0},
    }


def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    for shares in ({"val": 0.5, "test": 0.5}, {"val": -0.1, "test": 0.1}):
        with pytest.raises(ValueError, match="less than 1 together, so that some videos are left"):
            write_folder_lists(make_classes(tmp_path / str(shares), a=9), tmp_path, shares=shares)


def test_the_split_is_a_function_of_its_seed(tmp_path: Path) -> None:
    videos = make_classes(tmp_path / "videos", a=20, b=20)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_folder_lists(videos, tmp_path / name, shares=SHARES, seed=seed)
    one, two, three = (
        (tmp_path / name / "val.csv").read_text() for name in ("one", "two", "three")
    )
    assert one == two != three


def test_a_share_of_0_means_no_list(tmp_path: Path) -> None:
    videos, lists = make_classes(tmp_path / "videos", a=20, b=2), tmp_path / "lists"
    write_folder_lists(videos, lists, shares=SHARES)
    for shares, names in (({"val": 0.2, "test": 0}, "train val"), ({"val": 0, "test": 0}, "train")):
        write_folder_lists(videos, lists, shares=shares, force=True)
        assert sorted(path.stem for path in lists.glob("*.csv")) == names.split()
        assert len(read_splits(lists)) == 22
    assert split_sizes(2, shares={"val": 0, "test": 0.1}) == {"train": 1, "val": 0, "test": 1}


@pytest.mark.parametrize("seed", [0, 1])
def test_added_videos_move_none_that_are_listed(tmp_path: Path, seed: int) -> None:
    videos, lists = make_classes(tmp_path / "videos", b=10, d=20), tmp_path / "lists"
    write_folder_lists(videos, lists, shares=SHARES, seed=seed)
    before = read_splits(lists)
    again = write_folder_lists(videos, lists, shares=SHARES, seed=7)
    assert (again.num_kept, again.num_added, read_splits(lists)) == (30, 0, before)

    for number in range(40):
        (videos / "b" / f"0 new {number}.mp4").touch()
    make_classes(videos, a=5, c=0)
    (videos / "d/video 0.mp4").unlink()
    result = write_folder_lists(videos, lists, shares=SHARES, seed=seed)

    after = read_splits(lists)
    kept = {video: listed for video, listed in before.items() if video != "d/video 0.mp4"}
    assert {video: after[video] for video in kept} == kept
    assert (result.num_kept, result.num_added, len(after)) == (29, 45, 74)
    assert read_class_names(str(lists / "classes.txt")) == ["b", "d", "a"]
    assert {label for video, (_, label) in after.items() if video.startswith("a/")} == {2}
    # Of 50 videos, validation gets a fifth and the test a tenth.
    assert {split: result.sizes[split]["b"] for split in SPLITS} == {
        "train": 35,
        "val": 10,
        "test": 5,
    }


def test_one_more_video_moves_few_where_all_are_reassigned(tmp_path: Path) -> None:
    videos, lists = make_classes(tmp_path / "videos", a=40), tmp_path / "lists"
    write_folder_lists(videos, lists, shares=SHARES)
    before = read_splits(lists)
    (videos / "a/0 new.mp4").touch()
    write_folder_lists(videos, lists, shares=SHARES, force=True)
    after = read_splits(lists)
    assert len(after) == 41
    num_moved = sum(after[video] != assigned for video, assigned in before.items())
    assert num_moved <= 3  # at the ends of the lists


def test_lists_of_something_else_are_never_replaced(tmp_path: Path) -> None:
    videos, lists = make_classes(tmp_path / "videos", a=20, b=20), tmp_path / "lists"
    lists.mkdir()
    (lists / "train.csv").write_text("x.mp4,0\n")
    with pytest.raises(
        FileExistsError, match=r"cannot add to .*classes\.txt: no such file.*. Use --force"
    ):
        write_folder_lists(videos, lists, shares=SHARES)

    (lists / "classes.txt").write_text("b\na\n")
    (lists / "train.csv").write_text("b/video 0.mp4,1\n")
    with pytest.raises(
        FileExistsError, match=r"train\.csv lists b/video 0\.mp4 in the class a.*. Use --force"
    ):
        write_folder_lists(videos, lists, shares=SHARES)

    assert {path.name for path in lists.iterdir()} == {"train.csv", "classes.txt"}
    assert write_folder_lists(videos, lists, shares=SHARES, force=True).num_kept == 0
    assert read_class_names(str(lists / "classes.txt")) == ["a", "b"]


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_in_one_list_alone(tmp_path: Path, seed: int) -> None:
    videos, lists = make_patients(tmp_path / "videos"), tmp_path / "lists"
    shares = {"val": 0.2, "test": 0.2}
    write_folder_lists(videos, lists, shares=shares, seed=seed, pattern="p[0-9]+")
    before = read_splits(lists)
    groups = {(video.split("/")[1][:3], split) for video, (split, _) in before.items()}
    assert len(groups) == 12
    sizes = Counter(before.values())
    for label in (0, 1):  # each class has 54 videos, and a fifth of them is 11
        assert 7 <= sizes["val", label] <= 15
        assert 7 <= sizes["test", label] <= 15

    (videos / "walk/p03 new.mp4").touch()
    write_folder_lists(videos, lists, shares=shares, pattern="(p[0-9]+)")
    assert read_splits(lists)["walk/p03 new.mp4"][0] == before["walk/p03 0.mp4"][0]


def test_a_pattern_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    videos, lists = make_patients(tmp_path / "videos"), tmp_path / "lists"
    (videos / "walk/other.mp4").touch()
    for pattern, message in (
        ("p[0-9]+", r"not found in 1 video: walk/other\.mp4"),
        ("p[0-9", "no regular expression: "),
        (".", "leave no videos for val"),
    ):
        with pytest.raises(ValueError, match=message):
            write_folder_lists(videos, lists, shares=SHARES, pattern=pattern)

    write_folder_lists(videos, lists, shares=SHARES)
    with pytest.raises(ValueError, match=r"the group of .* is in .* and in .*. Use --force"):
        write_folder_lists(videos, lists, shares=SHARES, pattern="p[0-9]|other")


def test_the_written_class_names_are_those_of_the_folders(tmp_path: Path) -> None:
    # Written as plain lines, these would be numbered ones.
    names = sorted(f"{number} action{number}" for number in range(1, 11))
    videos = make_classes(tmp_path / "videos", **dict.fromkeys(names, 3))
    write_folder_lists(videos, tmp_path / "split", shares=SHARES)
    write_fold_lists(videos, tmp_path / "folds", num_folds=2)
    write_available_lists(
        {"val": Annotations(["1 action1/video 0.mp4"], [0])},
        tmp_path / "available",
        videos=videos,
        class_names=names,
        list_names={"val": "val.csv"},
    )
    for lists in ("split", "folds/fold1", "folds/fold2", "available"):
        assert read_class_names(str(tmp_path / lists / "classes.txt")) == names


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        write_folder_lists(tmp_path / "none", tmp_path, shares=SHARES)
    with pytest.raises(FileNotFoundError, match="no class folders with videos"):
        write_folder_lists(make_classes(tmp_path / "empty", a=0), tmp_path, shares=SHARES)
    with pytest.raises(
        ValueError, match="few: no class has more than 2 videos, which leaves none for test"
    ):
        write_folder_lists(make_classes(tmp_path / "few", a=2, b=1), tmp_path, shares=SHARES)


def test_a_name_that_no_list_can_hold_leaves_no_list(tmp_path: Path) -> None:
    videos = make_classes(tmp_path / "videos", a=20)
    unlistable = videos / "a" / os.fsdecode(b"caf\xe9.mp4")
    unlistable.touch()
    with pytest.raises(ValueError, match=r"caf\\udce9\.mp4': the name is not UTF-8"):
        write_folder_lists(videos, tmp_path / "lists", shares=SHARES)
    assert not (tmp_path / "lists").exists()

    unlistable.rename(videos / "a" / " new.mp4")
    write_folder_lists(videos, tmp_path / "lists", shares=SHARES)
