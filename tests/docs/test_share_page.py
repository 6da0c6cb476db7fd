"""docs/share.md: its commands and examples run, with a hub on this machine."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slowfast.commands import main
from tests.docs.pages import ROOT, code_blocks, command_lines
from tests.hub_server import Hub

PAGE = (ROOT / "docs/share.md").read_text()


def test_every_command_and_example_runs(
    after_quickstart: Callable[..., Path],
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = after_quickstart()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for command in command_lines("".join(code_blocks(PAGE, "bash"))):
        program, *words = shlex.split(command)
        assert program == "slowfast"
        assert main.main(words) == 0, command

    names = ["README.md", "config.json", "model.safetensors"]
    assert sorted(path.name for path in (folder / "left_or_right").iterdir()) == names
    assert sorted(hub.files("team/left-or-right")) == names
    assert hub.repositories["team/left-or-right"].private
    assert (folder / "quickstart.safetensors").exists()

    namespace: dict[str, Any] = {}
    for block in code_blocks(PAGE, "python"):
        exec(compile(block, "docs/share.md", "exec"), namespace)
    assert namespace["prediction"].label in namespace["classifier"].class_names
    assert "uniformer_small_k400_16x8 Kinetics-400 80.8 not in" in capsys.readouterr().out
