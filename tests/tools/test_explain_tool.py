"""tools/explain.py: its files, its line of output, bad input and exit statuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slowfast.config import CfgNode
from slowfast.datasets.decode import VideoFile
from tests.inference.conftest import save_random_checkpoint
from tests.tools.load_tool import load_main

Explain = Callable[..., int]


@pytest.fixture
def explain(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> Explain:
    """Function that runs the tool with random weights in this process, into the folder out."""
    weights = save_random_checkpoint(tiny_cfg(DATA__TEST_CROP_SIZE=64), tmp_path / "weights.pyth")
    main = load_main("explain")
    return lambda *words: main([str(weights), *map(str, words), "--out", str(tmp_path / "out")])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_video_has_three_files_and_a_line(
    explain: Explain, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = sorted((motion_folder / "test").glob("left_*.mp4"))[:2]
    assert explain(*videos, "--target", "up", "--steps", "2") == 0
    stems = [video.stem for video in videos]
    kinds = ("mp4", "npz", "png")
    assert names_in(tmp_path / "out") == sorted(
        f"{stem}.{kind}" for stem in stems for kind in kinds
    )

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{videos[0]}: up ")
    assert "rollout. deletion 0." in lines[0]
    assert "(random 0." in lines[0]

    with VideoFile(str(tmp_path / "out" / f"{stems[0]}.mp4")) as video:
        assert video.num_frames == 32
        assert video.fps == pytest.approx(25)


def test_the_sheet_shows_frames_above_their_heat(
    explain: Explain, motion_folder: Path, tmp_path: Path
) -> None:
    video = motion_folder / "test/left_0000.mp4"
    assert explain(video, "--steps", "0", "--only", "png", "--clips", "1") == 0
    assert names_in(tmp_path / "out") == ["left_0000.png"]
    # Frames of 64x80 are 160x200. The model has clips of 4 frames, so there are 4 columns.
    sheet = np.asarray(Image.open(tmp_path / "out/left_0000.png"))
    assert sheet.shape[1] == 4 * 200 + 3 * 4

    with VideoFile(str(video)) as source:
        first = Image.fromarray(source.read([10])[0]).resize((200, 160), Image.Resampling.BICUBIC)
    found = min(
        np.abs(sheet[top : top + 160, :200].astype(int) - np.asarray(first)).mean()
        for top in range(100)
    )
    assert found < 4  # a clip of 4 frames at a rate of 3 begins at frame 10 of 32


def test_an_unreadable_video_leaves_the_others(
    explain: Explain, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    words = ("--steps", "0", "--only", "npz")
    assert explain(broken, motion_folder / "test/left_0000.mp4", *words) == 3
    assert names_in(tmp_path / "out") == ["left_0000.npz"]
    assert f"unreadable: {broken}" in capsys.readouterr().err
    assert explain(broken, *words) == 1


def test_wrong_usage_has_status_2(
    explain: Explain, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = motion_folder / "test/left_0000.mp4"
    assert explain(video, "--target", "lefd") == 2
    assert "there is no class 'lefd'. The nearest are left" in capsys.readouterr().err
    assert explain(video, "--target", "8") == 2
    assert explain(video, "--device", "nowhere") == 2
    assert explain(video, "--method", "scores") == 1  # the model has none
    assert "Use rollout or grad-cam" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_input_is_never_replaced(
    explain: Explain, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "out" / "left_0000.mp4"
    video.parent.mkdir()
    video.write_bytes((motion_folder / "test/left_0000.mp4").read_bytes())
    before = video.read_bytes()
    assert explain(video, "--steps", "0") == 2
    assert explain(video.parent, "--steps", "0") == 2
    assert "is an input. Name another folder" in capsys.readouterr().err
    assert video.read_bytes() == before
