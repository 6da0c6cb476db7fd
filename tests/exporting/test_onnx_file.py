"""ONNX files: scores equal to those of the model, metadata, and use without this package."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from numpy.typing import NDArray

from slowfast.datasets.decode import VideoFile
from slowfast.inference.classifier import Classifier

EXAMPLE = Path(__file__).parents[2] / "examples/classify_onnx.py"
NAMES = ["left", "right", "up", "down", "clockwise", "anticlockwise", "growing", "shrinking"]


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
