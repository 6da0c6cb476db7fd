import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slowfast.datasets.decode import DecodeError, FrameFolder, VideoFile

PaintedNumber = Callable[[np.ndarray], list[int]]


@pytest.fixture(scope="module")
def video_path(tmp_path_factory: pytest.TempPathFactory, write_painted: Callable[..., Path]) -> Path:
    """120 frames with B-frames and a keyframe every 20."""
    return write_painted(tmp_path_factory.mktemp("video") / "b frames.mp4", 120, g="20", bf="3")


def test_frames_are_read_by_number_in_any_order(video_path: Path, painted_number: PaintedNumber) -> None:
    with VideoFile(str(video_path)) as video:
        assert video.num_frames == 120
        assert video.fps == 25
        assert painted_number(video.read(range(120))) == list(range(120))
        for numbers in ([0], [119], [3, 3, 2], [119, 0, 60], [19, 20, 21], [5, 45, 46, 110]):
            assert painted_number(video.read(numbers)) == numbers


def test_the_decoder_runs_in_one_thread(video_path: Path) -> None:
    with VideoFile(str(video_path)) as video:
        video.read([0])
        assert video._decoder.thread_count == 1


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


def write_frame_files(folder: Path, numbers: Iterable[int]) -> None:
    """JPEG files whose red value is ten times their number."""
    for number in numbers:
        Image.new("RGB", (16, 8), (number * 10, 0, 0)).save(folder / f"img_{number:05d}.jpg")


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("num_frames", [None, 5])
def test_frame_files_count_from_zero_or_one(tmp_path: Path, first: int, num_frames: int | None) -> None:
    write_frame_files(tmp_path, range(first, first + 5))
    with FrameFolder(str(tmp_path), template="img_{:05d}.jpg", num_frames=num_frames) as folder:
        assert folder.num_frames == 5
        frames = folder.read([0, 4, 4])
    assert frames.shape == (3, 8, 16, 3)
    assert np.abs(frames[:, 0, 0, 0].astype(int) - 10 * (first + np.array([0, 4, 4]))).max() <= 2
    assert frames[..., 1:].max() <= 4


def test_bgr_frames_of_files_have_their_channels_reversed(tmp_path: Path) -> None:
    write_frame_files(tmp_path, [1, 20])
    with FrameFolder(str(tmp_path), template="img_{:05d}.jpg", bgr=True) as folder:
        assert folder.read([0])[0, 0, 0].tolist() == [0, 0, 10]


def test_a_folder_without_frames_is_named_with_the_key_to_set(tmp_path: Path) -> None:
    write_frame_files(tmp_path, [1])
    with pytest.raises(DecodeError, match=r"no file 00001\.jpg \(DATA\.IMAGE_TEMPLATE\)"):
        FrameFolder(str(tmp_path), template="{:05d}.jpg")
    with pytest.raises(DecodeError, match=r"none: no such folder"):
        FrameFolder(str(tmp_path / "none"), template="{:05d}.jpg")


def test_a_missing_frame_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"00003\.jpg: no such file or directory \(one of 5 frames\)"):
        FrameFolder(str(tmp_path), template="{:05d}.jpg", num_frames=5).read([2])


def test_frame_files_that_are_cut_off_empty_or_no_pictures_are_named(tmp_path: Path) -> None:
    write_frame_files(tmp_path, range(1, 5))
    whole = (tmp_path / "img_00001.jpg").read_bytes()
    for number, content in ((2, whole[: len(whole) // 2]), (3, b""), (4, b"no picture")):
        path = tmp_path / f"img_{number:05d}.jpg"
        path.write_bytes(content)
        with (
            FrameFolder(str(tmp_path), template="img_{:05d}.jpg") as folder,
            pytest.raises(DecodeError, match=re.escape(str(path))),
        ):
            folder.read([number - 1])


def test_frame_files_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write_frame_files(tmp_path, [1])
    Image.new("RGB", (8, 8)).save(tmp_path / "img_00002.jpg")
    sizes = r"frames of different sizes, \(8, 8, 3\) and \(8, 16, 3\)"
    with FrameFolder(str(tmp_path), template="img_{:05d}.jpg") as folder, pytest.raises(DecodeError, match=sizes):
        folder.read([0, 1])
