"""Short videos of noise in many containers, and a plain decode as the oracle for them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Frames = list[NDArray[Any]]

NUM_FRAMES = 60
HEIGHT, WIDTH = 48, 64
CODECS = {  # by the suffix of the file
    ".mp4": ("libx264", {"g": "12", "bf": "2"}),
    ".mkv": ("libx264", {"g": "12", "bf": "2"}),
    ".ts": ("libx264", {"g": "12", "bf": "2"}),
    ".flv": ("libx264", {"g": "12", "bf": "2"}),
    ".mpg": ("mpeg2video", {"g": "12"}),
    ".avi": ("mpeg4", {"g": "12", "b": "4M"}),
    ".webm": ("libvpx", {"g": "12", "b": "300k"}),
    ".wmv": ("wmv2", {"g": "12"}),
    ".mov": ("mjpeg", {}),
    ".mjpeg": ("mjpeg", {}),
    ".ivf": ("libvpx", {"g": "12", "b": "300k"}),
    ".ogv": ("libvpx", {"g": "12", "b": "2M"}),
    ".mxf": ("mpeg2video", {"g": "12"}),
    ".nut": ("mpeg4", {"g": "12", "b": "4M"}),
    ".gif": ("gif", {}),
    ".y4m": ("wrapped_avframe", {}),
}
HEVC_OPTIONS = {
    "preset": "ultrafast",
    "x265-params": "keyint=8:bframes=2:log-level=none:pools=none:frame-threads=1",
}
PIXEL_FORMATS = {"mjpeg": "yuvj420p", "gif": "rgb8"}  # by codec, yuv420p for the others


def draw(num_frames: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Draw a bright square that moves over low-contrast noise."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 60, (num_frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[8:24, number % 48 : number % 48 + 16] = 200
    return frames


def write(
    path: Path,
    frames: NDArray[np.uint8] | None = None,
    *,
    codec: str = "",
    times: list[int] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode frames at 25 frames per second, or at `times` in milliseconds."""
    name, options = CODECS[path.suffix]
    name = codec or name
    options = HEVC_OPTIONS if codec == "libx265" else options

    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(name, rate=25, options={"threads": "1", **options})
        stream.height, stream.width = HEIGHT, WIDTH
        stream.pix_fmt = PIXEL_FORMATS.get(name, "yuv420p")
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)

        for number, image in enumerate(draw(NUM_FRAMES) if frames is None else frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy_packets(source: Path, target: Path, *, first: int = 0, shift: float = 0.0) -> Path:
    """Copy the packets from index `first` on, `shift` seconds later."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        video = container.streams.video[0]
        copy = output.add_stream_from_template(video)

        for number, packet in enumerate(container.demux(video)):
            is_copied = packet.size and number >= first
            if not is_copied or packet.pts is None or packet.dts is None:
                continue
            ticks = round(Fraction(shift) / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, copy
            output.mux(packet)
    return target


def decode_plainly(path: Path) -> tuple[Frames, bool]:
    """Decode all frames from front to back. Return them and whether FFmpeg reported anything."""
    frames: Frames = []
    is_reported = False

    with av.logging.Capture() as log, av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"  # threads may change what damage leads to
        for packet in container.demux(video=0):
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                is_reported = True
                continue
            is_reported |= any(frame.is_corrupt for frame in decoded)
            frames += [frame.to_ndarray(format="rgb24") for frame in decoded]

    return frames, is_reported or any(level <= av.logging.ERROR for level, *_ in log)


def list_packets(path: Path) -> list[tuple[int, int, bool]]:
    """Return the position and size of each packet, and whether it is a keyframe."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return [(packet.pos or 0, packet.size, packet.is_keyframe) for packet in packets]


def cut_off(path: Path, share: float) -> Path:
    """Keep only a share of a file, from its start.

    The size is odd. At a multiple of 188 bytes, the picture of a transport stream may be complete.
    """
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share) | 1])
    return path
