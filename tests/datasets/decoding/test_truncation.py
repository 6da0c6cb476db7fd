"""Truncated files: refused by default, or read as far as they go."""

import contextlib
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from slowfast.datasets.decode import TruncatedError, VideoFile
from tests.datasets.decoding.noise_videos import (
    NUM_FRAMES,
    copy_packets,
    cut_off,
    decode_plainly,
    draw,
    list_packets,
    write,
)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".flv"])
def test_half_a_video_is_refused_or_read_on_demand(suffix: str, tmp_path: Path) -> None:
    index_first = {"movflags": "faststart"} if suffix == ".mp4" else {}
    path = write(tmp_path / f"v{suffix}", container_options=index_first)
    whole = decode_plainly(path)[0]
    cut_off(path, 0.6)

    with pytest.raises(TruncatedError, match=r"truncated: .*DATA\.ALLOW_TRUNCATED True"):
        VideoFile(str(path))
    with VideoFile(str(path), allow_truncated=True) as video:
        assert NUM_FRAMES / 4 < video.num_frames < NUM_FRAMES * 3 / 4
        assert video.truncation
        for number in (0, 7, video.num_frames - 4):
            assert np.array_equal(video.read([number])[0], whole[number])


@pytest.mark.parametrize(
    "suffix",
    [".wmv", ".mxf", ".ivf", ".ogv", ".gif", ".y4m", ".nut", ".mjpeg", ".mpg", ".ts", ".mkv"],
)
@pytest.mark.parametrize("share", [0.4, 0.5])
def test_each_frame_that_a_cut_leaves_can_be_read(
    suffix: str, share: float, tmp_path: Path
) -> None:
    path = write(tmp_path / f"v{suffix}")
    VideoFile(str(path)).close()  # the whole file is accepted
    whole = decode_plainly(path)[0]
    cut_off(path, share)

    with pytest.raises(TruncatedError, match=r"truncated: .*DATA\.ALLOW_TRUNCATED True"):
        VideoFile(str(path))
    with VideoFile(str(path), allow_truncated=True) as video:
        assert video.truncation
        assert 3 <= video.num_frames < NUM_FRAMES
        # A transport stream may lack some frames before its end.
        for number in range(video.num_frames - 6):
            assert np.array_equal(video.read([number])[0], whole[number])
        assert len(video.read(range(video.num_frames))) == video.num_frames


def test_an_ivf_file_of_unknown_length_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "v.ivf")
    content = bytearray(path.read_bytes())
    content[24:28] = b"\xff\xff\xff\xff"  # the length if the file is written to a pipe
    path.write_bytes(content)
    with VideoFile(str(path)) as video:
        assert video.num_frames == NUM_FRAMES


def continues_a_picture(packet: bytes) -> bool:
    """Whether a packet of a transport stream holds a later part of a picture.

    Tables are sent by the clock of the encoding machine, so their places differ.
    """
    starts_something, pid = packet[1] & 0x40, (packet[1] & 0x1F) << 8 | packet[2]
    return not starts_something and pid == 0x100  # of the first stream


@pytest.mark.parametrize("is_within_a_packet", [True, False])
def test_a_transport_stream_cut_within_a_picture_is_refused(
    is_within_a_packet: bool, tmp_path: Path
) -> None:
    content = write(tmp_path / "v.ts").read_bytes()  # A picture of noise fills several packets.
    starts = range(148 * 188, len(content), 188)
    start = next(at for at in starts if continues_a_picture(content[at : at + 188]))
    path = tmp_path / "cut.ts"
    path.write_bytes(content[: start + 94 * is_within_a_packet])

    with pytest.raises(TruncatedError, match="is cut off"):
        VideoFile(str(path))
    with VideoFile(str(path), allow_truncated=True) as video:
        assert video.read([0]).shape == (1, 48, 64, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".flv"])
def test_a_cut_where_a_packet_ends_is_found(suffix: str, tmp_path: Path) -> None:
    # Only what the container promises shows that something is missing.
    is_matroska = suffix in (".mkv", ".webm")
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    if is_matroska:
        options = {"cluster_time_limit": "400"}
    path = write(tmp_path / f"v{suffix}", container_options=options)

    content = path.read_bytes()
    if is_matroska:
        content = content.replace(b"DURATION", b"DURATI0N")  # leaves the one of the whole file
        clusters = [match.start() for match in re.finditer(b"\x1f\x43\xb6\x75", content)]
        end = clusters[len(clusters) // 2]
    else:
        position, size, _ = list_packets(path)[30]
        end = position + size + {".mp4": 0, ".avi": size % 2, ".flv": 4}[suffix]
    path.write_bytes(content[:end])

    reason = r"lie beyond the end of the file|ends at 1\.\d\d of 2\.4\d s"
    with pytest.raises(TruncatedError, match=reason):
        VideoFile(str(path))


@pytest.mark.parametrize(
    ("num_frames", "rate", "num_missing", "is_truncated"),
    [(60, 25, 12, False), (60, 25, 13, True), (100, 1, 2, False), (100, 1, 3, True)],
)
def test_half_a_second_or_a_fiftieth_may_be_missing(
    num_frames: int, rate: int, num_missing: int, is_truncated: bool, tmp_path: Path
) -> None:
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for image in draw(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))

    content = bytearray(path.read_bytes())
    length = content.index(b"strh") + 8 + 32  # length of the stream in frames
    assert int.from_bytes(content[length : length + 4], "little") == num_frames
    content[length : length + 4] = (num_frames + num_missing).to_bytes(4, "little")
    path.write_bytes(content)

    refused = pytest.raises(TruncatedError, match="ends at")
    with refused if is_truncated else contextlib.nullcontext():
        VideoFile(str(path)).close()


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".avi"])
def test_a_video_that_lacks_a_few_frames_counts_as_whole(suffix: str, tmp_path: Path) -> None:
    path = cut_off(write(tmp_path / f"v{suffix}"), 0.93)
    with VideoFile(str(path)) as video:
        assert not video.truncation
        assert 48 <= video.num_frames <= NUM_FRAMES


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_short_file_that_is_cut_off_can_be_read(suffix: str, tmp_path: Path) -> None:
    # The file is so short that FFmpeg reaches its end while it opens it.
    path = write(tmp_path / f"v{suffix}", draw(3), times=[0, 1000, 2000])
    whole = decode_plainly(path)[0]
    cut_off(path, 0.7)

    with pytest.raises(TruncatedError, match=r"ends at .* s. Set DATA\.ALLOW_TRUNCATED"):
        VideoFile(str(path))
    with VideoFile(str(path), allow_truncated=True) as video:
        assert np.array_equal(video.read([0])[0], whole[0])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_cut_by_copying_packets_is_whole(suffix: str, tmp_path: Path) -> None:
    # Negative times make the MP4 muxer write an edit list that hides the first frames.
    shift = -0.2 if suffix == ".mp4" else 3.0
    whole = write(tmp_path / f"v{suffix}")
    path = copy_packets(whole, tmp_path / f"cut{suffix}", first=12, shift=shift)
    with VideoFile(str(path)) as video:
        assert not video.truncation
        assert video.num_frames >= NUM_FRAMES - 18


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_phone_clip_of_variable_rate_is_whole(suffix: str, tmp_path: Path) -> None:
    # 30 frames per second, fewer in dim light, and a last frame that is shown for a second.
    steps = [33] * 20 + [120] * 20 + [33] * 18 + [1000]
    path = write(tmp_path / f"v{suffix}", times=np.cumsum([0, *steps]).tolist())
    with VideoFile(str(path)) as video:
        assert not video.truncation
        assert video.num_frames == NUM_FRAMES
        assert video.times[-1] == pytest.approx(sum(steps) / 1000, abs=0.002)


def test_a_last_frame_that_is_shown_for_long_is_no_loss(tmp_path: Path) -> None:
    # FLV stores the end of the last frame only in its header.
    path = tmp_path / "v.flv"
    packets: list[av.Packet] = []
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("flv", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number, image in enumerate(draw(NUM_FRAMES)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            delay = 25 if number >= 20 else 0
            frame.pts, frame.time_base = number + delay, Fraction(1, 25)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        packets[-1].duration = 22  # in 1/25 s
        container.mux(packets)

    with av.open(str(path)) as container:
        assert (container.duration or 0) / av.time_base == pytest.approx((84 + 22) / 25, abs=0.01)
    with VideoFile(str(path)) as video:
        assert not video.truncation
        assert video.times[-1] == pytest.approx(84 / 25, abs=0.01)


def test_sound_that_lasts_longer_than_the_video_is_no_promise(tmp_path: Path) -> None:
    path = tmp_path / "v.flv"
    silence = np.zeros((1, 1024), np.float32)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        sound: Any = container.add_stream("aac", rate=8000)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        for image in draw(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))

        for number in range(40):  # 5 seconds
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, number * 1024
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))

    with VideoFile(str(path)) as opened:
        assert opened.num_frames == 25


def count_bytes_read() -> int:
    return int(re.findall(r"rchar: (\d+)", Path("/proc/self/io").read_text())[0])


# Opening an AVI file also reads its index.
@pytest.mark.parametrize(("suffix", "most"), [(".webm", 1.5), (".avi", 2)])
def test_a_whole_file_is_read_once_from_front_to_back(
    suffix: str, most: float, tmp_path: Path
) -> None:
    path = write(tmp_path / f"v{suffix}")
    VideoFile(str(path)).close()
    before = count_bytes_read()
    with VideoFile(str(path)) as video:
        video.read([video.num_frames - 1])
    assert count_bytes_read() - before < path.stat().st_size * most
