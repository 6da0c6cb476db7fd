"""docs/probes.md: its commands and examples run on small data with a small model."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, code_blocks, command_lines
from tests.tools.load_tool import load_main

PAGE = (ROOT / "docs/probes.md").read_text()
COMMANDS = command_lines("".join(code_blocks(PAGE, "bash")))


def test_every_command_and_example_runs(
    after_quickstart: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    after_quickstart()

    commands = [command for command in COMMANDS if "own_videos" not in command]
    assert len(commands) == 2
    for command in commands:
        _, tool, *words = shlex.split(command)
        assert load_main(Path(tool).stem)(words) == 0, command

    capsys.readouterr()
    namespace: dict[str, Any] = {}
    for block in code_blocks(PAGE, "python"):
        exec(compile(block, "docs/probes.md", "exec"), namespace)
    assert capsys.readouterr().out.startswith("48 (16,) (10, 16)\n")  # 24 videos of 2 views
