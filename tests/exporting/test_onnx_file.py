"""ONNX files: scores equal to those of the model, metadata, and use without this package."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slowfast.config import CfgNode
from slowfast.datasets.decode import VideoFile
from slowfast.exporting.formats import export_model
from slowfast.inference.classifier import Classifier
from slowfast.models.build import MODELS, Model
from slowfast.preparation.encode import write_video
from slowfast.trained import load
from tests.exporting.conftest import PIXELS
from tests.inference.conftest import save_random_checkpoint

EXAMPLE = Path(__file__).parents[2] / "examples/classify_onnx.py"
NAMES = ["left", "right", "up", "down", "clockwise", "anticlockwise", "growing", "shrinking"]


class Ramps(nn.Module):
    """A model that sees each row, each column and each frame."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * (4 + 32 + 32), cfg.MODEL.NUM_CLASSES)

    def forward(self, frames: Tensor) -> Any:
        means = [frames.mean(dim=axes).flatten(1) for axes in ((3, 4), (2, 4), (2, 3))]
        return 3 * self.fc(torch.cat(means, dim=1))


def pixels_of(video: Path, *, batch: int) -> NDArray[np.uint8]:
    """Return clips (B, 3, 4, 32, 32) that start one frame after the other."""
    with VideoFile(str(video)) as source:
        frames = source.read(range(batch + 4))[:, 16:48, 16:48]
    clips = np.stack([frames[start : start + 4] for start in range(batch)])
    return np.ascontiguousarray(clips.transpose(0, 4, 1, 2, 3))


def probabilities_by_hand(classifier: Classifier, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    normalized = (pixels / 255 - 0.45) / 0.225
    with torch.inference_mode():
        logits = classifier.model(torch.from_numpy(normalized.astype(np.float32))).numpy()
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def test_probabilities_of_pixels_are_those_of_the_model(
    onnx_file: Path, classifier: Classifier, motion_folder: Path
) -> None:
    session = onnxruntime.InferenceSession(onnx_file)
    seen = []
    for batch in (1, 3, 8):
        pixels = pixels_of(motion_folder / "test/growing_0000.mp4", batch=batch)
        (found,) = session.run(["probabilities"], {"frames": pixels})
        assert np.abs(found - probabilities_by_hand(classifier, pixels)).max() < 1e-6
        seen.append(found)
    assert np.ptp(seen[-1], axis=0).max() > 1e-3  # the clips differ


def test_the_metadata_say_how_to_use_the_file(onnx_file: Path) -> None:
    model = onnx.load(onnx_file)
    (entry,) = [entry for entry in model.metadata_props if entry.key == "slowfast"]
    content = json.loads(entry.value)
    assert content["class_names"] == NAMES
    assert content["input"] == {
        "name": "frames",
        "dtype": "uint8",
        "shape": ["batch", 3, 4, 32, 32],
        "channel_order": "RGB",
        "mean": [0.45] * 3,
        "std": [0.225] * 3,
    }
    assert content["output"] == {"name": "probabilities", "shape": ["batch", 8]}
    assert content["clip"] == {
        "num_frames": 4,
        "sampling_rate": 3,
        "sampling": "dense",
        "use_offset": True,
        "loop": False,
        "target_fps": 0.0,
        "short_side": 32,
        "crop_size": 32,
        "num_clips": 4,
        "num_crops": 1,
        "fusion": "sum",
    }
    assert content["version"] == "0.1.0"
    session = onnxruntime.InferenceSession(onnx_file)
    shapes = [value.shape for value in (*session.get_inputs(), *session.get_outputs())]
    assert shapes == [["batch", 3, 4, 32, 32], ["batch", 8]]


def test_an_onnx_file_holds_no_path_of_this_machine(onnx_file: Path) -> None:
    content = onnx_file.read_bytes()
    for text in (str(Path.home()), "site-packages", "uniformer.py", sys.prefix):
        assert text.encode() not in content


@pytest.mark.parametrize(
    ("settings", "num_frames"),
    [
        ({"TEST__DATASET": "kinetics_sparse", "DATA__REVERSE_INPUT_CHANNEL": True}, 31),
        ({"DATA__TEST_SHORT_SIDE": 40}, 31),
        ({"DATA__SHORT_CLIP": "loop", "DATA__REVERSE_INPUT_CHANNEL": True}, 9),
    ],
    ids=["segments", "larger than the crop", "loop"],
)
def test_the_example_takes_the_clip_of_the_classifier(
    tiny_cfg: Callable[..., CfgNode],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    settings: dict[str, Any],
    num_frames: int,
) -> None:
    monkeypatch.setitem(MODELS, "Ramps", Model(Ramps))
    cfg = tiny_cfg(MODEL__MODEL_NAME="Ramps", **settings)
    classifier = load(save_random_checkpoint(cfg, tmp_path / "ramps.pyth"))
    (tmp_path / "ramps.onnx").write_bytes(export_model(classifier, "onnx", PIXELS))

    # Red rises over time, green from left to right, and blue falls from top to bottom.
    t, y, x = np.ogrid[:num_frames, :58, :74]
    ramps = np.broadcast_arrays(40 + 6 * t, 3 * x, 200 - 3 * y)
    write_video(tmp_path / "ramps.mp4", np.stack(ramps, axis=-1).astype(np.uint8))

    paths = [str(tmp_path / name) for name in ("ramps.onnx", "ramps.mp4")]
    monkeypatch.setattr(sys, "argv", ["classify_onnx.py", *paths])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())

    prediction = classifier.predict(paths[1], clips=1, crops=1)
    assert printed.keys() == {score.label for score in prediction.top}
    for score in prediction.top:
        assert float(printed[score.label]) == pytest.approx(score.probability, abs=4e-3)


def test_the_example_needs_numpy_av_and_onnxruntime_only(
    onnx_file: Path, classifier: Classifier, motion_folder: Path, tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("numpy", "av", "onnxruntime"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        found = Path(spec.origin).parent
        for folder in (found, found.with_name(f"{name}.libs")):
            if folder.is_dir():
                (packages / folder.name).symlink_to(folder)

    video = motion_folder / "test/growing_0000.mp4"
    program = (
        "import importlib.util, runpy, sys\n"
        f"sys.path.append({str(packages)!r})\n"
        "assert not any(map(importlib.util.find_spec, ('torch', 'slowfast', 'onnx', 'PIL')))\n"
        f"sys.argv = ['classify_onnx.py', {str(onnx_file)!r}, {str(video)!r}]\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert result.stderr == ""

    prediction = classifier.predict(str(video), clips=1, crops=1)
    lines = [line.split(": ") for line in result.stdout.splitlines()]
    assert [name for name, _ in lines] == [score.label for score in prediction.top]
    for (_, probability), score in zip(lines, prediction.top, strict=True):
        assert float(probability) == pytest.approx(score.probability, abs=2e-3)  # rounded pixels


def test_an_onnx_file_is_not_taken_for_a_checkpoint(onnx_file: Path) -> None:
    message = "is not a checkpoint but an ONNX model. Name the checkpoint that it was exported from"
    with pytest.raises(ValueError, match=re.escape(message)):
        load(onnx_file)
