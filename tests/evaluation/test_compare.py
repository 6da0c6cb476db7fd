"""Comparison of tests: numbers by hand, and refused results of other lists or classes."""

import re
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
from scipy.stats import binomtest

from slowfast.evaluation import compare_page
from slowfast.evaluation.compare import compare, write_changed_videos
from slowfast.evaluation.compare_page import render_page
from slowfast.evaluation.compare_text import format_comparison
from slowfast.evaluation.result import Result
from tests.evaluation.results import one_hot, write_test

LABELS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
FIRST = [0, 0, 0, 1, 1, 1, 0, 2, 0, 0]  # right: 3 of 4, 2 of 3, 1 of 3
OTHER = [0, 0, 1, 0, 1, 0, 0, 2, 2, 2]  # right: 3 of 4, 1 of 3, 3 of 3
UNREADABLE = "7.mp4: no video stream"


@pytest.fixture
def first(tmp_path: Path) -> Result:
    """A result with 6 of 10 videos right."""
    return write_test(tmp_path / "first", one_hot(FIRST, 3), LABELS)


@pytest.fixture
def other(tmp_path: Path) -> Result:
    """A result that did not score row 7, and has 6 of the other 9 right."""
    logits = one_hot(OTHER, 3, confidence=3)
    return write_test(tmp_path / "other", logits, LABELS, unreadable={7: UNREADABLE})


def test_accuracies_are_of_the_videos_both_scored(first: Result, other: Result) -> None:
    (difference,) = compare([first, other]).differences
    assert difference.num_videos == 9
    assert difference.before == pytest.approx(100 * 5 / 9)  # row 7 is right in the first
    assert difference.after == pytest.approx(100 * 6 / 9)
    assert (difference.only_before, difference.only_after) == (2, 3)
    assert difference.p_value == 1  # 2 of 5 coins, or more extreme


def test_mcnemar_and_the_interval_are_of_the_other_side(tmp_path: Path) -> None:
    # Ten videos: both right on 2, only the second right on 8. Every resample gains 0 or more.
    labels = [0] * 10
    worse = write_test(tmp_path / "a", one_hot([0] * 2 + [1] * 8, 2), labels)
    better = write_test(tmp_path / "b", one_hot([0] * 10, 2), labels)
    gain, loss = compare([worse, better]), compare([better, worse])

    assert gain.differences[0].p_value == pytest.approx(binomtest(0, 8, 0.5).pvalue)
    low, high = gain.differences[0].interval
    assert 30 <= low <= 80 <= high <= 100
    assert loss.differences[0].interval == pytest.approx((-high, -low), abs=11)
    assert loss.differences[0].interval[1] < 0


def test_changed_classes_by_hand(first: Result, other: Result) -> None:
    classes = compare([first, other]).differences[0].classes
    # Class 0 stays at 3 of 4, class 1 falls from 2 to 1 of 3, class 2 rises from 0 to 2 of 2.
    assert [(change.label, change.support) for change in classes] == [(2, 2), (1, 3)]
    assert (classes[0].before, classes[0].after) == (0, 100)
    assert classes[1].difference == pytest.approx(-100 / 3)

    classes = compare([other, first]).differences[0].classes
    assert [change.difference for change in classes] == pytest.approx([-100, 100 / 3])


def test_changed_videos_by_hand(first: Result, other: Result) -> None:
    videos = compare([first, other]).differences[0].videos
    found = {video["row"]: video for video in videos.to_pylist()}
    assert {row: video["change"] for row, video in found.items()} == {
        2: "right -> wrong",
        3: "wrong -> right",
        5: "right -> wrong",
        8: "wrong -> right",
        9: "wrong -> right",
    }
    assert found[9] == {
        "row": 9,
        "path": "9.mp4",
        "label": 2,
        "class_name": "class 2",
        "change": "wrong -> right",
        "prediction_before": 0,
        "name_before": "class 0",
        "prediction_after": 2,
        "name_after": "class 2",
    }


def test_the_largest_change_of_the_label_comes_first(tmp_path: Path) -> None:
    labels, unsure, sure = [0, 0, 0], one_hot([1, 1, 1], 2), one_hot([0, 0, 0], 2)
    sure[:, 0] = [1, 9, 4]
    results = [write_test(tmp_path / "a", unsure, labels), write_test(tmp_path / "b", sure, labels)]
    assert compare(results).differences[0].videos["row"].to_pylist() == [1, 2, 0]


def test_three_results_are_compared_with_the_first(first: Result, tmp_path: Path) -> None:
    same = write_test(tmp_path / "same", one_hot(FIRST, 3), LABELS)
    right = write_test(tmp_path / "right", one_hot(LABELS, 3), LABELS)
    second, third = compare([first, same, right]).differences
    assert (second.letter, len(second.videos)) == ("B", 0)
    margin = 100 - 100 * 0.025 ** (1 / len(LABELS))  # no difference in so few videos
    assert second.interval == pytest.approx((-margin, margin))
    assert (third.letter, third.after, len(third.videos)) == ("C", 100, 4)


def test_the_text_has_every_number(first: Result, other: Result) -> None:
    text = format_comparison(compare([first, other]), max_rows=1)
    assert re.search(r"scored +10/10 +9/10\n", text)
    assert re.search(r"top-1 \(%\) +60\.00 \(\d.*\) +66\.67 \(", text)
    assert "B against A, over the 9 of 10 listed videos that both scored" in text
    assert "55.56 -> 66.67, difference +11.11 (95 % interval -" in text
    assert "Only B classifies 3 videos correctly, only A 2" in text
    assert re.search(r"class 2 +2 +0\.00 +100\.00 +\+100\.00\n    and 1 more", text)
    assert re.search(r"right -> wrong: 2 videos\n.*\n    \d .*\.mp4\n    and 1 more", text)


def test_control_characters_are_not_printed(tmp_path: Path) -> None:
    paths, names = ["\x1b[2J\n.mp4"], ["\x1b[1m", "b"]
    results = [
        write_test(tmp_path / str(wrong), one_hot([wrong], 2), [0], paths=paths, class_names=names)
        for wrong in (0, 1)
    ]
    text = format_comparison(compare(results))
    assert r"\x1b[2J\n.mp4" in text
    assert "\x1b" not in text


def test_csv_has_all_changed_videos(first: Result, other: Result, tmp_path: Path) -> None:
    right = write_test(tmp_path / "right", one_hot(LABELS, 3), LABELS)
    comparison = compare([first, other, right])
    write_changed_videos(tmp_path / "new/changed.csv", comparison)

    table = pyarrow.csv.read_csv(tmp_path / "new/changed.csv")
    assert table["result"].to_pylist() == ["B"] * 5 + ["C"] * 4
    columns = comparison.differences[0].videos.column_names
    assert table.column_names == ["result", *columns]
    rows = [video for change in comparison.differences for video in change.videos.to_pylist()]
    assert table.select(columns).to_pylist() == rows


def test_csv_quotes_paths(tmp_path: Path) -> None:
    paths = ['a,"b"\nc.mp4']
    results = [
        write_test(tmp_path / str(wrong), one_hot([wrong], 2), [0], paths=paths) for wrong in (0, 1)
    ]
    write_changed_videos(tmp_path / "changed.csv", compare(results))
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    table = pyarrow.csv.read_csv(tmp_path / "changed.csv", parse_options=options)
    assert table["path"].to_pylist() == paths


def test_the_page_has_the_numbers_of_the_text(first: Result, other: Result) -> None:
    page = render_page(compare([first, other]))
    assert '<td class="num">10/10</td><td class="num">9/10</td>' in page
    assert "B against A, over the 9 of 10 listed videos that both scored" in page
    assert "<h3>Videos right → wrong: 2</h3>" in page
    for row in (2, 3, 5, 8, 9):
        assert f"<bdi>{row}.mp4</bdi>" in page
    assert not re.search(r"<script|https?://| src=| href=", page)


def test_the_page_escapes_names(tmp_path: Path) -> None:
    paths, names = ["<script>alert(1)</script>.mp4"], ["<b>", "&"]
    results = [
        write_test(tmp_path / str(wrong), one_hot([wrong], 2), [0], paths=paths, class_names=names)
        for wrong in (0, 1)
    ]
    page = render_page(compare(results))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.mp4" in page
    assert "<bdi>&lt;b&gt;</bdi>" in page
    assert "<script" not in page


def test_a_long_table_of_the_page_is_cut_and_counted(
    first: Result, other: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_page, "MAX_VIDEOS", 1)
    page = render_page(compare([first, other]))
    assert page.count('<p class="note">and 1 more</p>') == 1
    assert page.count('<p class="note">and 2 more</p>') == 1
    assert "<h3>Videos right → wrong: 2</h3>" in page


def test_another_path_is_refused_with_its_row(first: Result, tmp_path: Path) -> None:
    paths = [f"{row}.mp4" for row in range(10)]
    paths[4] = "new.mp4"
    other = write_test(tmp_path / "other", one_hot(OTHER, 3), LABELS, paths=paths)
    message = (
        r"first and .*other are results of different lists: row 4 \(from 0\) is '4\.mp4' with "
        r"label 1 in the first and 'new\.mp4' with label 1 in the second\."
    )
    with pytest.raises(ValueError, match=message):
        compare([first, other])


def test_another_label_is_refused_with_its_row(first: Result, tmp_path: Path) -> None:
    labels = [*LABELS[:9], 1]
    other = write_test(tmp_path / "other", one_hot(OTHER, 3), labels)
    with pytest.raises(ValueError, match=r"row 9 .*'9\.mp4' with label 2 .* with label 1 in"):
        compare([first, other])


def test_a_longer_list_is_refused(first: Result, tmp_path: Path) -> None:
    longer = write_test(tmp_path / "longer", one_hot([*FIRST, 0], 3), [*LABELS, 0])
    message = r"row 10 \(from 0\) is missing in the first and '10\.mp4' with label 0 in the second"
    with pytest.raises(ValueError, match=message):
        compare([first, longer])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["class 0", "dog", "class 2"], r"class 1 \(from 0\) is 'class 1' in the .* and 'dog' in"),
        (["class 0", "class 1"], r"class 2 .* and missing in the second, of 3 classes and 2"),
    ],
)
def test_other_classes_are_refused(
    first: Result, tmp_path: Path, names: list[str], message: str
) -> None:
    labels = np.minimum(LABELS, len(names) - 1).tolist()
    other = write_test(tmp_path / "b", one_hot(labels, len(names)), labels, class_names=names)
    with pytest.raises(ValueError, match=message):
        compare([first, other])


def test_results_without_a_common_video_are_refused(tmp_path: Path) -> None:
    results = [
        write_test(tmp_path / str(row), one_hot([0, 0], 2), [0, 0], unreadable={row: "broken"})
        for row in (0, 1)
    ]
    with pytest.raises(ValueError, match="no video was scored both by"):
        compare(results)
