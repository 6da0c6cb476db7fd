"""The arguments, output and exit status of tools/compare.py."""

from pathlib import Path

import pytest

from tests.evaluation.results import one_hot, write_test
from tests.tools.load_tool import load_main

compare = load_main("compare")
LABELS = [0, 0, 1, 1]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """The OUTPUT_DIR of a test, and the folder of a second one."""
    write_test(tmp_path / "a/test", one_hot([0, 0, 1, 0], 2), LABELS)
    write_test(tmp_path / "b", one_hot([0, 1, 1, 1], 2), LABELS)
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_a_page_and_a_table_are_written(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--html", str(tmp_path / "c.html"), "--csv", str(tmp_path / "c.csv")]
    assert compare([*folders, *files, "--rows", "0"]) == 0
    output = capsys.readouterr().out
    assert f"A  {tmp_path}/a/test  (weights weights.pyth)" in output
    assert "75.00 -> 75.00" in output
    assert "3.mp4" not in output

    assert "<bdi>3.mp4</bdi>" in (tmp_path / "c.html").read_text()
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert len(lines) == 3
    assert '"B",1,"1.mp4",0,"class 0","right -> wrong",0,"class 0",1,"class 1"' in lines


def test_other_lists_are_a_failure(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_test(tmp_path / "c", one_hot([0, 0, 1], 2), LABELS[:3])
    assert compare([*folders, str(tmp_path / "c")]) == 1
    assert "error: " in (message := capsys.readouterr().err)
    assert "row 3 (from 0) is '3.mp4' with label 1 in the first and missing in" in message


def test_one_result_is_wrong_usage(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(folders[:1]) == 2
    assert "name at least two results" in capsys.readouterr().err


def test_a_folder_without_a_result_is_a_failure(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare([folders[0], str(tmp_path / "none")]) == 1
    assert "none: no such folder" in capsys.readouterr().err


def test_metrics_without_a_number_are_a_failure(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(folders[1], "metrics.json")
    path.write_text(path.read_text().replace('"macro_f1":', '"other":', 1))
    assert compare(folders) == 1
    assert "metrics.json: lacks 'macro_f1'" in capsys.readouterr().err
