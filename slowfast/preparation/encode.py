"""H.264 encoding of arrays, and of decoded frames into videos that are fast to read in training."""

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.video.frame import PictureType
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from slowfast.datasets.frame_metadata import (
    RGB,
    Orientation,
    drop_transfer,
    read_color_matrix,
    read_color_range,
    read_orientation,
    scale_name,
)

# For clips that start anywhere. Decoding can start at a keyframe, at least every 32 frames. No
# other frame refers to a B-frame, so a decoder can skip the B-frames it does not need. The tools of
# H.264 that are slow to decode are off. A clip of 16 of 64 frames then decodes about three times as
# fast as with the default settings of x264, and files are about half as large again.
X264_OPTIONS = {
    "preset": "medium",
    "tune": "fastdecode",
    "g": "32",
    "b-pyramid": "none",
    "threads": "1",
}
SMPTE170M = 6  # AVColorSpace: BT.601, which readers assume if a file has no tags
DEFAULT_FPS = Fraction(25)


class OutputFormat(NamedTuple):
    """The format of an encoded video: upright frames in yuv420p of limited range."""

    width: int
    height: int
    sample_aspect_ratio: Fraction
    matrix: int  # AVColorSpace
    primaries: int  # AVColorPrimaries
    transfer: int  # AVColorTransferCharacteristic


class Timing(NamedTuple):
    """The time base and the frame rate of a video. A frame rate of 0 means unknown."""

    time_base: Fraction
    fps: Fraction


def write_video(
    path: Path,
    frames: NDArray[np.uint8],
    *,
    fps: int = 25,
    codec_options: Mapping[str, str] | None = None,
) -> None:
    """Write frames as an H.264 file. The same frames give the same file.

    Args:
        path: The file. Its suffix determines the container.
        frames: RGB frames of shape (T, H, W, 3), with even height and width.
        fps: Frames per second.
        codec_options: Options of libx264, such as crf, g (keyframe interval) or bf (B-frames).
    """
    # With macroblock trees, the output of x264 differs between runs on CPUs with AVX-512.
    options = {"crf": "18", "threads": "1", "mbtree": "0", **(codec_options or {})}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"

        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def choose_format(
    frame: av.VideoFrame, *, short_side: int, sample_aspect_ratio: Fraction
) -> OutputFormat:
    """Return the format to which a video is resized.

    Both sides are even, and the shape is as close to that of the video as even sides allow. The
    aspect ratio of the pixels makes up for the rest. Small videos are not enlarged.

    Args:
        frame: The first frame of the video.
        short_side: The largest short side, in pixels.
        sample_aspect_ratio: The width of a pixel over its height.
    """
    width, height = frame.width, frame.height
    if read_orientation(frame).is_transposed:
        width, height, sample_aspect_ratio = height, width, 1 / sample_aspect_ratio
    scale = min(short_side / min(width, height), 1)
    even_width = max(int(width * scale / 2 + 1e-6) * 2, 2)
    even_height = max(int(height * scale / 2 + 1e-6) * 2, 2)

    stretch = Fraction(width, height) * Fraction(even_height, even_width)
    matrix = read_color_matrix(frame)
    if matrix == RGB:
        matrix = SMPTE170M
    return OutputFormat(
        even_width,
        even_height,
        (sample_aspect_ratio * stretch).limit_denominator(1000),
        matrix=matrix,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
    )


def encode_frames(
    frames: Iterable[av.VideoFrame],
    path: Path,
    *,
    timing: Timing,
    output_format: OutputFormat,
    crf: int,
) -> None:
    """Write decoded frames as an H.264 file in an MP4 container.

    Args:
        frames: The frames, which may change in size, color and orientation.
        path: The file.
        timing: The time base and the frame rate of the frames. Times are kept and start at 0.
        output_format: The format of the file.
        crf: The quality of x264, 0 to 51. Lower is better.
    """
    rate = timing.fps or DEFAULT_FPS
    with av.open(str(path.absolute()), "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=rate, options=X264_OPTIONS | {"crf": str(crf)}
        )
        stream.width, stream.height = output_format.width, output_format.height
        stream.pix_fmt = "yuv420p"

        encoder = stream.codec_context
        encoder.time_base = timing.time_base
        encoder.sample_aspect_ratio = output_format.sample_aspect_ratio
        encoder.colorspace, encoder.color_range = output_format.matrix, ColorRange.MPEG
        encoder.color_primaries = output_format.primaries
        encoder.color_trc = output_format.transfer

        formatted = _convert_frames(frames, time_base=timing.time_base, output_format=output_format)
        for frame in _with_rising_times(formatted, timing=timing):
            frame.pict_type = PictureType.NONE  # the encoder chooses
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _with_rising_times(
    frames: Iterable[av.VideoFrame], *, timing: Timing
) -> Iterator[av.VideoFrame]:
    """Yield the frames with times that start at 0 and rise.

    Containers that store no times, such as AVI, may lack a time or repeat one. Such a frame follows
    the one before it after the usual interval.
    """
    interval = max(round(1 / (timing.time_base * (timing.fps or DEFAULT_FPS))), 1)
    first = last = None
    for frame in frames:
        time = frame.pts
        if last is not None and (time is None or time <= last):
            time = last + interval
        last = time = time or 0
        first = last if first is None else first

        frame.pts, frame.time_base = time - first, timing.time_base
        yield frame


def _convert_frames(
    frames: Iterable[av.VideoFrame], *, time_base: Fraction, output_format: OutputFormat
) -> Iterator[av.VideoFrame]:
    """Yield the frames in the output format. FFmpeg's filters are set up anew when they change."""
    current, graph = None, Graph()
    for frame in frames:
        frame.colorspace, frame.color_range = read_color_matrix(frame), read_color_range(frame)
        drop_transfer(frame)
        orientation = read_orientation(frame)

        size = (frame.width, frame.height)
        colors = (frame.format.name, frame.colorspace, frame.color_range)
        if current != (size, colors, orientation):
            current = (size, colors, orientation)
            graph = _build_filters(
                frame, orientation, time_base=time_base, output_format=output_format
            )
        graph.vpush(frame)
        yield graph.vpull()


def _build_filters(
    frame: av.VideoFrame,
    orientation: Orientation,
    *,
    time_base: Fraction,
    output_format: OutputFormat,
) -> Graph:
    """Return filters that scale frames, convert their colors and turn them upright."""
    width, height = output_format.width, output_format.height
    if orientation.is_transposed:
        width, height = height, width
    colors = f"out_color_matrix={scale_name(output_format.matrix)}:out_range=tv"
    if frame.colorspace != RGB:
        colors += f":in_color_matrix={scale_name(frame.colorspace)}"

    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(time_base),
        pixel_aspect="1/1",
        colorspace=str(frame.colorspace),
        range=str(frame.color_range),
    )
    scale = graph.add("scale", f"{width}:{height}:flags=bicubic+accurate_rnd:{colors}")
    pixel_format = graph.add("format", "yuv420p")
    turns = [graph.add(*text.split("=")) for text in orientation.filters()]
    graph.link_nodes(source, scale, pixel_format, *turns, graph.add("buffersink")).configure()
    return graph
