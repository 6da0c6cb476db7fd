"""Files that hold no video, or frames above the size limit, are refused."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from slowfast.datasets.decode import DecodeError, VideoFile
from tests.datasets.decoding.noise_videos import NUM_FRAMES, decode_plainly, write


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    image = np.zeros((64, 64, 3), np.uint8)
    silence = np.zeros((1, 1024), np.float32)
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("aac", rate=8000)
        picture: Any = container.add_stream("mjpeg", rate=1)
        picture.width = picture.height = 64
        picture.pix_fmt, picture.disposition = "yuvj420p", Disposition.attached_pic

        container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))

    with pytest.raises(DecodeError, match=r"song\.mp4: no video stream, only a cover picture"):
        VideoFile(str(path))


def test_a_size_above_the_limit_is_refused_before_decoding(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4")
    with VideoFile(str(path), max_pixels=48 * 64) as video:
        assert video.num_frames == NUM_FRAMES

    # The sample entry holds width and height.
    content = path.read_bytes()
    size = content.index(b"avc1", content.index(b"stsd")) + 4 + 24
    assert content[size : size + 4] == bytes([0, 64, 0, 48])

    reason = r"frames of 64 x 48 pixels .* DATA\.MAX_FRAME_PIXELS 3071 allows"
    with pytest.raises(DecodeError, match=reason):
        VideoFile(str(path), max_pixels=48 * 64 - 1)


def test_frames_that_grow_above_the_limit_are_refused(tmp_path: Path) -> None:
    small, large = write(tmp_path / "small.ts"), tmp_path / "large.ts"
    black = np.zeros((480, 640, 3), np.uint8)
    with av.open(str(large), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 480, 640, "yuv420p"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(black, format="rgb24")
            frame.pts, frame.time_base = 250 + number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path = tmp_path / "v.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())

    with VideoFile(str(path), max_pixels=640 * 480) as video:
        assert video.num_frames == NUM_FRAMES + 5
    with VideoFile(str(path), max_pixels=640 * 480 - 1) as video:
        assert np.array_equal(video.read([3])[0], decode_plainly(small)[0][3])
        with pytest.raises(DecodeError):
            video.read(range(video.num_frames))
