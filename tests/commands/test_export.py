"""The command export: what it writes and prints, and its errors."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slowfast.commands import export
from slowfast.commands.export import main
from slowfast.config import CfgNode
from slowfast.exporting.formats import FORMATS
from slowfast.models.build import MODELS, Model
from tests.inference.conftest import save_random_checkpoint

Export = Callable[..., int]


class Means(nn.Module):
    """A model of eight means of each clip, which is exported in no time."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.fc = nn.Linear(3, cfg.MODEL.NUM_CLASSES)

    def forward(self, frames: Tensor) -> Any:
        return self.fc(frames.mean(dim=(2, 3, 4)))


class OtherWhenExported(Means):
    def forward(self, frames: Tensor) -> Any:
        logits = super().forward(frames)
        return logits + 0.5 if torch.compiler.is_exporting() else logits


class OneClip(Means):
    def forward(self, frames: Tensor) -> Any:
        return super().forward(frames).repeat(2 // len(frames), 1)


@pytest.fixture
def run(
    tiny_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Export]:
    """Function that makes a trained model, and returns one that exports it in a new folder."""
    monkeypatch.chdir(tmp_path)

    def make(model: type[nn.Module] = Means) -> Export:
        monkeypatch.setitem(MODELS, "Means", Model(model))
        cfg = tiny_cfg(MODEL__MODEL_NAME="Means", OUTPUT_DIR=tmp_path / "left_or_right")
        save_random_checkpoint(cfg)
        return lambda *options: main(["left_or_right", *map(str, options)])

    return make


def files() -> list[str]:
    return sorted(path.name for path in Path().iterdir() if path.is_file())


def test_every_format_is_offered() -> None:
    assert set(export.FORMATS) == set(FORMATS)


def test_the_report_says_what_was_compared(
    run: Callable[..., Export], motion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run()("--format", "pt2", "--uint8", "--any-size", "--videos", motion_folder / "val") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "parity on 12 clips of the videos, 32x32, in batches of 1, 3, 8: largest difference of a "
        "logit "
    )
    assert lines[0].endswith(", same top-1 12/12")
    assert lines[1].startswith("parity on 3 clips of the videos, 32x64, in batches of 1, 2: ")
    assert lines[2].startswith("time of one clip, 1 thread: eager ")
    assert " ms, torch " in lines[2]
    assert lines[3].startswith("left_or_right.pt2: ")
    assert lines[3].endswith("B, uint8 frames (batch, 3, 4, height, width) -> logits (batch, 8)")
    assert len(lines) == 4
    assert files() == ["left_or_right.pt2"]


def test_without_videos_the_report_says_noise(
    run: Callable[..., Export], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new/folder/classes.onnx"
    assert run()("--format", "onnx", "--softmax", "--clips", 4, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "parity on 4 clips of noise (no --videos), 32x32, in batches of 1, 3: " in printed
    assert "-> probabilities (batch, 8)" in printed
    assert [path.name for path in out.parent.iterdir()] == ["classes.onnx"]


def test_a_model_without_parity_is_not_written(
    run: Callable[..., Export], capsys: pytest.CaptureFixture[str]
) -> None:
    export_run = run(OtherWhenExported)
    assert export_run("--format", "pt2") == 1
    assert capsys.readouterr().err == (
        "error: the exported model differs from the trained one by 5.0e-01, more than the "
        "tolerance 1.0e-04, so no file is written. If that is close enough, raise --tolerance\n"
    )
    assert files() == []
    assert export_run("--format", "pt2", "--tolerance", 0.6) == 0
    assert files() == ["left_or_right.pt2"]


def test_a_model_that_cannot_be_exported_leaves_no_file(
    run: Callable[..., Export], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(OneClip)("--format", "onnx") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: OneClip cannot be exported: it computes with one batch size")
    assert error.count("\n") == 1
    assert files() == []


def test_an_existing_file_stays_as_it_is(
    run: Callable[..., Export], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("left_or_right.onnx").write_text("older")
    assert run()("--format", "onnx") == 1
    assert capsys.readouterr().err == (
        "error: left_or_right.onnx: exists already. Delete it, or choose another name: --out\n"
    )
    assert Path("left_or_right.onnx").read_text() == "older"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named_with_its_remedy(
    run: Callable[..., Export],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    assert run()("--format", "onnx") == 1
    assert capsys.readouterr().err == (
        f"error: the format onnx needs {package}, which the extra [export] brings. Run: pip "
        "install onnx onnxscript onnxruntime\n"
    )
    assert run()("--format", "pt2") == 0
    assert files() == ["left_or_right.pt2"]


@pytest.mark.parametrize(
    ("options", "status", "error"),
    [
        (["--format", "onnx", "--out", "model.pt2"], 2, "model.pt2 does not end with .onnx"),
        (["--format", "pt2", "--videos", "nowhere/*.mp4"], 1, "nowhere/*.mp4: matches no file"),
        (["--format", "pt2", "--videos", "none.mp4"], 1, "--videos: none of 1 video is readable"),
    ],
)
def test_wrong_arguments_are_named(
    run: Callable[..., Export],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    error: str,
) -> None:
    assert run()(*options) == status
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("error: ")
    assert error in printed[-1]
    assert files() == []


def test_class_names_travel_with_the_file(run: Callable[..., Export], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {row}\n" for row in range(8)))
    assert run()("--format", "pt2", "--class-names", names, "--out", "other.pt2") == 0
    extra_files = {"slowfast.json": ""}
    torch.export.load("other.pt2", extra_files=extra_files)
    described = json.loads(extra_files["slowfast.json"])
    assert described["class_names"] == [f"class {row}" for row in range(8)]
