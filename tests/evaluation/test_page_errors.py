"""Damaged results, which the report page refuses with a message that names the file."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slowfast.evaluation.report.page import write_report
from slowfast.evaluation.result import find_result
from tests.evaluation.result_folders import edit_metrics, write_result_folder


def change_version(folder: Path) -> None:
    edit_metrics(folder, version=2)


def change_predictions_version(folder: Path) -> None:
    path = folder / "predictions.parquet"
    metadata = {"slowfast.predictions": "7"}
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)


def drop_column(folder: Path) -> None:
    path = folder / "predictions.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["nll"]), path)


def drop_row(folder: Path) -> None:
    path = folder / "predictions.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


def use_other_classes(folder: Path) -> None:
    classes = json.loads((folder / "metrics.json").read_text())["classes"]
    cells: dict[str, list[int]] = {"labels": [], "predictions": [], "counts": []}
    edit_metrics(folder, classes=classes[:3], confusion=cells, most_confused=[])


def forget_labels(folder: Path) -> None:
    path = folder / "predictions.parquet"
    table = pq.read_table(path)
    column = table.schema.get_field_index("label")
    pq.write_table(table.set_column(column, "label", pa.nulls(len(table), pa.int32())), path)


def confuse_other_classes(folder: Path) -> None:
    cells = {"labels": [0], "predictions": [8], "counts": [1]}
    edit_metrics(folder, confusion=cells)


def truncate_predictions(folder: Path) -> None:
    path = folder / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def empty_metrics(folder: Path) -> None:
    (folder / "metrics.json").write_text("")


def remove_predictions(folder: Path) -> None:
    (folder / "predictions.parquet").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_version, r"metrics\.json: has version 2, but this code reads version 1"),
        (change_predictions_version, r"predictions\.parquet: has version 7, but"),
        (drop_column, r"predictions\.parquet: has no column 'nll'"),
        (forget_labels, r"predictions\.parquet: has no 'label' of some videos"),
        (confuse_other_classes, r"metrics\.json: has confusions of other than its 8 classes"),
        (drop_row, r"has 99 scored videos, but metrics\.json has 100"),
        (use_other_classes, r"has a label of \d, but metrics\.json has 3 classes"),
        (truncate_predictions, r"predictions\.parquet: is damaged"),
        (empty_metrics, r"metrics\.json: is empty\. Run the test again"),
        (remove_predictions, r"predictions\.parquet: there is no such file"),
    ],
)
def test_a_damaged_result_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = write_result_folder(tmp_path)
    damage(folder)
    with pytest.raises((ValueError, OSError), match=message):
        write_report(folder, training=None, thumbnails=None)
    assert not (folder / "report.html").exists()


def test_a_result_is_found_from_its_output_directory(tmp_path: Path) -> None:
    folder = write_result_folder(tmp_path / "run")
    assert find_result(tmp_path / "run") == find_result(folder) == folder
    with pytest.raises(FileNotFoundError, match=r"holds no metrics\.json"):
        find_result(tmp_path)
