"""The arguments, output and exit status of tools/ensemble.py."""

import re
from pathlib import Path

import pytest

from slowfast.evaluation.result import open_result
from tests.evaluation.results import one_hot, write_test
from tests.tools.load_tool import load_main

ensemble = load_main("ensemble")
LABELS = [0, 0, 1, 1]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Results with 3 and 2 of 4 videos right. The mistakes differ."""
    good, bad = one_hot([0, 0, 1, 0], 2), one_hot([1, 1, 1, 1], 2, confidence=3)
    write_test(tmp_path / "good", good, LABELS, weights_sha256="a" * 64)
    write_test(tmp_path / "bad", bad, LABELS, weights_sha256="b" * 64)
    return [str(tmp_path / "good"), str(tmp_path / "bad")]


def test_an_ensemble_is_written_once(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*folders, "--output", str(tmp_path / "new"), "--weights", "2", "1"]
    assert ensemble(command) == 0
    first = capsys.readouterr().out
    assert "ensemble of 2 results, logits" in first
    assert re.search(r"all classes +4 +75\.00", first)  # 2 * 2 is more than 1 * 3
    assert "finished before" not in first

    assert ensemble(command) == 0
    assert capsys.readouterr().out == f"{first}this ensemble was finished before\n"
    assert ensemble([*command[:-1], "2"]) == 1
    assert "new: holds another result" in capsys.readouterr().err


def test_equal_weights_are_the_default(folders: list[str], tmp_path: Path) -> None:
    assert ensemble([*folders, "--output", str(tmp_path / "new")]) == 0
    metrics = open_result(tmp_path / "new").metrics
    assert [member["weight"] for member in metrics["members"]] == [0.5, 0.5]
    assert metrics["top1"] == 50  # the confident member decides


def test_tuned_weights_are_used(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuning = []
    for name, sha256, predictions in (("x", "a", [0, 1, 0, 0]), ("y", "b", [1, 0, 1, 1])):
        write_test(
            tmp_path / name,
            one_hot(predictions, 2),
            [0, 1, 0, 1],
            weights_sha256=sha256 * 64,
            paths=["p", "q", "r", "s"],
        )
        tuning.append(str(tmp_path / name))

    command = [*folders, "--combine", "probabilities", "--output", str(tmp_path / "new")]
    assert ensemble([*command, "--tune", *tuning]) == 0
    output = capsys.readouterr().out
    found = re.search(r"weights: (\S+) (\S+), chosen on 4 videos, where the NLL is (\S+)", output)
    assert found is not None
    # Probabilities of 0.88 and 0.12: the mean NLL is lowest if the ensemble says 3/4.
    assert float(found[1]) == pytest.approx((0.75 - 0.1192) / (0.8808 - 0.1192), abs=1e-3)
    assert float(found[3]) == pytest.approx(0.5623, abs=1e-4)
    members = open_result(tmp_path / "new").metrics["members"]
    assert members[0]["weight"] == pytest.approx(float(found[1]))

    assert ensemble([*command, "--tune", *tuning[::-1]]) == 1
    assert "is a result of other weights" in capsys.readouterr().err


def test_unscored_videos_have_their_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = {row: f"{row}.mp4: broken" for row in range(12)}
    write_test(tmp_path / "a", one_hot([0] * 13, 2), [0] * 13, unreadable=reasons)
    command = [str(tmp_path / "a"), "--output", str(tmp_path / "new")]
    assert ensemble(command) == 3
    captured = capsys.readouterr()
    assert "scored 1/13" in captured.out
    assert f"not scored: member 1 ({tmp_path}/a): 9.mp4: broken\n" in captured.err
    assert captured.err.endswith("not scored: 2 more\n")
    assert ensemble([*command, "--allow-unscored"]) == 0


@pytest.mark.parametrize("weights", [["1"], ["1", "2", "3"], ["0", "0"], ["-1", "2"], ["nan", "1"]])
def test_wrong_weights_are_wrong_usage(
    folders: list[str], tmp_path: Path, weights: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*folders, "--output", str(tmp_path / "new"), "--weights", *weights]
    assert ensemble(command) == 2
    assert "error: argument --weights: " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_weights_are_given_or_chosen(folders: list[str], tmp_path: Path) -> None:
    command = [*folders, "--output", str(tmp_path / "new"), "--weights", "1", "2"]
    with pytest.raises(SystemExit) as error:
        ensemble([*command, "--tune", *folders])
    assert error.value.code == 2
