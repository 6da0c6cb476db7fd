"""Tests on lists without labels: predictions, counts of classes, and no accuracy anywhere."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slowfast.evaluation.compare import compare
from slowfast.evaluation.console_table import format_table
from slowfast.evaluation.ensemble import make_ensemble, write_ensemble
from slowfast.evaluation.ensemble_weights import choose_weights
from slowfast.evaluation.report.content import read_content
from slowfast.evaluation.report.page import write_report
from slowfast.evaluation.result import Result, open_result, parse_metrics
from slowfast.evaluation.same_list import check_same_list
from slowfast.evaluation.stored_temperature import fit_to_result
from tests.evaluation.results import one_hot, write_test

NAMES = ["left", 'right, "fast"', "up"]
# With logits log 8, 0, 0, the prediction has a probability of 0.8. With log 2, it has 0.5.
LOGITS = np.log(np.array([[8, 1, 1], [1, 2, 1], [8, 1, 1], [1, 1, 1]]))


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """Videos that are predicted as left, right and left, and an unreadable one."""
    paths = ["a.mp4", "b, c.mp4", "é.mp4", "d.mp4"]
    reasons = {3: 'd.mp4: "no such file"'}
    folder = tmp_path / "result"
    return write_test(
        folder, LOGITS, None, paths=paths, class_names=NAMES, unreadable=reasons, weights="w.pyth"
    )


def read_csv(result: Result) -> list[list[str]]:
    text = (result.folder / "predictions.csv").read_bytes().decode()
    assert text.count("\r\n") == text.count("\n") == result.record.num_videos + 1
    return list(csv.reader(text.splitlines()))


def test_metrics_count_what_is_predicted(result: Result) -> None:
    metrics = result.metrics
    assert not metrics["is_labeled"]
    assert [metrics[f"num_{name}"] for name in ("videos", "scored", "unreadable")] == [4, 3, 1]
    assert metrics["mean_confidence"] == pytest.approx(70, abs=1e-5)
    assert [entry["predicted"] for entry in metrics["classes"]] == [2, 1, 0]
    bins = {entry["low"]: entry for entry in metrics["confidences"] if entry["count"]}
    assert [(round(low), entry["count"]) for low, entry in bins.items()] == [(47, 1), (80, 2)]
    assert bins[80]["confidence"] == pytest.approx(80, abs=1e-5)
    assert not re.search("top1|top5|accuracy|confusion|nll|ece", json.dumps(metrics))


def test_nonfinite_scores_are_no_predictions(tmp_path: Path) -> None:
    logits = LOGITS.copy()
    logits[0, 2] = np.inf
    result = write_test(tmp_path, logits, None)
    counts = [result.metrics[f"num_{name}"] for name in ("videos", "scored", "nonfinite")]
    assert counts == [4, 3, 1]
    assert [row[1:4] for row in read_csv(result)[1:3]] == [
        ["", "", "nonfinite"],
        ["class 1", "0.5", "scored"],
    ]

    with pytest.raises(ValueError, match=r"no video of 1 has scores\. The first one: 0\.mp4"):
        write_test(tmp_path / "none", logits[:1], None)


def test_predictions_have_no_label_columns(result: Result) -> None:
    table = result.predictions()
    for name in ("label", "class_name", "label_rank", "nll"):
        assert table[name].null_count == 4
    assert table["prediction"].to_pylist() == [0, 1, 0, None]
    assert table["top_names"].to_pylist()[0] == ["left", 'right, "fast"', "up"]
    assert table["num_views"].to_pylist() == [1, 1, 1, 0]


def test_the_csv_file_has_path_class_and_probability(result: Result, tmp_path: Path) -> None:
    rows = read_csv(result)
    assert rows[0] == ["path", "class", "probability", "status", "reason"]
    assert rows[2:] == [
        ["b, c.mp4", 'right, "fast"', "0.5", "scored", ""],
        ["é.mp4", "left", rows[1][2], "scored", ""],
        ["d.mp4", "", "", "unreadable", 'd.mp4: "no such file"'],
    ]
    top = result.predictions("top_probabilities")["top_probabilities"].to_pylist()[0][0]
    assert np.float32(rows[1][2]) == np.float32(top) == pytest.approx(0.8)

    labeled = write_test(tmp_path / "labeled", LOGITS, [0, 1, 2, 0], class_names=NAMES)
    assert read_csv(labeled)[1] == ["0.mp4", "left", rows[1][2], "scored", ""]


def test_the_csv_file_has_the_spans_of_a_list(tmp_path: Path) -> None:
    paths = ["a.mp4#t=0,1.5", "a.mp4", "b#c.mkv#t=12.25,1e-07"]
    result = write_test(tmp_path, LOGITS[:3], None, paths=paths, class_names=NAMES)
    assert [row[:1] + row[3:5] for row in read_csv(result)] == [
        ["path", "start", "end"],
        ["a.mp4", "0", "1.5"],
        ["a.mp4", "", ""],
        ["b#c.mkv", "12.25", "1e-07"],
    ]


def test_the_console_shows_at_most_ten_lines_of_classes(result: Result, tmp_path: Path) -> None:
    assert format_table(parse_metrics(result.metrics), title="test").splitlines() == [
        "test",
        "  predicted class  videos       %",
        "  left                  2   66.67",
        '  right, "fast"         1   33.33',
        "  predicted 3/4, with a mean confidence of 70.00 %. The list has no labels, so there is "
        "no accuracy",
    ]

    logits = one_hot([*range(11), 10, 10], 12)
    many = write_test(tmp_path / "many", logits, None)
    lines = format_table(parse_metrics(many.metrics), title="test").splitlines()
    assert len(lines) == 3 + 10
    assert lines[2].split() == ["class", "10", "3", "23.08"]
    assert lines[11].split() == ["2", "other", "classes", "2", "15.38"]


def test_an_ensemble_predicts_what_it_predicts_with_labels(result: Result, tmp_path: Path) -> None:
    other = one_hot([2, 2, 0, 1], 3, confidence=5)
    tables = []
    for name, labels in (("unlabeled", None), ("labeled", [0, 1, 2, 0])):
        members = [
            write_test(tmp_path / name / str(number), logits, labels, class_names=NAMES)
            for number, logits in enumerate((LOGITS, other))
        ]
        folder = tmp_path / name / "ensemble"
        assert write_ensemble(make_ensemble(members, weights=[1, 1]), folder)
        tables.append(open_result(folder).predictions("prediction", "top_probabilities", "status"))

    assert tables[0].equals(tables[1])
    unlabeled = open_result(tmp_path / "unlabeled/ensemble")
    assert not unlabeled.record.is_labeled
    assert unlabeled.metrics["num_scored"] == 4
    assert [member["top1"] for member in unlabeled.metrics["members"]] == [None, None]


@pytest.mark.parametrize(
    ("use", "purpose"),
    [
        (lambda result: compare([result, result]), "compare results"),
        (fit_to_result, "fit the temperature"),
        (lambda result: choose_weights([result, result], combine="logits"), "choose the weights"),
    ],
)
def test_what_needs_labels_names_the_result(
    result: Result, use: Callable[[Result], object], purpose: str
) -> None:
    message = f"{result.folder}: its list has no labels, so there is nothing to {purpose} by"
    with pytest.raises(ValueError, match=message):
        use(result)


def test_lists_with_and_without_labels_differ(result: Result, tmp_path: Path) -> None:
    names = {"paths": ["a.mp4", "b, c.mp4", "é.mp4", "d.mp4"], "class_names": NAMES}
    labeled = write_test(tmp_path / "labeled", LOGITS, [0, 1, 2, 0], **names)  # type: ignore[arg-type]
    message = r"row 0 .* is 'a\.mp4' with no label in the first and 'a\.mp4' with label 0"
    with pytest.raises(ValueError, match=message):
        check_same_list([result, labeled])

    names["paths"][1] = "x.mp4"
    moved = write_test(tmp_path / "moved", LOGITS, None, **names)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"row 1 .* is 'b, c\.mp4' with no label .* 'x\.mp4'"):
        check_same_list([result, moved])


def test_the_page_shows_classes_and_uncertain_videos(result: Result) -> None:
    content = read_content(result.folder)
    assert [video.row for video in content.highlights] == [1, 0, 2]
    page = write_report(result.folder, training=None, thumbnails=None).read_text()
    assert re.search(r"<title>Test report: 3 predicted videos</title>", page)
    assert re.search(r'<th scope="row"><bdi>left</bdi></th><td .*>2</td><td .*>66\.67%</td>', page)
    assert "no labels, so there are no accuracies" in page
    assert "Least confident predictions" in page
    body = page[page.index("</style>") : page.index("<script")]
    assert not re.search("Top-1|Confusion|[Mm]istake|Rank of label", body)


def test_damage_of_an_unlabeled_result_is_named(result: Result) -> None:
    path = result.folder / "metrics.json"
    whole = json.loads(path.read_text())
    del whole["confidences"]
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"has no 'confidences'\. Run the test again"):
        read_content(result.folder)

    whole["is_labeled"] = True
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="has no 'top1'"):
        read_content(result.folder)


def test_results_from_before_lists_without_labels_are_read(tmp_path: Path) -> None:
    result = write_test(tmp_path, LOGITS, [0, 1, 2, 0], class_names=NAMES)
    for name in ("test.json", "metrics.json"):
        content = json.loads((tmp_path / name).read_text())
        assert content.pop("is_labeled")
        (tmp_path / name).write_text(json.dumps(content))
    assert open_result(tmp_path) == result
