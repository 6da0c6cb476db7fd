"""Videos that are listed more than once, and classes without videos."""

import numpy as np

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.duplicates import describe_empty_classes, find_repeats


def test_training_videos_in_other_splits_are_named() -> None:
    lists = {
        "train": Annotations(["a", "b", "c"], [0, 1, 1]),
        "val": Annotations(["d", "b", "c"], [0, 1, 0]),
        "test": Annotations(["d"], [0]),  # as in val, which is common
    }
    assert find_repeats(lists) == ["2 of 3 videos of val are also in train: b, c"]
    assert find_repeats({"val": lists["val"], "test": lists["test"]}) == []


def test_the_same_content_is_the_same_video() -> None:
    lists = {
        "train": Annotations(["a", "b"], [0, 1]),
        "test": Annotations(["x", "y"], [0, 1]),
    }
    checksums = {hash("a"): 1, hash("b"): 2, hash("x"): 3, hash("y"): 2}
    assert find_repeats(lists, checksums=checksums) == [
        "1 of 2 videos of test is also in train: y (as b)"
    ]


def test_a_video_with_two_labels_is_named() -> None:
    rows = Annotations(["a", "b", "a", "c", "b", "d"], [0, 1, 2, 2, 1, 0])
    assert find_repeats({"train": rows}) == ["1 video of train has two labels: a (0 and 2)"]
    checksums = {hash("c"): 1, hash("d"): 1}
    assert find_repeats({"train": rows}, checksums=checksums) == [
        "2 videos of train have two labels: a (0 and 2), d (0 and 2 as c)"
    ]


def test_many_repeats_are_counted() -> None:
    paths = [str(number) for number in range(9)]
    lists = {"train": Annotations(paths, [0] * 9), "val": Annotations(paths, [0] * 9)}
    assert find_repeats(lists) == [
        "9 of 9 videos of val are also in train: 0, 1, 2, 3, 4 and 4 more"
    ]


def test_classes_without_videos_are_named() -> None:
    labels = np.array([0, 2, 2], np.int32)
    described = describe_empty_classes(labels, ["a", "b", "c", "d"], purpose="training")
    assert described == "2 of 4 classes have no training videos: b, d"
    assert describe_empty_classes(labels, ["a", "b", "c"], purpose="training").startswith("1 of 3")
    assert describe_empty_classes(np.arange(2, dtype=np.int32), ["a", "b"], purpose="x") == ""
