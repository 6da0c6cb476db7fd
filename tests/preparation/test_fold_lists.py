"""Lists for a cross-validation of your own videos."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from slowfast.datasets.class_name_files import read_class_names
from slowfast.preparation.fold_lists import write_fold_lists
from tests.preparation.folders import make_classes, make_patients, read_splits


@pytest.mark.parametrize("pattern", ["", "p[0-9]+"])
def test_each_video_is_validated_in_one_fold(tmp_path: Path, pattern: str) -> None:
    videos, lists = make_patients(tmp_path / "videos"), tmp_path / "lists"
    write_fold_lists(videos, lists, num_folds=4, pattern=pattern)
    folds = [read_splits(lists / f"fold{fold}") for fold in range(1, 5)]
    assert all(len(fold) == 108 for fold in folds)
    validated = [video for fold in folds for video, (split, _) in fold.items() if split == "val"]
    assert sorted(validated) == sorted(folds[0])

    least, most = (9, 18) if pattern else (13, 14)  # around 54 / 4 videos of each class
    for fold in folds:
        sizes = Counter(fold.values())
        assert all(least <= sizes["val", label] <= most for label in (0, 1))
        patients = {(video.split("/")[1][:3], split) for video, (split, _) in fold.items()}
        assert not pattern or len(patients) == 12

    (videos / "walk/p03 new.mp4").touch()
    assert write_fold_lists(videos, lists, num_folds=4, pattern=pattern).num_kept == 108
    for number, fold in enumerate(folds, 1):
        again = read_splits(lists / f"fold{number}")
        assert {video: again[video] for video in fold} == fold
    with pytest.raises(FileExistsError, match="has more than 3 folds"):
        write_fold_lists(videos, lists, num_folds=3)


def test_more_folds_than_before_need_force(tmp_path: Path) -> None:
    videos, lists = make_classes(tmp_path / "videos", b=9, c=9), tmp_path / "lists"
    write_fold_lists(videos, lists, num_folds=3)
    make_classes(tmp_path / "videos", a=1)
    with pytest.raises(FileExistsError, match=r"lists has only 3 folds. Use --force"):
        write_fold_lists(videos, lists, num_folds=4)


def test_labels_stay_if_the_last_fold_is_missing(tmp_path: Path) -> None:
    videos, lists = make_classes(tmp_path / "videos", b=9, c=9), tmp_path / "lists"
    write_fold_lists(videos, lists, num_folds=3)
    shutil.rmtree(lists / "fold3")  # as after an interrupted call
    make_classes(tmp_path / "videos", a=3)
    write_fold_lists(videos, lists, num_folds=3)
    assert read_class_names(str(lists / "fold1/classes.txt")) == ["b", "c", "a"]


def test_all_folds_have_the_same_test(tmp_path: Path) -> None:
    videos, lists = make_classes(tmp_path / "videos", a=20, b=20), tmp_path / "lists"
    write_fold_lists(videos, lists, num_folds=3, test_share=0.2)
    tests = {(lists / f"fold{fold}/test.csv").read_text() for fold in (1, 2, 3)}
    assert [len(text.splitlines()) for text in tests] == [8]
    assert Counter(split for split, _ in read_splits(lists / "fold2").values())["test"] == 8
