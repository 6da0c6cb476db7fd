"""Fixtures of the tests of pages: the folder in which a reader types the commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slowfast.config import CfgNode
from tests.docs.pages import ROOT
from tests.inference.conftest import save_random_checkpoint


@pytest.fixture
def after_quickstart(
    tiny_cfg: Callable[..., CfgNode],
    motion_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Path]:
    """Function that makes the current folder one in which a small quickstart has run."""

    def make(**settings: Any) -> Path:
        (tmp_path / "data").mkdir()
        (tmp_path / "data/motion").symlink_to(motion_folder)
        (tmp_path / "tools").symlink_to(ROOT / "tools")
        (tmp_path / "README.md").symlink_to(ROOT / "README.md")
        save_random_checkpoint(tiny_cfg(OUTPUT_DIR=tmp_path / "output/quickstart", **settings))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make
