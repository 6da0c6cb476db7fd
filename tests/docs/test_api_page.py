"""docs/api.md: every example runs as it is printed, one after the other."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slowfast
from slowfast.config import CfgNode
from tests.docs.pages import ROOT, code_blocks
from tests.inference.conftest import save_random_checkpoint

PAGE = (ROOT / "docs/api.md").read_text()


def test_every_example_of_the_api_runs(
    tiny_cfg: Callable[..., CfgNode],
    motion_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/motion").symlink_to(motion_folder)
    (tmp_path / "README.md").write_text("not a video")
    run = tmp_path / "output/quickstart"
    save_random_checkpoint(
        tiny_cfg(OUTPUT_DIR=run, DATA__TEST_CROP_SIZE=64, DATA__TRAIN_CROP_SIZE=64)
    )
    monkeypatch.chdir(tmp_path)

    namespace: dict[str, Any] = {}
    for block in code_blocks(PAGE, "python"):
        exec(compile(block, "docs/api.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert re.search(r"^0\.00 s to \d\.\d\d s: 0\.\d{3}$", printed, re.MULTILINE)
    assert "unreadable: README.md: " in printed

    model, backbone = namespace["model"], namespace["backbone"]
    assert model.blocks4[0].training
    assert not model.blocks3[0].training
    assert backbone.eval()(namespace["frames"]).shape == (1, 512)
    assert namespace["ultrasound"].patch_embed1.proj.weight.shape[1] == 1


def test_the_page_names_the_whole_api() -> None:
    for name in slowfast._API:
        assert re.search(rf"\b{name}\b", PAGE), name
