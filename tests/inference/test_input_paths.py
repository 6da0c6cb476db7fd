"""Paths of inputs: what a name stands for, and lists that are read as they come."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slowfast.inference.input_paths import batches_as_they_come, find_inputs, read_names
from slowfast.inference.predictions import Unreadable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with videos at two depths, hidden and other files, and folders of images."""
    names = ["b.mp4", "a.MKV", "notes.txt", ".hidden.mp4", "sub/c.webm", "sub [1]/d.mp4"]
    names += ["frames/x/00001.jpg", "frames/y/00001.jpg", "frames/text/notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", ["a.MKV", "b.mp4", "sub/c.webm", "sub [1]/d.mp4"]),
        ("/sub", ["sub/c.webm"]),
        ("/sub [1]", ["sub [1]/d.mp4"]),  # it exists, so it is no pattern
        ("/*.mp4", ["b.mp4"]),
        ("/s*", ["sub/c.webm", "sub [1]/d.mp4"]),
        ("/**/*.webm", ["sub/c.webm"]),
        ("/frames/x", ["frames/x"]),
        ("/frames", ["frames/x", "frames/y"]),
        ("/notes.txt", ["notes.txt"]),
        ("/gone.mp4", ["gone.mp4"]),
    ],
)
def test_what_a_name_stands_for(name: str, expected: list[str], folder: Path) -> None:
    found = find_inputs(f"{folder}{name}")
    assert sorted(map(str, found)) == sorted(f"{folder}/{path}" for path in expected)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/frames/text", "has no videos and no images"),
        ("/*.avi", "matches no file"),
    ],
)
def test_a_name_without_videos_has_a_reason(name: str, reason: str, folder: Path) -> None:
    path = f"{folder}{name}"
    assert find_inputs(path) == [Unreadable(path, f"{path}: {reason}")]


def test_addresses_stay_as_they_are() -> None:
    assert find_inputs("https://host/a*b?c=[1].mp4") == ["https://host/a*b?c=[1].mp4"]


def test_names_keep_their_spaces() -> None:
    assert list(read_names([" a b.mp4 \r\n", "\n", " \t\n", "c.mp4"])) == [" a b.mp4 ", "c.mp4"]


@pytest.mark.parametrize("most", [1, 2, 7])
def test_batches_hold_every_item_in_order(most: int) -> None:
    batches = list(batches_as_they_come(range(50), most=most))
    assert [item for batch in batches for item in batch] == list(range(50))
    assert all(0 < len(batch) <= most for batch in batches)


@pytest.mark.parametrize("most", [1, 8])
def test_an_item_waits_for_no_later_one(most: int) -> None:
    is_asked = threading.Event()

    def items() -> Iterator[str]:
        yield "first"
        is_asked.wait()
        yield "second"

    batches = batches_as_they_come(items(), most=most)
    assert next(batches) == ["first"]
    is_asked.set()
    assert next(batches) == ["second"]
    assert list(batches) == []


@pytest.mark.parametrize("most", [1, 8])
def test_an_error_of_the_list_is_raised(most: int) -> None:
    def items() -> Iterator[str]:
        yield "first"
        raise OSError("unplugged")

    batches = batches_as_they_come(items(), most=most)
    assert next(batches) == ["first"]
    with pytest.raises(OSError, match="unplugged"):
        next(batches)
