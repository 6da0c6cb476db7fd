"""The views that show_views.py shows, against those of the loader."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from slowfast.config import CfgNode
from slowfast.datasets.build import build_loader
from slowfast.visualization.contact_sheet import THUMB, sample_views

AUGMENTED: dict[str, Any] = {
    "AUG__ENABLE": True,
    "AUG__NUM_SAMPLE": 2,
    "AUG__RE_PROB": 1.0,
    "TRAIN__BATCH_SIZE": 1,
}


@pytest.fixture
def show_views(repository: Path) -> Callable[[list[str]], int]:
    """The tool's main function."""
    spec = importlib.util.spec_from_file_location("show_views", repository / "tools/show_views.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_training_views_are_those_that_the_loader_gives(tiny_cfg: Callable[..., CfgNode]) -> None:
    loader = build_loader(tiny_cfg(**AUGMENTED), "train")
    loader.set_epoch(2)
    batch = next(iter(loader))
    row = int(batch.video_indices[0])
    looks = sample_views(loader, row)
    assert len(looks) == 2
    for look, frames in zip(looks, batch.frames, strict=True):
        assert torch.equal(look.clip, frames)
        assert "erased" in look.augmentation
        top, left, height, width = look.box
        assert 0 <= top <= top + height <= 64
        assert 0 <= left <= left + width <= 80


def test_test_views_are_told_by_frame_time_and_box(tiny_cfg: Callable[..., CfgNode]) -> None:
    looks = sample_views(build_loader(tiny_cfg(TEST__NUM_SPATIAL_CROPS=3), "test"), 0)
    assert [(look.view.clip, look.view.crop) for look in looks] == [
        (clip, crop) for clip in (0, 1) for crop in range(3)
    ]
    # Frames of 64x80 become 32x40, of which a crop shows 32 columns: 64 of the frame.
    assert [look.box for look in looks[:3]] == [(0, 0, 64, 64), (0, 8, 64, 64), (0, 16, 64, 64)]
    assert looks[0].source.seconds == pytest.approx(looks[0].source.numbers / 25)
    # The clip is the box at half the size, normalized.
    seen = looks[1].clip * 0.225 + 0.45
    halves = looks[1].source.frames[:, :, 8:72].reshape(4, 32, 2, 32, 2, 3).mean(axis=(2, 4)) / 255
    assert np.abs(seen.permute(1, 2, 3, 0).numpy() - halves).max() < 1e-5


def test_the_tool_prints_tables_and_writes_contact_sheets(
    show_views: Callable[[list[str]], int],
    repository: Path,
    tiny_settings: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sheets = tmp_path / "a new/folder"
    command = [
        "--cfg",
        str(repository / "exp/quickstart/config.yaml"),
        "--out",
        str(sheets / "sheet.png"),
    ]
    assert show_views([*command, "--row", "3", *tiny_settings()]) == 0
    printed = capsys.readouterr().out
    assert [
        line.split(":")[0] for line in printed.splitlines() if re.match(r"(train|val|test):", line)
    ] == [
        "train",
        "val",
        "test",
    ]
    for split, strips in (("train", 2), ("val", 2), ("test", 4)):
        sheet = Image.open(sheets / f"sheet_{split}.png")
        assert sheet.width >= 4 * THUMB  # the frames of a clip
        assert strips * THUMB <= sheet.height < (strips + 1) * THUMB


def test_a_video_outside_the_lists_can_be_shown(
    show_views: Callable[[list[str]], int],
    repository: Path,
    motion_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [
        "--cfg",
        str(repository / "configs/kinetics.yaml"),
        "--out",
        str(tmp_path / "sheet.png"),
    ]
    video = str(motion_folder / "test/up_0001.mp4")
    assert show_views([*command, "--split", "test", "--video", video, "DATA.NUM_FRAMES", "4"]) == 0
    assert (
        "0 10 20 31: 0.00 0.40" in capsys.readouterr().out
    )  # 4 frames that span 32, at 25 frames per second
    (tmp_path / "\x1b[2J.mp4").symlink_to(video)
    assert show_views([*command, "--split", "test", "--video", str(tmp_path / "\x1b[2J.mp4")]) == 0
    assert capsys.readouterr().out.startswith(f"test: {tmp_path}/\\x1b[2J.mp4\n")
    assert show_views([*command, "--video", str(tmp_path / "none.mp4")]) == 1
    assert "none.mp4: no such file" in capsys.readouterr().err
    assert show_views([*command, "DATA.PATH_TO_DATA_DIR", str(motion_folder), "--row", "99"]) == 1
    assert "--row is 99, but the list of train has 32 videos" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sheet", "sheet.mp4", "folder/"])
def test_a_contact_sheet_must_be_an_image_file(
    show_views: Callable[[list[str]], int], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        show_views(["--cfg", "none.yaml", "--out", name])
    assert error.value.code == 2
    assert f"argument --out: {Path(name)} has no suffix of an image file" in capsys.readouterr().err
