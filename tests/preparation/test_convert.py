"""Resizing of videos: frames, times, colors and orientation are kept."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from slowfast.datasets.decode import VideoFile
from slowfast.preparation.convert import extract_frames, resize_videos
from slowfast.preparation.encode import write_video

PaintedNumber = Callable[[NDArray[np.uint8]], list[int]]


def gradient(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return frames with red growing to the right, green downwards and blue with time."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(20, 230, width)
    frames[..., 1] = np.linspace(20, 230, height)[:, None]
    frames[..., 2] = np.linspace(20, 230, num_frames)[:, None, None]
    return frames


def write_other(
    path: Path, frames: NDArray[np.uint8], *, times: list[int], codec: str, pix_fmt: str
) -> None:
    """Write a video of any codec, with frames at given times in milliseconds, and with sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "10", "b": "2M"})
        sound = container.add_stream("aac", rate=48000)
        assert isinstance(stream, VideoStream)
        assert isinstance(sound, AudioStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, time in zip(frames, times, strict=True):
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            image.pts, image.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
        silence = av.AudioFrame.from_ndarray(
            np.zeros((2, 1024), np.float32), format="fltp", layout="stereo"
        )
        silence.sample_rate = 48000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))


def turn(path: Path) -> None:
    """Mark an MP4 file as recorded by a phone held sideways, a quarter turn to the right."""
    content = bytearray(path.read_bytes())
    matrix_start = content.index(b"tkhd") + 4 + 40  # in a box of version 0
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    content[matrix_start : matrix_start + 36] = b"".join(
        number.to_bytes(4, "big", signed=True) for number in matrix
    )
    path.write_bytes(content)


def read(path: Path) -> tuple[NDArray[np.uint8], list[float]]:
    with VideoFile(str(path)) as video:
        return video.read(range(video.num_frames)), video.times.tolist()


def resize(videos: Path, out: Path, **settings: Any) -> dict[str, int]:
    return dict(resize_videos(videos, out, num_workers=2, **settings).counts)


def test_a_resized_video_has_the_same_frames_and_times(videos: Path, tmp_path: Path) -> None:
    frames, times = gradient(9, 120, 213), [0, 40, 80, 200, 203, 300, 1000, 1033, 1100]
    write_other(
        videos / "a class/wide.mkv", frames, times=times, codec="libvpx-vp9", pix_fmt="yuv420p"
    )
    assert resize(videos, tmp_path / "out", short_side=60) == {"resized": 1}
    small, small_times = read(tmp_path / "out/a class/wide.mp4")
    assert small_times == [time / 1000 for time in times]
    assert small.shape == (9, 60, 106, 3)
    expected = np.stack([np.asarray(Image.fromarray(frame).resize((106, 60))) for frame in frames])
    assert np.abs(small.astype(int) - expected).mean() < 3
    with av.open(str(tmp_path / "out/a class/wide.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams[0].codec_context.name == "h264"


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mov"])
def test_other_containers_keep_every_frame(
    videos: Path,
    tmp_path: Path,
    write_painted: Callable[..., Path],
    painted_number: PaintedNumber,
    suffix: str,
) -> None:
    write_painted(videos / f"bars{suffix}", 60, bf="3", g="12")
    assert resize(videos, tmp_path / "out") == {"resized": 1}
    frames, times = read(tmp_path / "out/bars.mp4")
    assert painted_number(frames) == list(range(60))
    assert np.allclose(np.diff(times), 1 / 25, atol=0.0011)


def test_a_small_h264_file_is_copied_and_nothing_is_enlarged(
    videos: Path, tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    small = write_painted(videos / "small.mp4", 10)
    write_painted(videos / "other.mkv", 10)
    write_other(
        videos / "odd.avi",
        gradient(5, 33, 45),
        times=[0, 40, 80, 120, 160],
        codec="ffv1",
        pix_fmt="yuv444p",
    )
    assert resize(videos, tmp_path / "out") == {"copied": 1, "resized": 2}
    assert (tmp_path / "out/small.mp4").read_bytes() == small.read_bytes()
    assert read(tmp_path / "out/other.mp4")[0].shape == (10, 32, 128, 3)
    assert read(tmp_path / "out/odd.mp4")[0].shape == (5, 32, 44, 3)


def test_a_video_recorded_sideways_becomes_upright(videos: Path, tmp_path: Path) -> None:
    write_video(videos / "large.mp4", gradient(5, 80, 100))
    write_video(videos / "small.mp4", gradient(5, 32, 40))
    for name in ("large.mp4", "small.mp4"):
        turn(videos / name)
    assert resize(videos, tmp_path / "out", short_side=40) == {"resized": 2}
    for name, size in (("large.mp4", (50, 40)), ("small.mp4", (40, 32))):
        expected = read(videos / name)[0]
        assert expected.shape[1] > expected.shape[2]
        found = read(tmp_path / "out" / name)[0]
        assert found.shape == (5, *size, 3)
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            assert np.abs(found[2][corner].astype(int) - expected[2][corner]).max() < 25
        with av.open(str(tmp_path / "out" / name)) as container:
            assert next(container.decode(video=0)).rotation == 0


def test_full_range_colors_are_kept(videos: Path, tmp_path: Path) -> None:
    frames = gradient(5, 64, 96)
    write_other(
        videos / "full.avi", frames, times=[0, 40, 80, 120, 160], codec="mjpeg", pix_fmt="yuvj420p"
    )
    resize(videos, tmp_path / "out")
    assert (
        np.abs(read(tmp_path / "out/full.mp4")[0].astype(int) - read(videos / "full.avi")[0]).mean()
        < 2
    )


def test_packets_that_repeat_a_frame_add_none(videos: Path, tmp_path: Path) -> None:
    # Theora at a higher rate than its source has packets of 0 bytes between the others, and so
    # can NUT.
    with av.open(str(videos / "slow.mkv"), "w", format="nut") as container:
        stream: Any = container.add_stream("mpeg4", rate=30, options={"b": "2M"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for number, image in enumerate(gradient(10, 64, 96)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = 3 * number, Fraction(1, 30)
            for packet in stream.encode(frame):
                container.mux(packet)
                repeat = av.Packet(0)
                repeat.stream, repeat.time_base = stream, packet.time_base
                repeat.pts = repeat.dts = packet.pts + 1
                container.mux(repeat)
    with av.open(str(videos / "slow.mkv")) as container:
        assert [packet.size > 0 for packet in container.demux(video=0)][:4] == [
            True,
            False,
            True,
            False,
        ]

    assert resize(videos, tmp_path / "out") == {"resized": 1}
    frames, times = read(tmp_path / "out/slow.mp4")
    assert times == pytest.approx(np.arange(10) / 10)
    assert np.abs(frames.astype(int) - read(videos / "slow.mkv")[0]).mean() < 2


def test_keyframes_are_close_together(
    videos: Path, tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    write_painted(videos / "long.mkv", 200, g="250", sc_threshold="0")
    resize(videos, tmp_path / "out")
    with av.open(str(tmp_path / "out/long.mp4")) as container:
        is_key = [frame.key_frame for frame in container.decode(video=0)]
    keys = np.flatnonzero(is_key)
    assert len(is_key) == 200
    assert np.diff([*keys, 200]).max() <= 32


def test_damage_that_only_the_log_reports_is_not_written(videos: Path, tmp_path: Path) -> None:
    times = [20 * number for number in range(30)]
    write_other(
        videos / "v.mov", gradient(30, 48, 64), times=times, codec="mjpeg", pix_fmt="yuvj420p"
    )
    content = bytearray((videos / "v.mov").read_bytes())
    with av.open(str(videos / "v.mov")) as container:
        packets = [
            (packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size
        ]
    position, size = packets[15]
    content[position + size // 2 : position + size - 2] = bytes(size - 2 - size // 2)
    (videos / "v.mov").write_bytes(content)
    result = resize_videos(videos, tmp_path / "out", short_side=32, num_workers=1)
    assert result.counts == {"failed": 1}
    assert result.failed_path is not None
    assert "(at frame 15)" in result.failed_path.read_text()


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none: no such folder, or no videos in it"):
        resize(tmp_path / "none", tmp_path.parent / "out")
    with pytest.raises(ValueError, match=r"321 pixels; H\.264 needs an even number"):
        resize(tmp_path, tmp_path.parent / "out", short_side=321)
    with pytest.raises(ValueError, match=r"crf is 60. Use 0"):
        resize(tmp_path, tmp_path.parent / "out", crf=60)
    with pytest.raises(
        ValueError, match=r"small lies in .*, the folder of the videos. Choose another folder"
    ):
        resize(tmp_path, tmp_path / "small")
    with pytest.raises(ValueError, match=r"the frame rate is -1. Use frames per second"):
        extract_frames(tmp_path, tmp_path.parent / "out", fps=-1, num_workers=1)
    with pytest.raises(ValueError, match=r"'frame\.jpg' gives all frames one name"):
        extract_frames(tmp_path, tmp_path.parent / "out", template="frame.jpg", num_workers=1)
    with pytest.raises(ValueError, match=r"quality is 0. Use 1 to 100"):
        extract_frames(tmp_path, tmp_path.parent / "out", quality=0, num_workers=1)
