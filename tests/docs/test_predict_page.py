"""docs/predict.md: its commands and its example run on small data with a small model."""

import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, code_blocks, command_lines

PAGE = (ROOT / "docs/predict.md").read_text()
COMMANDS = command_lines("".join(code_blocks(PAGE, "bash")))


def is_live(command: str) -> bool:
    return "://" in command or "/dev/" in command


def test_every_command_and_example_runs(
    after_quickstart: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = after_quickstart()

    commands = [command for command in COMMANDS if not is_live(command)]
    assert len(commands) >= 7
    main = runpy.run_path("tools/predict.py")["main"]
    for command in commands:
        python, tool, *words = shlex.split(command)
        assert (python, tool) == ("python", "tools/predict.py")
        assert main(words) == 0, command
    written = {path.name for path in folder.iterdir() if path.is_file()}
    assert written - {"README.md"} == {"predictions.csv", "predictions.jsonl", "annotated.mp4"}

    capsys.readouterr()
    for block in code_blocks(PAGE, "python"):
        exec(compile(block, "docs/predict.md", "exec"), {})
    assert capsys.readouterr().out.startswith("0.00 s to ")
