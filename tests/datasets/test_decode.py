"""Video files: frames are read by number, and errors name the file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slowfast.datasets.decode import DecodeError, VideoFile

PaintedNumber = Callable[[np.ndarray], list[int]]


@pytest.fixture(scope="module")
def video_path(
    tmp_path_factory: pytest.TempPathFactory, write_painted: Callable[..., Path]
) -> Path:
    """Write 120 frames with B-frames and a keyframe every 20 frames."""
    return write_painted(tmp_path_factory.mktemp("video") / "b frames.mp4", 120, g="20", bf="3")


def test_frames_are_read_by_number_in_any_order(
    video_path: Path, painted_number: PaintedNumber
) -> None:
    with VideoFile(str(video_path)) as video:
        assert video.num_frames == 120
        assert video.fps == 25
        assert painted_number(video.read(range(120))) == list(range(120))
        for numbers in ([0], [119], [3, 3, 2], [119, 0, 60], [19, 20, 21], [5, 45, 46, 110]):
            assert painted_number(video.read(numbers)) == numbers


def test_the_decoder_runs_in_one_thread(video_path: Path) -> None:
    with VideoFile(str(video_path)) as video:
        video.read([0])
        assert video._decoder.context.thread_count == 1


def test_the_container_is_closed_after_use_and_after_an_error(video_path: Path) -> None:
    def open_files() -> int:
        return sum(1 for link in Path("/proc/self/fd").iterdir() if link.exists())

    before = open_files()
    with VideoFile(str(video_path)) as video:
        video.read([0])
    with pytest.raises(DecodeError), VideoFile(str(video_path)) as video:
        video.read([500])
    assert open_files() == before


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"none\.mp4: no such file"):
        VideoFile(str(tmp_path / "none.mp4"))


def test_a_file_that_is_no_video_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("not a video")
    with pytest.raises(DecodeError, match=r"text\.mp4: invalid data found"):
        VideoFile(str(path))


def test_a_colon_in_a_relative_path_is_no_protocol(
    tmp_path: Path, write_painted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "12:30").mkdir()
    for path in ("12:30/a.mp4", "http:b.mp4"):
        write_painted(tmp_path / "c.mp4", 5).rename(tmp_path / path)
    monkeypatch.chdir(tmp_path)
    for path in ("12:30/a.mp4", "http:b.mp4"):
        with VideoFile(path) as video:
            assert (video.path, video.num_frames) == (path, 5)
