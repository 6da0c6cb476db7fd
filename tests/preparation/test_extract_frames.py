"""Extraction of frames from a folder of videos."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slowfast.preparation.convert import extract_frames

PaintedNumber = Callable[[NDArray[np.uint8]], list[int]]


def test_frames_at_a_constant_rate_are_those_of_ffmpeg(
    videos: Path, tmp_path: Path, write_painted: Callable[..., Path], painted_number: PaintedNumber
) -> None:
    # At 15 frames/s, every frame lasts two ticks of 30 frames/s.
    write_painted(videos / "a class/slow.mp4", 12, fps=15)
    counts = extract_frames(
        videos, tmp_path / "out", template="img_{:05d}.jpg", num_workers=2
    ).counts
    assert counts == {"written": 1}
    folder = tmp_path / "out/a class/slow"
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == [
        f"img_{number:05d}.jpg" for number in range(1, len(files) + 1)
    ]
    numbers = painted_number(np.stack([np.asarray(Image.open(path)) for path in files]))
    assert numbers == [number // 2 for number in range(24)]


def test_all_frames_of_the_file_are_written_once(
    videos: Path, tmp_path: Path, write_painted: Callable[..., Path], painted_number: PaintedNumber
) -> None:
    write_painted(videos / "one.mp4", 40, fps=15)
    extract_frames(videos, tmp_path / "out", fps=0, num_workers=1)
    files = sorted((tmp_path / "out/one").iterdir())
    assert painted_number(np.stack([np.asarray(Image.open(path)) for path in files])) == list(
        range(40)
    )


def test_a_frame_folder_is_whole_or_not_there(
    videos: Path, tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    write_painted(videos / "good.mp4", 20)
    (videos / "bad.mp4").write_bytes((videos / "good.mp4").read_bytes()[:900])
    unfinished = tmp_path / "out/.good.part"
    unfinished.mkdir(parents=True)
    (unfinished / "00099.jpg").touch()
    result = extract_frames(videos, tmp_path / "out", fps=25, num_workers=1)
    assert result.counts == {"written": 1, "failed": 1}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "good",
        "frames.json",
        "frames_failed.csv",
    }
    assert len(list((tmp_path / "out/good").iterdir())) == 20
    assert extract_frames(videos, tmp_path / "out", fps=25, num_workers=1).counts == {
        "there already": 1,
        "failed": 1,
    }
