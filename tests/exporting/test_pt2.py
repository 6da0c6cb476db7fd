"""pt2 files: scores equal to those of the model, and metadata."""

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import ExportedProgram

from slowfast.inference.classifier import Classifier
from slowfast.trained import load


@pytest.fixture(scope="module")
def opened(pt2_file: Path) -> tuple[ExportedProgram, dict[str, Any]]:
    """The program of a pt2 file, and its extra files."""
    extra_files = {"slowfast.json": ""}
    return torch.export.load(pt2_file, extra_files=extra_files), extra_files


def test_logits_are_those_of_the_model_for_any_batch_and_size(
    opened: tuple[ExportedProgram, dict[str, Any]], classifier: Classifier
) -> None:
    module = opened[0].module()
    rng = torch.Generator().manual_seed(1)
    for batch, height, width in [(1, 32, 32), (3, 32, 32), (8, 32, 32), (2, 64, 33), (1, 50, 96)]:
        frames = torch.randn(batch, 3, 4, height, width, generator=rng)
        with torch.inference_mode():
            found, expected = module(frames), classifier.model(frames)
        assert np.ptp(expected.numpy(), axis=0).max() > 1e-3 or batch == 1
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    with pytest.raises(RuntimeError, match="4"):
        module(torch.zeros(1, 3, 5, 32, 32))


def test_a_pt2_file_holds_its_description(
    opened: tuple[ExportedProgram, dict[str, Any]],
) -> None:
    content = json.loads(opened[1]["slowfast.json"])
    assert content["class_names"][:2] == ["left", "right"]
    assert content["input"]["dtype"] == "float32"
    assert content["input"]["shape"] == ["batch", 3, 4, "height", "width"]
    assert content["output"] == {"name": "logits", "shape": ["batch", 8]}
    assert content["clip"]["sampling_rate"] == 3


def test_a_graph_holds_plain_operators_only(
    opened: tuple[ExportedProgram, dict[str, Any]],
) -> None:
    nodes = [node for node in opened[0].graph.nodes if node.op == "call_function"]
    namespaces = {getattr(node.target, "namespace", node.target.__module__) for node in nodes}
    assert "aten" in namespaces
    assert namespaces <= {"aten", "_operator", "math"}  # the others compute sizes


def test_a_pt2_file_holds_neither_paths_nor_frames(pt2_file: Path) -> None:
    with zipfile.ZipFile(pt2_file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for text in (str(Path.home()), "site-packages", "uniformer.py", sys.prefix):
        assert [name for name, content in members.items() if text.encode() in content] == []
    assert not any(content for name, content in members.items() if "sample_inputs" in name)


def test_a_pt2_file_is_not_taken_for_a_checkpoint(pt2_file: Path) -> None:
    message = "it is a pt2 program of torch.export. Name the checkpoint that it was exported from"
    with pytest.raises(ValueError, match=re.escape(message)):
        load(pt2_file)
