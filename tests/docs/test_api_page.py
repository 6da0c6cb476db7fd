"""docs/api.md: every example runs as it is printed, one after the other."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slowfast
from tests.docs.pages import ROOT, code_blocks

PAGE = (ROOT / "docs/api.md").read_text()


def test_every_example_of_the_api_runs(
    after_quickstart: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    after_quickstart(DATA__TEST_CROP_SIZE=64, DATA__TRAIN_CROP_SIZE=64)

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
