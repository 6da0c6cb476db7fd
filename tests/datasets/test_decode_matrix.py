"""Every kind of file that people have: frames read by number are those of a plain decode from front to back."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from slowfast.datasets import decode
from slowfast.datasets.decode import DecodeError, VideoFile

NUM_FRAMES = 100
HEIGHT, BAR = 32, 16  # pixels; a frame shows its number as 8 bars
Frames = NDArray[np.uint8]


def paint(num_frames: int, *, width: int = 8 * BAR, height: int = HEIGHT) -> Frames:
    """Frames of one gray tone each bar, on which a bright line moves, so that neighbors differ in motion too."""
    bits = (np.arange(num_frames)[:, None] >> np.arange(8)) & 1
    rows = np.repeat(bits * 180 + 20, BAR, axis=1)[:, :width]
    frames = np.broadcast_to(rows[:, None, :, None], (num_frames, height, width, 3)).astype(
        np.uint8
    )
    for number in range(num_frames):
        frames[number, number % height] = (255, 128, number)
    return frames


def write(
    path: Path,
    codec: str,
    *,
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    container_options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    frames: Frames | None = None,
) -> Path:
    """Encode painted frames; `times` in milliseconds, else 25 frames per second."""
    frames = paint(NUM_FRAMES) if frames is None else frames
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(
            codec, rate=25, options={"threads": "1", **(options or {})}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(
    source: Path, target: Path, keep: Callable[[av.Packet, int], bool], *, shift: int = 0
) -> Path:
    """Copy the packets, numbered in the order of the file, that are to be kept, their times shifted."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        copy = output.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(container.demux(video=0)):
            if packet.pts is not None and packet.dts is not None and keep(packet, number):
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                output.mux(packet)
    return target


def x264(path: Path, **options: str) -> Path:
    return write(
        path,
        "libx264",
        options={"x264-params": ":".join(f"{key}={value}" for key, value in options.items())},
    )


def open_groups(path: Path) -> Path:
    return x264(path, **{"open-gop": "1", "keyint": "12", "bframes": "3", "b-adapt": "0"})


def x265(path: Path, pixel_format: str = "yuv420p", **options: str) -> Path:
    settings = {
        "log-level": "none",
        "pools": "none",
        "frame-threads": "1",
        "keyint": "20",
        **options,
    }
    params = ":".join(f"{key}={value}" for key, value in settings.items())
    return write(
        path,
        "libx265",
        options={"x265-params": params, "preset": "veryfast"},
        pixel_format=pixel_format,
    )


def from_second_keyframe(source: Path, target: Path) -> Path:
    with av.open(str(source)) as container:
        packets = [packet.is_keyframe for packet in container.demux(video=0)]
    second = [number for number, is_key in enumerate(packets) if is_key][1]
    return remux(source, target, lambda packet, number: number >= second)


def rotated(path: Path, turns: int) -> Path:
    """An mp4 whose track header asks for clockwise quarter turns (ISO 14496-12, 8.3.2)."""
    content = bytearray(x264(path).read_bytes())
    a, b, c, d = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][turns]
    matrix = (
        content.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    )  # version, five numbers, reserved, layer to volume
    content[matrix : matrix + 36] = struct.pack(
        ">9i", *(v << 16 for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30
    )
    path.write_bytes(content)
    return path


def cut_off(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def resized_on_the_way(path: Path) -> Path:
    """A transport stream whose second half has another size."""
    parts = [path.with_suffix(f".{number}.ts") for number in range(2)]
    write(parts[0], "libx264", frames=paint(50))
    write(parts[1], "libx264", frames=paint(50, width=64, height=48), times=range(2000, 4000, 40))
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


IRREGULAR = (np.cumsum(np.random.default_rng(0).integers(1, 120, NUM_FRAMES)) + 70).tolist()
VARIED = {"g": "30", "bf": "2"}

KINDS: dict[str, Callable[[Path], Path]] = {
    "h264.mp4": lambda folder: x264(folder / "v.mp4", keyint="20", bframes="3"),
    "h264 b-pyramid.mp4": lambda folder: x264(
        folder / "v.mp4",
        **{"keyint": "40", "bframes": "5", "b-pyramid": "normal", "b-adapt": "0", "ref": "4"},
    ),
    "h264 one group.mp4": lambda folder: x264(folder / "v.mp4", keyint="250", scenecut="0"),
    "h264 keyframes only.mp4": lambda folder: x264(folder / "v.mp4", keyint="1"),
    "h264 open groups.mp4": lambda folder: open_groups(folder / "v.mp4"),
    "h264 open groups.mkv": lambda folder: open_groups(folder / "v.mkv"),
    "h264 open groups.ts": lambda folder: open_groups(folder / "v.ts"),
    "h264 intra refresh.mp4": lambda folder: x264(
        folder / "v.mp4", **{"intra-refresh": "1", "keyint": "20"}
    ),
    "h264 interlaced.mp4": lambda folder: x264(
        folder / "v.mp4", interlaced="1", keyint="20", bframes="2"
    ),
    "h264.avi": lambda folder: write(folder / "v.avi", "libx264", options=VARIED),
    "h264.flv": lambda folder: write(folder / "v.flv", "libx264", options=VARIED),
    "h264 raw": lambda folder: write(folder / "v.h264", "libx264", options=VARIED),
    "h264 gray.mp4": lambda folder: write(
        folder / "v.mp4", "libx264", options=VARIED, pixel_format="gray"
    ),
    "h264 10 bit.mp4": lambda folder: write(
        folder / "v.mp4", "libx264", options=VARIED, pixel_format="yuv420p10le"
    ),
    "h264 full range.mp4": lambda folder: write(
        folder / "v.mp4", "libx264", options=VARIED, pixel_format="yuvj420p"
    ),
    "h264 odd size.mp4": lambda folder: write(
        folder / "v.mp4",
        "libx264",
        options=VARIED,
        pixel_format="yuv444p",
        frames=paint(80, width=117, height=31),
    ),
    "h264 no duration.mkv": lambda folder: write(
        folder / "v.mkv", "libx264", options=VARIED, container_options={"live": "1"}
    ),
    "h264 fragments.mp4": lambda folder: write(
        folder / "v.mp4",
        "libx264",
        options=VARIED,
        container_options={"movflags": "frag_keyframe+empty_moov"},
    ),
    "h264 variable rate.mp4": lambda folder: write(
        folder / "v.mp4", "libx264", options=VARIED, times=IRREGULAR
    ),
    "h264 variable rate.mkv": lambda folder: write(
        folder / "v.mkv", "libx264", options=VARIED, times=IRREGULAR
    ),
    "h264 late start.mkv": lambda folder: remux(
        write(folder / "whole.mkv", "libx264", options=VARIED),
        folder / "v.mkv",
        lambda *_: True,
        shift=5000,
    ),
    "h264 negative times.mp4": lambda folder: remux(
        write(folder / "whole.mp4", "libx264", options=VARIED),
        folder / "v.mp4",
        lambda *_: True,
        shift=-5120,
    ),
    "h264 cut in an open group.mp4": lambda folder: from_second_keyframe(
        open_groups(folder / "whole.mp4"), folder / "v.mp4"
    ),
    "h264 cut in an open group.mkv": lambda folder: from_second_keyframe(
        open_groups(folder / "whole.mkv"), folder / "v.mkv"
    ),
    "h264 starts between keyframes.mkv": lambda folder: remux(
        x264(folder / "whole.mkv", keyint="20"), folder / "v.mkv", lambda _, number: number >= 7
    ),
    "h264 another size later.ts": lambda folder: resized_on_the_way(folder / "v.ts"),
    "hevc open groups.mp4": lambda folder: x265(folder / "v.mp4"),
    "hevc closed groups.mkv": lambda folder: x265(folder / "v.mkv", **{"open-gop": "0"}),
    "hevc 10 bit.mp4": lambda folder: x265(folder / "v.mp4", pixel_format="yuv420p10le"),
    "hevc cut in an open group.mp4": lambda folder: from_second_keyframe(
        x265(folder / "whole.mp4"), folder / "v.mp4"
    ),
    "hevc cut in an open group.mkv": lambda folder: from_second_keyframe(
        x265(folder / "whole.mkv"), folder / "v.mkv"
    ),
    "mpeg4.mp4": lambda folder: write(folder / "v.mp4", "mpeg4", options=VARIED),
    "mpeg4.avi": lambda folder: write(folder / "v.avi", "mpeg4", options=VARIED),
    "mpeg4 without B-frames.avi": lambda folder: write(
        folder / "v.avi", "mpeg4", options={"g": "12"}
    ),
    "mpeg4 odd size.avi": lambda folder: write(
        folder / "v.avi", "mpeg4", options=VARIED, frames=paint(80, width=117, height=31)
    ),
    "mpeg2.mpg": lambda folder: write(folder / "v.mpg", "mpeg2video", options=VARIED),
    "mpeg2.ts": lambda folder: write(folder / "v.ts", "mpeg2video", options=VARIED),
    "mjpeg.avi": lambda folder: write(folder / "v.avi", "mjpeg", pixel_format="yuvj420p"),
    "vp8 hidden references.webm": lambda folder: write(
        folder / "v.webm",
        "libvpx",
        options={"auto-alt-ref": "1", "lag-in-frames": "16", "b": "300k", "g": "30"},
    ),
    "vp9 hidden references.webm": lambda folder: write(
        folder / "v.webm",
        "libvpx-vp9",
        options={
            "auto-alt-ref": "1",
            "lag-in-frames": "25",
            "b": "300k",
            "g": "30",
            "cpu-used": "5",
        },
    ),
    "vp9 odd size.webm": lambda folder: write(
        folder / "v.webm",
        "libvpx-vp9",
        options={"g": "30", "cpu-used": "5"},
        frames=paint(80, width=117, height=31),
    ),
    "av1.mp4": lambda folder: write(
        folder / "v.mp4", "libsvtav1", options={"preset": "12", "g": "20"}
    ),
    "ffv1.mkv": lambda folder: write(folder / "v.mkv", "ffv1", pixel_format="bgr0"),
    "cut off.mkv": lambda folder: cut_off(write(folder / "v.mkv", "libx264", options=VARIED), 0.8),
    "cut off.webm": lambda folder: cut_off(
        write(folder / "v.webm", "libvpx", options={"b": "300k"}), 0.8
    ),
    "cut off.ts": lambda folder: cut_off(write(folder / "v.ts", "libx264", options=VARIED), 0.8),
    "cut off.avi": lambda folder: cut_off(write(folder / "v.avi", "mpeg4", options=VARIED), 0.8),
    "cut off, index first.mp4": lambda folder: cut_off(
        write(
            folder / "v.mp4", "libx264", options=VARIED, container_options={"movflags": "faststart"}
        ),
        0.8,
    ),
}


def decode_plainly(path: Path) -> list[NDArray[Any]]:
    """All whole frames from front to back: the oracle."""
    with av.open(str(path)) as container:
        frames: list[av.VideoFrame] = []
        for packet in container.demux(video=0):
            try:
                frames += packet.decode()
            except av.FFmpegError:
                continue
        while frames[-1].is_corrupt:  # the rest of a file that was cut off
            frames.pop()
        return [
            frame.reformat(frames[0].width, frames[0].height, format="rgb24").to_ndarray()
            for frame in frames
        ]


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
    *("h264.mp4", "h264 negative times.mp4", "h264 open groups.ts"),
    *("hevc cut in an open group.mkv", "vp9 hidden references.webm", "mpeg4.avi"),
]


@pytest.mark.parametrize("kind", READ_AGAIN)
def test_a_file_too_large_for_the_memory_is_read_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = KINDS[kind](tmp_path)
    with VideoFile(str(path)) as video:
        expected = video.read(range(video.num_frames))
    monkeypatch.setattr(decode, "MAX_KEPT_BYTES", 2000)
    with VideoFile(str(path)) as video:
        assert video._kept_packets is None
        for numbers in ([0], [70, 3], [len(expected) - 1, 55, 55]):
            assert np.array_equal(video.read(numbers), expected[numbers])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_times_of_frames_are_those_that_were_written(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"v{suffix}", "libx264", options=VARIED, times=IRREGULAR)
    with VideoFile(str(path)) as video:
        assert video.times == pytest.approx((np.array(IRREGULAR) - IRREGULAR[0]) / 1000, abs=1e-3)


def test_a_picture_that_comes_before_the_video_is_not_taken_for_it(tmp_path: Path) -> None:
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
def test_whatever_is_wrong_with_a_file_is_a_decode_error(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for attempt in range(60):
        content = bytearray(whole)
        end = 2000 if attempt % 2 else len(whole)  # every second time, in the header
        for place in rng.integers(0, min(end, len(whole)), rng.integers(1, 30)):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            with VideoFile(str(path)) as video:
                video.read(rng.integers(0, video.num_frames, 5).tolist())
            outcomes.append(True)
        except DecodeError:
            outcomes.append(False)
    assert set(outcomes) == {True, False}


@pytest.mark.parametrize("place", [10, 50, 51, 52])
@pytest.mark.parametrize(
    "kind", ["h264.mp4", "h264 one group.mp4", "hevc open groups.mp4", "mpeg4.mp4", "mpeg4.avi"]
)
def test_damage_is_reported_and_nothing_that_came_of_it_is_shown(
    kind: str, place: int, tmp_path: Path
) -> None:
    path = KINDS[kind](tmp_path)
    whole = decode_plainly(path)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][place]
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
