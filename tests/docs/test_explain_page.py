"""docs/explain.md: its commands and its example run on small data with a small model."""

import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast.config import CfgNode
from slowfast.engine.evaluate import evaluate
from tests.docs.pages import ROOT, code_blocks, command_lines

PAGE = (ROOT / "docs/explain.md").read_text()
COMMANDS = command_lines("".join(code_blocks(PAGE, "bash")))


def test_every_command_and_example_runs(
    after_quickstart: Callable[..., Path],
    tiny_cfg: Callable[..., CfgNode],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = after_quickstart()
    evaluate(tiny_cfg(OUTPUT_DIR=folder / "output/quickstart", TEST__REPORT=True))

    assert len(COMMANDS) == 3
    main = runpy.run_path("tools/explain.py")["main"]
    for command in COMMANDS:
        python, tool, *words = shlex.split(command)
        assert (python, tool) == ("python", "tools/explain.py")
        assert main(words) == 0, command
    written = {path.name for path in (folder / "explanations").iterdir()}
    assert written == {"left_0000.mp4", "left_0000.png", "left_0000.npz"}
    assert "What the model looks at" in (folder / "output/quickstart/test/report.html").read_text()

    capsys.readouterr()
    for block in code_blocks(PAGE, "python"):
        exec(compile(block, "docs/explain.md", "exec"), {})
    assert capsys.readouterr().out.startswith("left (64, 80) rollout\n")
    assert (folder / "left.npz").exists()
