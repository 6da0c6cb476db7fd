"""Export of weights from the checkpoint of a run, and loading them into a model."""

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
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import newest_checkpoint


@pytest.fixture
def export(repository: Path) -> Callable[..., int]:
    """Run the tool in this process."""
    main = runpy.run_path(str(repository / "tools/export_weights.py"))["main"]
    return lambda *arguments: main([*map(str, arguments)])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_exported_weights_load_completely_with_their_classes(
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
        == f"error: {output}: exists already. Delete it, or choose another name\n"
    )


def test_ema_weights_are_exported_by_default(
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
    for key, arguments in (("ema_state", ()), ("model_state", ("--trained",))):
        output = tmp_path / f"{key}.safetensors"
        assert export(*arguments, checkpoint, output) == 0
        assert ("numbers, EMA" in capsys.readouterr().out) == (key == "ema_state")
        assert torch.equal(load_file(output)["head.weight"], state[key]["head.weight"])
    assert not torch.equal(state["ema_state"]["head.weight"], state["model_state"]["head.weight"])


def test_another_suffix_is_refused(repository: Path, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("none.pyth", "weights.onnx")]
    command = [sys.executable, str(repository / "tools/export_weights.py"), *files]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert (
        result.stderr
        == f"error: {tmp_path}/weights.onnx: the suffix of a weights file is .safetensors or .pth\n"
    )
