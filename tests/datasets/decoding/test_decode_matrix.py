"""Frames read by number are those of a plain decode from front to back, in every kind of file."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from slowfast.datasets.decode import DecodeError, VideoFile
from tests.datasets.decoding.video_kinds import (
    BAR,
    HEIGHT,
    IRREGULAR,
    KINDS,
    NUM_FRAMES,
    VARIED,
    paint,
    rotated,
    write,
)


def decode_plainly(path: Path) -> list[NDArray[Any]]:
    """Decode all whole frames from front to back: the oracle."""
    with av.open(str(path)) as container:
        frames: list[av.VideoFrame] = []
        for packet in container.demux(video=0):
            try:
                frames += packet.decode()
            except av.FFmpegError:
                continue

        while frames[-1].is_corrupt:  # at the end of a file that was cut off
            frames.pop()

        width, height = frames[0].width, frames[0].height
        images = (frame.reformat(width, height, format="rgb24") for frame in frames)
        return [image.to_ndarray() for image in images]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_read_by_number_are_those_of_a_plain_decode(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    expected = decode_plainly(path)
    rng = np.random.default_rng(0)

    with VideoFile(str(path), allow_truncated=kind.startswith("cut off")) as video:
        assert video.num_frames == len(expected) > 40
        assert (np.diff(video.times) > 0).all()

        for _ in range(200):
            numbers = rng.integers(0, len(expected), rng.integers(1, 7)).tolist()
            for number, frame in zip(numbers, video.read(numbers), strict=True):
                assert np.array_equal(frame, expected[number]), f"frame {number} of {numbers}"
        assert np.array_equal(video.read(range(len(expected))), np.stack(expected))


def test_the_painted_frames_differ() -> None:
    frames = paint(NUM_FRAMES)
    assert len({frame.tobytes() for frame in frames}) == NUM_FRAMES


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_frames_are_turned_as_players_do(turns: int, tmp_path: Path) -> None:
    path = rotated(tmp_path / "v.mp4", turns)
    upright = decode_plainly(path)
    with VideoFile(str(path)) as video:
        for number in (0, 37, 99):
            assert np.array_equal(video.read([number])[0], np.rot90(upright[number], -turns))


def test_frames_outside_an_edit_list_are_not_there(tmp_path: Path) -> None:
    # Negative times make the muxer write an edit list that starts 10 frames into the media.
    path = KINDS["h264 negative times.mp4"](tmp_path)
    with av.open(str(path)) as container:
        assert sum(packet.is_discard for packet in container.demux(video=0)) > 0
    with VideoFile(str(path)) as video:
        assert video.num_frames < NUM_FRAMES


READ_AGAIN = [
    "h264.mp4",
    "h264 negative times.mp4",
    "h264 open groups.ts",
    "hevc cut in an open group.mkv",
    "vp9 hidden references.webm",
    "mpeg4.avi",
]


@pytest.mark.parametrize("kind", READ_AGAIN)
def test_a_file_too_large_for_memory_is_read_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = KINDS[kind](tmp_path)
    with VideoFile(str(path)) as video:
        expected = video.read(range(video.num_frames))

    monkeypatch.setattr("slowfast.datasets.decoding.packets.MAX_KEPT_BYTES", 2000)
    with VideoFile(str(path)) as video:
        assert video._packets.kept is None
        for numbers in ([0], [70, 3], [len(expected) - 1, 55, 55]):
            assert np.array_equal(video.read(numbers), expected[numbers])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_times_of_frames_are_those_that_were_written(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"v{suffix}", "libx264", options=VARIED, times=IRREGULAR)
    with VideoFile(str(path)) as video:
        assert video.times == pytest.approx((np.array(IRREGULAR) - IRREGULAR[0]) / 1000, abs=1e-3)


def test_a_picture_stream_before_the_video_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream("mjpeg", rate=1)
        video: Any = container.add_stream("libx264", rate=25)
        picture.width = picture.height = 64
        video.width, video.height = 8 * BAR, HEIGHT
        picture.pix_fmt, video.pix_fmt = "yuvj420p", "yuv420p"

        for stream, images in ((picture, paint(1, width=64, height=64)), (video, paint(30))):
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))

    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg"
    with VideoFile(str(path)) as opened:
        assert (opened.codec, opened.num_frames) == ("h264", 30)
        assert opened.read([29]).shape == (1, HEIGHT, 8 * BAR, 3)


def test_bgr_frames_have_their_channels_reversed(tmp_path: Path) -> None:
    path = KINDS["h264.mp4"](tmp_path)
    with VideoFile(str(path)) as rgb, VideoFile(str(path), bgr=True) as bgr:
        assert np.array_equal(rgb.read([5, 50]), bgr.read([5, 50])[..., ::-1])


@pytest.mark.parametrize(
    "kind", ["h264.mp4", "h264 open groups.ts", "mpeg4.avi", "vp9 hidden references.webm"]
)
def test_every_problem_of_a_file_is_a_decode_error(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []

    for attempt in range(60):
        content = bytearray(whole)
        end = 2000 if attempt % 2 else len(whole)  # damage the header every second time
        for position in rng.integers(0, min(end, len(whole)), rng.integers(1, 30)):
            content[position] = rng.integers(0, 256)
        path.write_bytes(content)

        try:
            with VideoFile(str(path)) as video:
                video.read(rng.integers(0, video.num_frames, 5).tolist())
            outcomes.append(True)
        except DecodeError:
            outcomes.append(False)

    assert set(outcomes) == {True, False}


@pytest.mark.parametrize("index", [10, 50, 51, 52])
@pytest.mark.parametrize(
    "kind", ["h264.mp4", "h264 one group.mp4", "hevc open groups.mp4", "mpeg4.mp4", "mpeg4.avi"]
)
def test_damage_is_reported_and_no_frame_shows_it(kind: str, index: int, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    whole = decode_plainly(path)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][index]
        position, size = packet.pos or 0, packet.size

    content = bytearray(path.read_bytes())
    content[position + size // 2 : position + size] = bytes(size - size // 2)
    path.write_bytes(content)

    num_damaged = 0
    with VideoFile(str(path)) as video:
        for number in range(video.num_frames):
            try:
                frame = video.read([number])[0]
            except DecodeError:
                num_damaged += 1
            else:
                assert np.array_equal(frame, whole[number])
    assert num_damaged >= 1
