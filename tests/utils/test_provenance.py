"""Provenance from real git repositories, copies and processes."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from slowfast.distributed.submission import copy_source
from slowfast.utils import provenance as module
from slowfast.utils.provenance import Source, describe, find_source, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write_package(root: Path) -> Path:
    for name in ("slowfast/__init__.py", "tools/run_net.py", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("# first\n")
    return root


@pytest.fixture(autouse=True)
def _outside_of_all_repositories(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Checkout of a repository with one commit."""
    root = write_package(tmp_path / "checkout")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "First")
    return root


def test_a_checkout_has_a_commit_and_is_clean(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert find_source(checkout) == Source(commit, "no")
    for name in ("notes.txt", "output/log", "slowfast/__pycache__/a.pyc"):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).touch()
    os.utime(checkout / "README.md", (0, 0))  # another time, the same content
    assert find_source(checkout) == Source(commit, "no")


@pytest.mark.parametrize("change", ["edited", "staged", "deleted", "new module"])
def test_a_changed_checkout_is_dirty(checkout: Path, change: str) -> None:
    path = checkout / ("slowfast/new.py" if change == "new module" else "tools/run_net.py")
    path.write_text("# second\n")
    if change == "staged":
        git(checkout, "add", ".")
    if change == "deleted":
        path.unlink()
    assert find_source(checkout) == Source(git(checkout, "rev-parse", "HEAD"), "yes")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "Second")
    assert find_source(checkout) == Source(git(checkout, "rev-parse", "HEAD"), "no")


def test_worktrees_and_subfolders_of_a_repository_count(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    commit = git(checkout, "rev-parse", "HEAD")
    assert find_source(tmp_path / "tree") == Source(commit, "no")

    outer = tmp_path / "outer"
    write_package(outer / "inner")
    git(outer, "init", "--quiet")
    git(outer, "add", ".")
    git(outer, "commit", "--quiet", "--message", "Outer")
    (outer / "elsewhere").touch()
    assert find_source(outer / "inner") == Source(git(outer, "rev-parse", "HEAD"), "no")


def test_an_environment_inside_a_repository_has_no_commit(checkout: Path) -> None:
    site = write_package(checkout / ".venv/lib/python3.11/site-packages")
    assert find_source(site) == Source("", "")
    (checkout / ".gitignore").write_text(".venv\n")
    assert find_source(site) == Source("", "")


def test_no_commit_without_repository_commit_or_git(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_package(tmp_path / "plain")
    assert find_source(root) == Source("", "")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    assert find_source(root) == Source("", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_source(checkout) == Source("", "")


def test_a_hanging_git_is_given_up(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(module, "GIT_SECONDS", 0.2)
    start = time.monotonic()
    assert find_source(checkout) == Source("", "")
    assert time.monotonic() - start < 30


def test_the_repository_of_a_git_hook_does_not_count(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_package(tmp_path / "other")
    git(other, "init", "--quiet")
    git(other, "add", ".")
    git(other, "commit", "--quiet", "--message", "Other")
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert find_source(checkout) == Source(commit, "no")


def test_a_copy_for_a_job_knows_its_commit(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    first, second, third = (checkout / name for name in ("output/1", "output/2", "output/3"))
    copy_source(checkout / "slowfast", first)
    (checkout / "README.md").write_text("# second\n")
    copy_source(checkout / "slowfast", second)
    copy_source(second / "slowfast", third)  # submitted from a copy
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "Second, with the results")
    assert find_source(first) == Source(commit, "no")
    assert find_source(second) == find_source(third) == Source(commit, "yes")

    (first / "source.json").write_text('{"commit": ')
    assert find_source(first) == Source("", "")


@pytest.fixture
def printed(checkout: Path, repository: Path) -> Callable[..., list[str]]:
    """Function that runs a script of the checkout, and returns the provenance that it prints."""
    shutil.rmtree(checkout / "slowfast")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository / "slowfast", checkout / "slowfast", ignore=ignored)
    (checkout / "tools/my tool.py").write_text(
        "import multiprocessing, sys\n"
        "sys.path.insert(0, sys.path[0] + '/..')\n"
        "from slowfast.utils.provenance import describe, provenance\n"
        "def show():\n"
        "    for name in ('command', 'cwd', 'path', 'commit', 'dirty', 'started'):\n"
        "        print(provenance()[name], flush=True)\n"
        "    print(describe(provenance()), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=show)\n"
        "    child.start() if 'spawn' in sys.argv else show()\n"
    )
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "Second")

    def run(*arguments: str) -> list[str]:
        command = [sys.executable, *arguments]
        env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}
        env["PYTHONPATH"] = str(checkout)
        return subprocess.run(
            command, cwd=checkout, env=env, check=True, capture_output=True, encoding="utf-8"
        ).stdout.splitlines()

    return run


def test_the_command_can_be_typed_again(printed: Callable[..., list[str]], checkout: Path) -> None:
    before = time.time()
    for how in ("plain", "spawn"):
        lines = printed("-u", "tools/my tool.py", "--cfg", "a b.yaml", how, "new\nline", "\udcff")
        expected = f"python 'tools/my tool.py' --cfg 'a b.yaml' {how} 'new"
        assert lines[:2] == [expected, "line' '\\udcff'"]
        assert lines[2:4] == [str(checkout), str(checkout / "slowfast")]
        assert lines[4:6] == [git(checkout, "rev-parse", "HEAD"), "no"]
        assert lines[6].endswith("+00:00")
        assert before - 2 < datetime.fromisoformat(lines[6]).timestamp() <= time.time()
        (line,) = lines[7:]
        assert line.endswith(f"{expected}\\nline' '\\udcff'")


def test_the_command_of_a_module_names_the_module(
    printed: Callable[..., list[str]], checkout: Path
) -> None:
    shutil.move(checkout / "tools/my tool.py", checkout / "tools/tool.py")
    assert printed("-m", "tools.tool", "spawn")[0] == "python -m tools.tool spawn"
    assert printed("-m", "tools.tool")[4] == "yes"


def test_versions_are_those_of_the_imported_libraries(repository: Path) -> None:
    import av
    import torch
    import torchvision

    found = provenance()
    found["torch"] = ""  # changes a copy only
    found = provenance()
    assert found["path"] == str(repository / "slowfast")
    for library in (torch, torchvision, av):
        # Wheels of the PyTorch index name their build, such as +cpu, in one of the two.
        ours = found[library.__name__].partition("+")[0]
        assert ours == library.__version__.partition("+")[0]
    line = describe(found)
    assert f"torch {found['torch']}, torchvision {found['torchvision']}" in line
    assert found["commit"][:12] in line
    unknown = describe(found | {"commit": "", "dirty": "", "av": ""})
    assert "(commit unknown) in" in unknown
    assert "av ?" in unknown
