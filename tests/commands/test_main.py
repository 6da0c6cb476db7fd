"""The command `slowfast`: its sub-commands, and the ways to start it."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import slowfast
from slowfast.commands.main import COMMANDS, main


def run(*arguments: str | Path, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_every_tool_is_a_command(repository: Path) -> None:
    modules = {command.module for command in COMMANDS.values()}
    tools = {path.stem for path in (repository / "tools").glob("[!_]*.py")}
    assert modules == tools - {"train_net", "test_net"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_command(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/slowfast", name, "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: slowfast {name} ")
    assert not re.search(r"tools/|_net\b", printed)


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        lines = capsys.readouterr().out.splitlines()
        for name, command in COMMANDS.items():
            assert any(line.split() == [name, *command.summary.split()] for line in lines)
        assert max(map(len, lines)) <= 80


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "there is no command 'trian'. The nearest is train" in capsys.readouterr().err


def test_test_means_not_to_train(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, trains in (("train", "true"), ("test", "false")):
        assert main([name, "--cfg", "exp/quickstart", "--print-config"]) == 0
        train = capsys.readouterr().out.partition("\nTRAIN:\n")[2]
        assert re.findall(r"^  ENABLE: (\w+)$", train, re.MULTILINE)[0] == trains


def test_the_package_can_be_started_by_name_and_by_path(tmp_path: Path) -> None:
    package = Path(slowfast.__file__).parent
    (tmp_path / "slowfast").mkdir()
    (tmp_path / "slowfast/__init__.py").write_text("raise SystemExit('another package')")
    (tmp_path / "link").symlink_to(package)
    ways: list[tuple[str | Path, ...]] = [
        (package / "__main__.py",),
        ("-P", package / "__main__.py"),  # Python adds no folder of the script
        (tmp_path / "link/__main__.py",),
    ]
    printed = {run(*way, "--version", cwd=tmp_path).stdout for way in ways}
    printed.add(run("-m", "slowfast", "--version", cwd=package.parent).stdout)
    assert printed == {f"slowfast {slowfast.__version__}\n"}


def test_commands_are_modules_with_a_main() -> None:
    for command in COMMANDS.values():
        assert callable(import_module(f"slowfast.commands.{command.module}").main)


def test_advice_names_the_command_that_was_used(repository: Path) -> None:
    arguments = ("--cfg", "exp/quickstart", "--print-config", "QQ.ZZ", "1")
    as_command = run("-m", "slowfast", "train", *arguments, cwd=repository)
    as_tool = run("tools/run_net.py", *arguments, cwd=repository)
    assert "Run slowfast train --print-config" in as_command.stderr
    assert "Run tools/run_net.py --print-config" in as_tool.stderr
