"""Lists and class names are parsed once per process, and again when their files change."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast.config import CfgNode
from slowfast.datasets.build import build_annotations, build_class_names, build_loader
from slowfast.datasets.list_cache import read_once

HOUR = 3600.0


def write_old(path: Path, text: str, *, age: float) -> None:
    """Write a file whose last change was `age` seconds ago."""
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)


@pytest.fixture
def reads() -> list[str]:
    """Paths that `counted_read` has read."""
    return []


@pytest.fixture
def counted_read(reads: list[str]) -> Callable[[str], str]:
    """Reader of a text file that notes its path."""

    def read(path: str) -> str:
        reads.append(path)
        return Path(path).read_text()

    return read


def test_a_list_is_read_again_only_after_a_change(
    tmp_path: Path, reads: list[str], counted_read: Callable[[str], str]
) -> None:
    path = tmp_path / "list.csv"
    write_old(path, "a", age=2 * HOUR)
    assert [read_once(counted_read, str(path), list_path=str(path)) for _ in range(3)] == ["a"] * 3
    assert len(reads) == 1

    write_old(path, "b", age=HOUR)
    assert [read_once(counted_read, str(path), list_path=str(path)) for _ in range(3)] == ["b"] * 3
    assert len(reads) == 2


def test_a_list_that_may_still_change_is_not_cached(
    tmp_path: Path, reads: list[str], counted_read: Callable[[str], str]
) -> None:
    path = tmp_path / "list.csv"
    for text in ("a", "b"):
        path.write_text(text)
        assert read_once(counted_read, str(path), list_path=str(path)) == text
    assert len(reads) == 2


def test_a_file_next_to_the_list_counts_if_asked_for(
    tmp_path: Path, reads: list[str], counted_read: Callable[[str], str]
) -> None:
    write_old(tmp_path / "list.csv", "a", age=2 * HOUR)
    write_old(tmp_path / "labels.json", "{}", age=2 * HOUR)
    path = str(tmp_path / "list.csv")
    for age in (2 * HOUR, HOUR):
        write_old(tmp_path / "labels.json", "{}", age=age)
        read_once(counted_read, path, list_path=path, with_siblings=True)
        read_once(counted_read, path, list_path=path)
    assert len(reads) == 3


def test_an_error_is_not_cached(tmp_path: Path, counted_read: Callable[[str], str]) -> None:
    path = tmp_path / "list.csv"
    with pytest.raises(FileNotFoundError):
        read_once(counted_read, str(path), list_path=str(path))
    write_old(path, "a", age=HOUR)
    assert read_once(counted_read, str(path), list_path=str(path)) == "a"


def test_loaders_of_a_process_share_one_parsed_list(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    write_old(tmp_path / "val.csv", "a.mp4,0\nb.mp4,1\n", age=HOUR)
    cfg = tiny_cfg(DATA__PATH_TO_DATA_DIR=tmp_path)
    annotations = build_annotations(cfg, "val")
    assert build_loader(cfg, "val").dataset.annotations is annotations
    assert build_annotations(cfg.clone(), "val") is annotations


def test_callers_may_change_the_class_names_they_get(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg()
    build_class_names(cfg).clear()
    assert len(build_class_names(cfg)) == cfg.MODEL.NUM_CLASSES
