"""The rehearsal: it finds what would fail hours later, and leaves no trace."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast.utils.checkpoint_files import list_checkpoints
from tests.engine.equal_runs import assert_equal_ends

Serve = Callable[..., list[int]]
Arguments = Callable[..., list[str]]
Start = Callable[..., tuple[int, str]]


def test_a_rehearsal_leaves_no_trace_in_the_run(start: Start, tmp_path: Path) -> None:
    settings = {"TRAIN__BATCH_SIZE": 2, "SOLVER__MAX_EPOCH": 2, "TEST__ENABLE": True}
    assert start(folder="quiet", **settings)[0] == 0
    status, printed = start(folder="rehearsed", TRAIN__REHEARSE=True, **settings)
    assert status == 0
    assert "rehearsed training, checkpoint, validation and test in" in printed

    assert_equal_ends(tmp_path / "quiet", tmp_path / "rehearsed")
    assert files_in(tmp_path / "rehearsed") == files_in(tmp_path / "quiet")


def files_in(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_a_rehearsal_finds_what_would_fail_after_the_last_epoch(
    start: Start, tmp_path: Path, motion_folder: Path
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    for split in ("train", "val", "test"):
        text = (motion_folder / f"{split}.csv").read_text()
        (lists / f"{split}.csv").write_text(text.replace("test/", "nowhere/"))

    settings = {"TEST__ENABLE": True, "TRAIN__REHEARSE": True, "DATA__PATH_TO_DATA_DIR": lists}
    status, printed = start(TRAIN__BATCH_SIZE=2, SOLVER__MAX_EPOCH=2, **settings)
    assert status == 1
    assert "no video of 4 has scores" in printed
    assert not list_checkpoints(str(tmp_path / "run"))


@pytest.mark.parametrize("kind", ["nan_in_evaluation", "nan"])
def test_a_rehearsal_with_non_finite_numbers_fails(
    serve: Serve, faulty_arguments: Arguments, tmp_path: Path, kind: str
) -> None:
    output = tmp_path / "output"
    command = [*faulty_arguments(kind=kind, first=0, last=0), "TRAIN.REHEARSE", "True"]
    assert serve(command, num_processes=1, output=output) == [1]
    error = r"error: .* is not finite in the rehearsal, before anything was trained"
    assert re.search(error, output.read_text())
    assert not list_checkpoints(str(tmp_path / "run"))
    assert not (tmp_path / "run/rehearsal").exists()
