"""Files that are whole or absent, and their sizes in messages."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from slowfast.utils.cleanup import run_cleanups
from slowfast.utils.files import (
    format_bytes,
    new_folder,
    read_json,
    remove_unfinished,
    write_file,
    write_json,
)


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_file(path, "old")

    def fail(file: IO[bytes]) -> None:
        file.write(b"new")
        raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        write_file(path, fail)
    with pytest.raises(UnicodeEncodeError):
        write_file(path, "\udcff")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match=rf"^{tmp_path}/a/b/c\.json: cannot be written: "):
        write_json(tmp_path / "a/b/c.json", {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "is empty"), ("{", "is not valid JSON"), ("\x00" * 9, "is not"), ("[" * 99999, "is not")],
)
def test_a_damaged_json_file_is_named_with_the_remedy(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"^{path}: {problem}.*. Delete it$"):
        read_json(path, remedy="Delete it")


def test_non_finite_numbers_become_null_in_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 0.1]})
    assert read_json(tmp_path / "x.json", remedy="") == {"a": None, "b": [None, 0.1]}


def test_only_unfinished_files_are_removed(tmp_path: Path) -> None:
    for name in ("a.json", "a.json.unfinished", "b.unfinished"):
        (tmp_path / name).touch()
    (tmp_path / "folder.unfinished").mkdir()
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.json", "folder.unfinished"]
    remove_unfinished(tmp_path / "missing")


def test_sizes_read_naturally() -> None:
    sizes = (0, 999, 1000, 3_140_000, 66e9, 5e15)
    texts = ["0 B", "999 B", "1.0 kB", "3.1 MB", "66 GB", "5000 TB"]
    assert [format_bytes(size) for size in sizes] == texts


def test_a_new_folder_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a/new"
    with new_folder(path) as folder:
        (folder / "file").write_text("x")
        assert not path.exists()
    assert (path / "file").read_text() == "x"
    assert os.listdir(path.parent) == ["new"]
    with pytest.raises(FileExistsError, match=f"{path}: exists already"), new_folder(path):
        pass


def test_a_new_folder_that_is_not_finished_disappears(tmp_path: Path) -> None:
    def fail(action: Callable[[], object]) -> None:
        with new_folder(tmp_path / "new") as folder:
            (folder / "file").write_text("x")
            action()

    with pytest.raises(ZeroDivisionError):
        fail(lambda: 1 / 0)
    assert not os.listdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        fail(run_cleanups)  # as a signal does
    assert not os.listdir(tmp_path)


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file/new"
    with pytest.raises(OSError, match=f"{path}: cannot be created: Not a dir"), new_folder(path):
        pass
