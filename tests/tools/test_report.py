"""tools/report.py: the page that it writes, its messages and its exit status."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slowfast.config import CfgNode
from slowfast.datasets.catalog import build_annotations
from tests.evaluation.result_folders import write_result_folder

Tool = Callable[[list[str]], int]


@pytest.fixture
def report(repository: Path) -> Tool:
    """The tool's main function."""
    spec = importlib.util.spec_from_file_location("report", repository / "tools/report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def tested_folder(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> Path:
    """A result whose paths and config are those of videos that exist."""
    cfg = tiny_cfg()
    annotations = build_annotations(cfg, "test")
    names = [annotations[row].name for row in range(len(annotations))]
    folder = write_result_folder(
        tmp_path / "run", num_videos=len(names), path_of=lambda row: names[row]
    )
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def test_the_page_has_thumbnails_and_training(
    report: Tool, tested_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report([str(tested_folder.parent)]) == 0
    page = tested_folder / "report.html"
    output = capsys.readouterr()
    assert output.out == f"report: {page}\n"
    assert output.err == ""
    assert "data:image/jpeg" in page.read_text()
    assert 'id="training"' in page.read_text()


def test_no_thumbnails_means_no_frames(report: Tool, tested_folder: Path) -> None:
    assert report([str(tested_folder), "--no-thumbnails"]) == 0
    text = (tested_folder / "report.html").read_text()
    assert "data:image/jpeg" not in text
    assert "written without thumbnails" in text


def test_videos_that_moved_leave_a_page_and_a_warning(
    report: Tool, tested_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tested_folder / "predictions.parquet"
    table = pq.read_table(path)
    moved = pa.array([f"moved/{row}.mp4" for row in range(len(table))])
    pq.write_table(table.set_column(table.schema.get_field_index("path"), "path", moved), path)

    assert report([str(tested_folder)]) == 0
    assert "this row of the list holds another video now" in capsys.readouterr().err
    assert "No thumbnail: " in (tested_folder / "report.html").read_text()


def test_a_config_that_does_not_load_is_a_warning(
    report: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_result_folder(tmp_path)
    (folder / "config.yaml").write_text("NO_SUCH_KEY: 1\n")
    assert report([str(folder)]) == 0
    assert "warning: no thumbnails: " in capsys.readouterr().err
    assert "NO_SUCH_KEY" in (folder / "report.html").read_text()


def test_a_missing_directory_is_wrong_usage(
    report: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report([str(tmp_path / "missing")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/missing: there is no such directory\n"


def test_a_directory_without_result_is_an_error(
    report: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report([str(tmp_path)]) == 1
    assert f"error: {tmp_path}: holds no metrics.json" in capsys.readouterr().err


def test_a_damaged_result_is_an_error(
    report: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_result_folder(tmp_path)
    (folder / "predictions.parquet").write_bytes(b"PAR1 torn")
    assert report([str(folder)]) == 1
    assert f"error: {folder}/predictions.parquet: is damaged" in capsys.readouterr().err
