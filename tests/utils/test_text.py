"""Counts and lists in messages, and texts that are safe to print on a terminal."""

import logging
from pathlib import Path

import pytest

from slowfast.utils.progress import log_to_file, start_logging
from slowfast.utils.text import count, printable, some

NAME = "run\x1b[2J\x1b]0;title\x07\r\u202egpm.\udce9"
SHOWN = r"run\x1b[2J\x1b]0;title\x07\r\u202egpm.\udce9"


def test_counts_read_naturally() -> None:
    texts = ["0 processes", "1 process", "2 processes"]
    assert [count(number, "process") for number in (0, 1, 2)] == texts
    texts = ["3 epochs", "3 batches", "3 classes", "3 boxes"]
    assert [count(3, noun) for noun in ("epoch", "batch", "class", "box")] == texts
    assert count(2, "is", plural="are") == "2 are"


def test_a_long_list_names_its_first_items() -> None:
    assert some(list("ab")) == "a, b"
    assert some(list("abcdefg"), most=2) == "a, b and 5 more"


def test_control_characters_in_names_are_escaped() -> None:
    assert printable(NAME) == some([NAME]) == SHOWN
    assert printable("a\tb\nü 世界 👍") == "a\tb\nü 世界 👍"


def test_the_console_and_the_log_file_escape_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(is_main=True)
    logging.getLogger("test").info("1 class has no videos: %s", NAME)
    log_to_file(tmp_path / "stdout.log")
    assert capsys.readouterr().out.endswith(f" 1 class has no videos: {SHOWN}\n")
    assert (tmp_path / "stdout.log").read_text().endswith(f": 1 class has no videos: {SHOWN}\n")
