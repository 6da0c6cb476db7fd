"""A light model learns the embedded videos as well."""

import json
from pathlib import Path

import pytest

from tests.quickstart.conftest import Quickstart

LIGHT = ("MODEL.MODEL_NAME", "Uniformer_light_fp32", "UNIFORMER.MLP_RATIO", "3")


@pytest.mark.soak
def test_a_light_model_learns_the_embedded_videos(repository: Path, tmp_path: Path) -> None:
    run = Quickstart(repository, tmp_path / "motion", tmp_path / "output", {})
    printed = run.script("run.sh", "NUM_GPUS", "0", *LIGHT)
    assert "Uniformer_light_fp32: 0.33 M parameters" in printed
    result = json.loads((run.output / "test/metrics.json").read_text())
    assert result["num_scored"] == result["num_videos"] == 192
    assert result["top1"] > 90
