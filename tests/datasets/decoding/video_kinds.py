"""Kinds of video files that people have: containers, codecs, frame orders, times and damage."""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

NUM_FRAMES = 100
HEIGHT, BAR = 32, 16  # pixels. A frame shows its number as 8 bars.
Frames = NDArray[np.uint8]


def paint(num_frames: int, *, width: int = 8 * BAR, height: int = HEIGHT) -> Frames:
    """Paint gray bars, and a bright line that moves over them, so that motion differs as well."""
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
    """Encode frames, painted ones by default, at `times` in milliseconds or 25 per second."""
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
    """Copy the packets for which `keep(packet, index)` is true, and shift their times."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        copy = output.add_stream_from_template(container.streams.video[0])

        for number, packet in enumerate(container.demux(video=0)):
            if packet.pts is None or packet.dts is None or not keep(packet, number):
                continue
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
        are_keys = [packet.is_keyframe for packet in container.demux(video=0)]
    second = [number for number, is_key in enumerate(are_keys) if is_key][1]
    return remux(source, target, lambda packet, number: number >= second)


def rotated(path: Path, turns: int) -> Path:
    """Write an MP4 file whose header asks for clockwise quarter turns (ISO 14496-12, 8.3.2)."""
    content = bytearray(x264(path).read_bytes())
    a, b, c, d = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][turns]
    # The matrix follows the version, five numbers, a reserved field, and layer to volume.
    start = content.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    matrix = [value << 16 for value in (a, b, 0, c, d, 0, 0, 0)]
    content[start : start + 36] = struct.pack(">9i", *matrix, 1 << 30)
    path.write_bytes(content)
    return path


def cut_off(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def resized_on_the_way(path: Path) -> Path:
    """Write a transport stream whose second half has another size."""
    first, second = path.with_suffix(".0.ts"), path.with_suffix(".1.ts")
    write(first, "libx264", frames=paint(50))
    write(second, "libx264", frames=paint(50, width=64, height=48), times=range(2000, 4000, 40))
    path.write_bytes(first.read_bytes() + second.read_bytes())
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
