"""Display matrices turn and mirror frames as players do, with square pixels or not."""

import gc
import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from slowfast.datasets.decode import DecodeError, VideoFile
from slowfast.datasets.frame_metadata import read_orientation
from slowfast.preparation.convert import resize_videos

QUARTERS = {"r": (230, 20, 20), "g": (20, 230, 20), "b": (20, 20, 230), "w": (200, 200, 200)}

# A pixel at (x, y) is shown at (a x + c y, b x + d y), to the right and down (ISO/IEC 14496-12,
# 6.2.2). Keys are (a, b, c, d). Values are the quarters that a player shows: top left, top right,
# bottom left, bottom right.
SHOWN: dict[tuple[float, ...], str] = {
    (1, 0, 0, 1): "rgbw",
    (0, 1, -1, 0): "brwg",  # a quarter turn clockwise
    (-1, 0, 0, -1): "wbgr",
    (0, -1, 1, 0): "gwrb",
    (-1, 0, 0, 1): "grwb",  # mirrored left to right
    (1, 0, 0, -1): "bwrg",
    (0, 1, 1, 0): "rbgw",
    (0, -1, -1, 0): "wgbr",
}
OTHER_MATRICES: dict[tuple[float, ...], str] = {
    (0, 0, 0, 0): "rgbw",  # left empty
    (2, 0, 0, 2): "rgbw",  # the player chooses the size
    (0.0001, 1, -1, 0.0001): "brwg",  # rounded by an editor
}


def paint(width: int, height: int) -> NDArray[np.uint8]:
    """A frame of four quarters: red and green above, blue and white below."""
    corners = np.array(list(QUARTERS.values()), np.uint8).reshape(2, 2, 3)
    return corners.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


def quarters(image: NDArray[np.uint8]) -> str:
    """The names of the colors of the quarters."""
    height, width = image.shape[:2]
    centers = image[height // 4 :: height // 2, width // 4 :: width // 2][:2, :2].reshape(4, 1, 3)
    distance = np.abs(centers.astype(int) - list(QUARTERS.values())).sum(axis=-1)  # (4, colors)
    return "".join(list(QUARTERS)[number] for number in distance.argmin(axis=1))


def write_quarters(
    path: Path,
    matrix: tuple[float, ...] = (1, 0, 0, 1),
    *,
    width: int = 96,
    height: int = 64,
    sample_aspect_ratio: Fraction = Fraction(1),
) -> Path:
    """A video of the four quarters with a display matrix."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "5", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        frame = av.VideoFrame.from_ndarray(paint(width, height), format="rgb24")
        for number in range(3):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    # Write the matrix into the track header, a box of version 0 (ISO/IEC 14496-12, 8.3.2).
    content = bytearray(path.read_bytes())
    a, b, c, d = (round(value * (1 << 16)) for value in matrix)
    start = content.index(b"tkhd") + 4 + 40
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def read(path: Path) -> NDArray[np.uint8]:
    with VideoFile(str(path)) as video:
        return video.read([0])[0]


@pytest.mark.parametrize("matrix", SHOWN | OTHER_MATRICES)
def test_frames_follow_the_display_matrix(matrix: tuple[float, ...], tmp_path: Path) -> None:
    frame = read(write_quarters(tmp_path / "v.mp4", matrix))
    assert quarters(frame) == (SHOWN | OTHER_MATRICES)[matrix]
    is_turned = abs(matrix[1]) > abs(matrix[0])
    assert frame.shape == ((96, 64, 3) if is_turned else (64, 96, 3))


@pytest.mark.parametrize(
    ("matrix", "name"),
    [
        ((0.7071, 0.7071, -0.7071, 0.7071), "45 degrees"),
        ((1, 0.5, 0, 1), "distorts it"),
        ((1, 0, 0, 0), "distorts it"),
    ],
)
def test_other_display_matrices_are_refused(
    matrix: tuple[float, ...], name: str, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    path = write_quarters(tmp_path / "videos/v.mp4", matrix)
    with pytest.raises(DecodeError, match=rf"v\.mp4: its display matrix .*{name}"):
        read(path)
    result = resize_videos(tmp_path / "videos", tmp_path / "out", num_workers=1)
    assert result.failed_path is not None
    assert name in result.failed_path.read_text()


def test_resized_videos_are_upright(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number, matrix in enumerate(SHOWN):
        write_quarters(tmp_path / f"videos/small {number}.mp4", matrix)
        write_quarters(tmp_path / f"videos/large {number}.mp4", matrix, width=192, height=128)

    result = resize_videos(tmp_path / "videos", tmp_path / "out", short_side=64, num_workers=1)
    assert result.counts == {"copied": 1, "resized": 15}  # one is already small and upright
    for number, (matrix, shown) in enumerate(SHOWN.items()):
        for name in ("small", "large"):
            frame = read(tmp_path / f"out/{name} {number}.mp4")
            assert quarters(frame) == shown
            assert frame.shape == ((96, 64, 3) if matrix[1] else (64, 96, 3))


@pytest.mark.parametrize(
    ("exif", "shown"), [(1, "rgbw"), (2, "grwb"), (5, "rbgw"), (6, "brwg"), (7, "wgbr")]
)
def test_motion_jpeg_is_turned_by_its_exif_tag(exif: int, shown: str, tmp_path: Path) -> None:
    tags, jpeg = Image.Exif(), io.BytesIO()
    tags[0x0112] = exif
    Image.fromarray(paint(96, 64)).save(jpeg, "jpeg", exif=tags, quality=95)
    with av.open(str(tmp_path / "v.avi"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        container.start_encoding()
        for number in range(3):
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            packet.time_base = Fraction(1, 25)
            container.mux(packet)
    assert quarters(read(tmp_path / "v.avi")) == shown


@pytest.mark.parametrize(
    ("matrix", "ratio"), [((1, 0, 0, 1), "4/3"), ((0, 1, -1, 0), "4/3"), ((1, 0, 0, 1), "1")]
)
@pytest.mark.parametrize("size", [(192, 128), (214, 120)])
def test_pixels_stay_as_wide_as_they_are_shown(
    matrix: tuple[float, ...], ratio: str, size: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    width, height = size
    path = write_quarters(
        tmp_path / "videos/v.mp4",
        matrix,
        width=width,
        height=height,
        sample_aspect_ratio=Fraction(ratio),
    )
    assert sorted(read(path).shape[:2]) == sorted(size)  # the stored pixels
    resize_videos(tmp_path / "videos", tmp_path / "out", short_side=50, num_workers=1)

    shape = Fraction(width, height) * Fraction(ratio)
    with VideoFile(str(tmp_path / "out/v.mp4")) as video:
        frame = video.read([0])[0]
        resized_shape = Fraction(frame.shape[1], frame.shape[0]) * video.sample_aspect_ratio
    assert float(resized_shape) == pytest.approx(float(1 / shape if matrix[1] else shape), rel=1e-5)


def test_a_frame_is_freed_once_it_is_turned() -> None:
    frame = av.VideoFrame(32, 32, "yuv420p")
    gc.collect()
    gc.disable()
    try:
        read_orientation(frame)
        del frame
        assert gc.collect() == 0  # no frame is kept alive by a reference cycle
    finally:
        gc.enable()
