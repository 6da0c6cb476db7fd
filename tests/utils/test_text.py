"""Texts as a terminal may show them."""

import logging
from pathlib import Path

import pytest

from slowfast.utils.progress import log_to_file, start_logging
from slowfast.utils.text import printable, some

NAME = "run\x1b[2J\x1b]0;title\x07\r\u202egpm.\udce9"
SHOWN = r"run\x1b[2J\x1b]0;title\x07\r\u202egpm.\udce9"


def test_names_do_not_command_a_terminal() -> None:
    assert printable(NAME) == some([NAME]) == SHOWN
    assert printable("a\tb\nü 世界 👍") == "a\tb\nü 世界 👍"


def test_the_console_and_the_log_file_escape_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(is_main=True)
    logging.getLogger("test").info("1 class has no videos: %s", NAME)
    log_to_file(str(tmp_path))
    assert capsys.readouterr().out.endswith(f" 1 class has no videos: {SHOWN}\n")
    assert (tmp_path / "stdout.log").read_text().endswith(f": 1 class has no videos: {SHOWN}\n")
