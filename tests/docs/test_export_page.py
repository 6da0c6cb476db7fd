"""docs/export.md: its commands and its example run with a small model."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slowfast.models.build import MODELS, Model
from tests.commands.test_export import Means
from tests.docs.pages import ROOT, code_blocks, command_lines
from tests.tools.load_tool import load_main

PAGE = (ROOT / "docs/export.md").read_text()
COMMANDS = command_lines("".join(code_blocks(PAGE, "bash")))


def test_every_command_and_example_runs(
    after_quickstart: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(MODELS, "Means", Model(Means))  # is exported in no time
    folder = after_quickstart(MODEL__MODEL_NAME="Means")
    (folder / "examples").symlink_to(ROOT / "examples")

    *exports, example = [shlex.split(command) for command in COMMANDS]
    assert len(exports) == 2
    for _, tool, *words in exports:
        assert load_main(Path(tool).stem)(words) == 0, words
    result = subprocess.run(
        [sys.executable, *example[1:]], capture_output=True, text=True, timeout=60, check=True
    )
    assert len(result.stdout.splitlines()) == 5

    capsys.readouterr()
    namespace: dict[str, Any] = {}
    for block in code_blocks(PAGE, "python"):
        exec(compile(block, "docs/export.md", "exec"), namespace)
    assert capsys.readouterr().out == "torch.Size([3, 8]) left\n"
