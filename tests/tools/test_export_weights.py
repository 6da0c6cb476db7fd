"""Weights alone, out of a checkpoint of a run and into a model again."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from slowfast.config import CfgNode
from slowfast.engine.train import train
from slowfast.models.build import build_model
from slowfast.models.weights import load_weights
from slowfast.utils.checkpoint import load_checkpoint, newest_checkpoint


@pytest.fixture
def export(repository: Path) -> Callable[..., int]:
    """Call the tool in this process."""
    main = runpy.run_path(str(repository / "tools/export_weights.py"))["main"]
    return lambda *arguments: main([*map(str, arguments)])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_exported_weights_load_with_nothing_missing_and_their_classes(
    tiny_cfg: Callable[..., CfgNode],
    export: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    cfg = tiny_cfg(SOLVER__MAX_EPOCH=1)
    train(cfg)
    checkpoint, output = newest_checkpoint(cfg.OUTPUT_DIR), tmp_path / f"folder/weights{suffix}"
    assert checkpoint is not None
    assert export(checkpoint, output) == 0
    state = load_checkpoint(checkpoint)
    names = state["class_names"]
    assert len(names) == 8
    model = build_model(cfg)
    report = load_weights(model, str(output), class_names=names[::-1])
    assert (len(report.loaded), len(report.missing), len(report.unexpected)) == (
        len(state["model_state"]),
        0,
        0,
    )
    assert torch.equal(
        model.get_parameter("head.weight"), state["model_state"]["head.weight"].flip(0)
    )
    assert output.stat().st_size < 0.6 * checkpoint.stat().st_size
    if suffix == ".safetensors":
        assert load_file(output).keys() == state["model_state"].keys()

    capsys.readouterr()
    assert export(checkpoint, output) == 1
    assert (
        capsys.readouterr().err
        == f"error: {output}: is there already; delete it, or choose another name\n"
    )


def test_averaged_weights_are_exported_as_they_are_tested(
    tiny_cfg: Callable[..., CfgNode],
    export: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cfg = tiny_cfg(SOLVER__MAX_EPOCH=1, TRAIN__EMA_DECAY=0.5)
    train(cfg)
    checkpoint = newest_checkpoint(cfg.OUTPUT_DIR)
    assert checkpoint is not None
    state = load_checkpoint(checkpoint)
    for part, arguments in (("ema_state", ()), ("model_state", ("--trained",))):
        output = tmp_path / f"{part}.safetensors"
        assert export(*arguments, checkpoint, output) == 0
        assert ("numbers, EMA" in capsys.readouterr().out) == (part == "ema_state")
        assert torch.equal(load_file(output)["head.weight"], state[part]["head.weight"])
    assert not torch.equal(state["ema_state"]["head.weight"], state["model_state"]["head.weight"])


def test_a_file_of_another_kind_is_refused_by_the_command(repository: Path, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("none.pyth", "weights.onnx")]
    command = [sys.executable, str(repository / "tools/export_weights.py"), *files]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert (
        result.stderr
        == f"error: {tmp_path}/weights.onnx: a file of weights ends in .safetensors or .pth\n"
    )
