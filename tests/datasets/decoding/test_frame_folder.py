"""Frame folders: frames are read by number, and errors name the image file."""

import re
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slowfast.datasets.decode import DecodeError, FrameFolder


def write_frame_files(folder: Path, numbers: Iterable[int]) -> None:
    """Write JPEG files whose red value is ten times their number."""
    for number in numbers:
        Image.new("RGB", (16, 8), (number * 10, 0, 0)).save(folder / f"img_{number:05d}.jpg")


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("num_frames", [None, 5])
def test_frame_files_count_from_zero_or_one(
    tmp_path: Path, first: int, num_frames: int | None
) -> None:
    write_frame_files(tmp_path, range(first, first + 5))
    with FrameFolder(str(tmp_path), template="img_{:05d}.jpg", num_frames=num_frames) as folder:
        assert folder.num_frames == 5
        frames = folder.read([0, 4, 4])
    assert frames.shape == (3, 8, 16, 3)
    assert np.abs(frames[:, 0, 0, 0].astype(int) - 10 * (first + np.array([0, 4, 4]))).max() <= 2
    assert frames[..., 1:].max() <= 4


def test_bgr_frames_of_files_have_their_channels_reversed(tmp_path: Path) -> None:
    write_frame_files(tmp_path, [1, 2])
    with FrameFolder(str(tmp_path), template="img_{:05d}.jpg", bgr=True) as folder:
        assert folder.read([0])[0, 0, 0].tolist() == [0, 0, 10]


def test_a_folder_without_frames_is_named_with_the_key_to_set(tmp_path: Path) -> None:
    write_frame_files(tmp_path, [1])
    with pytest.raises(DecodeError, match=r"no file 00001\.jpg \(DATA\.IMAGE_TEMPLATE\)"):
        FrameFolder(str(tmp_path), template="{:05d}.jpg")
    with pytest.raises(DecodeError, match=r"none: no such folder"):
        FrameFolder(str(tmp_path / "none"), template="{:05d}.jpg")


def test_a_missing_frame_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DecodeError, match=r"00003\.jpg: no such file or directory \(one of 5 frames\)"
    ):
        FrameFolder(str(tmp_path), template="{:05d}.jpg", num_frames=5).read([2])


def test_unreadable_frame_files_are_named(tmp_path: Path) -> None:
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


def test_a_frame_file_of_far_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "00001.png"
    Image.new("L", (16, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = bytes([0, 0, 78, 32] * 2)  # width and height: 20,000
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)

    with (
        FrameFolder(str(tmp_path), template="{:05d}.png") as folder,
        pytest.raises(DecodeError, match=r"00001\.png: .*400000000 pixels.* exceeds limit"),
    ):
        folder.read([0])


def test_frame_files_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write_frame_files(tmp_path, [1])
    Image.new("RGB", (8, 8)).save(tmp_path / "img_00002.jpg")
    sizes = r"frames of different sizes, \(8, 8, 3\) and \(8, 16, 3\)"
    with (
        FrameFolder(str(tmp_path), template="img_{:05d}.jpg") as folder,
        pytest.raises(DecodeError, match=sizes),
    ):
        folder.read([0, 1])


@pytest.mark.parametrize(("first", "missing"), [(0, 3), (1, 3), (0, 1), (1, 1)])
def test_a_gap_in_a_frame_folder_is_named(first: int, missing: int, tmp_path: Path) -> None:
    write_frame_files(tmp_path, set(range(first, 9)) - {missing})
    (tmp_path / "img_notes.jpg").touch()
    message = (
        rf"img_0000{missing}\.jpg: missing, though img_0000{max(missing + 1, 2)}\.jpg is there"
    )
    with pytest.raises(DecodeError, match=message):
        FrameFolder(str(tmp_path), template="img_{:05d}.jpg")


def test_other_files_in_a_frame_folder_are_no_frames(tmp_path: Path) -> None:
    write_frame_files(tmp_path, range(1, 6))
    for name in ("img_9.jpg", "img_00009.png", "00009.jpg", "img_0000a.jpg", "img_000009.jpg"):
        (tmp_path / name).touch()
    assert FrameFolder(str(tmp_path), template="img_{:05d}.jpg").num_frames == 5


@pytest.mark.parametrize(
    "template", ["frame.jpg", "{name}.jpg", "{}_{}.jpg", "{:s}.jpg", "{.x}.jpg", "{[0]}.jpg", "{"]
)
def test_a_template_without_a_number_is_an_error(template: str, tmp_path: Path) -> None:
    (tmp_path / "frame.jpg").touch()
    with pytest.raises(ValueError, match=re.escape(f"the template {template!r} ")):
        FrameFolder(str(tmp_path), template=template)


def test_counting_ends_where_names_repeat(tmp_path: Path) -> None:
    for number in range(1, 10):
        (tmp_path / f"{number}.jpg").touch()
    # The template also names file 10 "1.jpg".
    assert FrameFolder(str(tmp_path), template="{!r:.1}.jpg").num_frames == 9


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_gray_images_of_16_bits_are_scaled(suffix: str, tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 257, 32768, 65279, 65280, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"00001.{suffix}")
    with FrameFolder(str(tmp_path), template=f"{{:05d}}.{suffix}") as folder:
        frame = folder.read([0])[0]
    for channel in range(3):
        assert frame[0, :, channel].tolist() == [0, 0, 1, 1, 128, 254, 255, 255]


@pytest.mark.parametrize(
    ("kind", "name"), [(np.int32, "32-bit integers"), (np.float32, "floating-point numbers")]
)
def test_images_of_an_unknown_range_are_refused(kind: type, name: str, tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "00001.tiff")
    with (
        FrameFolder(str(tmp_path), template="{:05d}.tiff") as folder,
        pytest.raises(DecodeError, match=rf"00001\.tiff: its pixels are {name}"),
    ):
        folder.read([0])
