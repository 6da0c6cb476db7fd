"""Colors follow their tags, before and after resizing, by the formulas of the standards."""

import os
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from slowfast.datasets.decode import DecodeError, VideoFile
from slowfast.preparation.convert import resize_videos

# Weights of red and blue in the luma of each AVColorSpace (ITU-T H.273, table 4). Untagged video is
# BT.601.
LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    2: (0.299, 0.114),  # untagged
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
PATCHES = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40], [30, 90, 180], [128, 128, 128]]
)
PATCH = 32  # pixels, width of a patch


def yuv(matrix: int, *, full: bool) -> NDArray[np.uint8]:
    """8-bit Y, Cb and Cr of the patches (ITU-T H.273, 8.3), shape (3, num_patches)."""
    red, blue = LUMA_WEIGHTS[matrix]
    rgb = PATCHES / 255

    y = rgb @ [red, 1 - red - blue, blue]
    cb, cr = (rgb[:, 2] - y) / (2 * (1 - blue)), (rgb[:, 0] - y) / (2 * (1 - red))

    if full:
        values = np.stack([255 * y, 255 * cb + 128, 255 * cr + 128])
    else:
        values = np.stack([219 * y + 16, 224 * cb + 128, 224 * cr + 128])
    return values.round().clip(0, 255).astype(np.uint8)


def write_patches(
    path: Path,
    matrix: int = 6,
    *,
    full: bool = False,
    height: int = 96,
    codec: str = "libx264",
    **tags: Any,
) -> Path:
    """A lossless video of the patches side by side, with tags as attributes of the encoder."""
    width = PATCH * len(PATCHES)
    frame = av.VideoFrame(width, height, "yuv420p")
    widths = (PATCH, PATCH // 2, PATCH // 2)
    for plane, values, step in zip(frame.planes, yuv(matrix, full=full), widths, strict=True):
        row = np.zeros(plane.line_size, np.uint8)
        row[: plane.width] = np.repeat(values, step)
        plane.update(np.tile(row, plane.height).tobytes())

    with av.open(str(path), "w") as container:
        options = {"qp": "0", "threads": "1"} if codec == "libx264" else {}
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        attributes = {"colorspace": matrix, "color_range": 2 if full else 1, **tags}
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)

        for number in range(3):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_patches(path: Path) -> NDArray[np.int64]:
    """The color at the center of each patch."""
    with VideoFile(str(path)) as video:
        frame = video.read([0])[0]
    height, width = frame.shape[:2]
    columns = (2 * np.arange(len(PATCHES)) + 1) * width // (2 * len(PATCHES))
    return frame[height // 2, columns].astype(int)


def read_tags(path: Path) -> tuple[int, ...]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.colorspace, frame.color_primaries, frame.color_trc


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
def test_colors_are_read_as_tagged(matrix: int, full: bool, tmp_path: Path) -> None:
    path = write_patches(tmp_path / "v.mp4", matrix, full=full)
    assert np.abs(read_patches(path) - PATCHES).max() <= 3


def test_resized_videos_keep_colors_and_tags(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()

    # Videos of 96 rows shrink, and videos of 48 rows are only re-encoded.
    kinds = list(product(LUMA_WEIGHTS, (False, True), (48, 96)))
    for matrix, full, height in kinds:
        write_patches(videos / f"{matrix} {full} {height}.mkv", matrix, full=full, height=height)
    write_patches(videos / "pq.mkv", 9, color_primaries=9, color_trc=16)
    write_patches(videos / "tagged.mkv", 1, color_primaries=1, color_trc=1)
    write_patches(videos / "ffv1.mkv", 1, full=True, codec="ffv1")  # format without a range

    counts = resize_videos(videos, tmp_path / "out", short_side=48, num_workers=1).counts
    assert counts == {"resized": len(kinds) + 3}

    for path in videos.iterdir():
        resized = tmp_path / "out" / f"{path.stem}.mp4"
        assert np.abs(read_patches(resized) - read_patches(path)).max() <= 4, path
        assert read_tags(resized) == read_tags(path)
    assert read_tags(tmp_path / "out/pq.mp4") == (9, 9, 16)


@pytest.mark.parametrize(
    ("codec", "pixel_format"), [("ffv1", "bgr0"), ("ffv1", "gray"), ("rawvideo", "bgr24")]
)
def test_resized_rgb_and_gray_keep_their_colors(
    codec: str, pixel_format: str, tmp_path: Path
) -> None:
    image = np.repeat(np.tile(PATCHES.astype(np.uint8)[None], (96, 1, 1)), PATCH, axis=1)
    (tmp_path / "videos").mkdir()
    with av.open(str(tmp_path / "videos/v.avi"), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = pixel_format
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))

    resize_videos(tmp_path / "videos", tmp_path / "out", short_side=96, num_workers=1)
    difference = read_patches(tmp_path / "out/v.mp4") - read_patches(tmp_path / "videos/v.avi")
    assert np.abs(difference).max() <= 4


@pytest.mark.parametrize(
    ("matrix", "name"), [(8, "YCgCo"), (10, "BT.2020 with constant"), (14, "ICtCp")]
)
def test_colors_ffmpeg_cannot_convert_are_named(matrix: int, name: str, tmp_path: Path) -> None:
    path = write_patches(tmp_path / "v.mp4", colorspace=matrix)
    message = rf"v\.mp4: its colors are {name}"
    with VideoFile(str(path)) as video, pytest.raises(DecodeError, match=message):
        video.read([0])


@pytest.mark.parametrize("transfer", [9, 10, 16, 18])
def test_transfer_and_primaries_change_no_pixel(transfer: int, tmp_path: Path) -> None:
    plain = write_patches(tmp_path / "plain.mp4", 9)
    tagged = write_patches(tmp_path / "tagged.mp4", 9, color_trc=transfer, color_primaries=9)
    assert np.array_equal(read_patches(plain), read_patches(tagged))
    with VideoFile(str(tagged)) as video:
        assert video.hdr == {16: "PQ", 18: "HLG"}.get(transfer, "")


def test_colors_are_converted_in_one_thread(tmp_path: Path) -> None:
    path = write_patches(tmp_path / "v.mp4", height=720)
    before = len(os.listdir("/proc/self/task"))
    with VideoFile(str(path)) as video:
        video.read([0, 1, 2])
        assert len(os.listdir("/proc/self/task")) == before
