"""Checks of PyAV: its FFmpeg, and each codec by encoding and decoding a few frames in memory."""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from slowfast.diagnosis.finding import Finding, failed, ok, warning

_NUM_FRAMES = 3
_HEIGHT, _WIDTH = 64, 96
_LARGEST_ERROR = 12.0  # Mean difference of the gray values, out of 255.

_REMEDY = "pip install --force-reinstall av, whose wheel brings its own FFmpeg with all of them"


class Codec(NamedTuple):
    """A video codec, and how to write a few frames with it."""

    name: str  # Name of the decoder in FFmpeg.
    encoders: tuple[str, ...]  # Names of encoders, the first one that exists is used.
    used_by: str = ""  # Public data that cannot be read without it.
    pixel_format: str = "yuv420p"
    options: Mapping[str, str] = {}


CODECS = (
    Codec("h264", ("libx264", "libopenh264"), "Kinetics", options={"preset": "ultrafast"}),
    Codec("hevc", ("libx265",), options={"preset": "ultrafast", "x265-params": "log-level=none"}),
    Codec("vp8", ("libvpx",)),
    Codec("vp9", ("libvpx-vp9",), "Something-Something V2", options={"cpu-used": "8"}),
    Codec("av1", ("libsvtav1", "libaom-av1"), options={"preset": "8"}),
    Codec("mpeg4", ("mpeg4",), "UCF101 and HMDB51"),
    Codec("mpeg2video", ("mpeg2video",)),
    Codec("mjpeg", ("mjpeg",), pixel_format="yuvj420p"),
)


def check_pyav() -> Finding:
    """Check that PyAV loads its FFmpeg libraries."""
    libraries = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return ok(
        f"{av.__version__} with FFmpeg {av.ffmpeg_version_info}",
        ffmpeg=av.ffmpeg_version_info,
        **libraries,
    )


def check_decoding(codecs: Sequence[Codec] = CODECS) -> Finding:
    """Check which codecs decode. A codec without an encoder here is looked up only."""
    decoded: list[str] = []
    untried: list[str] = []
    problems: dict[str, str] = {}
    for codec in codecs:
        encoder = find_encoder(codec)
        if not _has_codec(codec.name, "r"):
            problems[codec.name] = "no decoder"
        elif not encoder:
            untried.append(codec.name)
        elif problem := find_decoding_problem(codec, encoder=encoder):
            problems[codec.name] = problem
        else:
            decoded.append(codec.name)

    text = f"{' '.join(decoded)} decode" if decoded else "nothing decodes"
    if untried:
        text += f"; {' '.join(untried)} not tried, without an encoder"
    details = {"decoded": decoded, "not_tried": untried, "problems": problems}
    if not problems:
        return ok(text, **details)

    named = ", ".join(f"{name} ({problem})" for name, problem in problems.items())
    data = [codec.used_by for codec in codecs if codec.name in problems and codec.used_by]
    if data:
        return failed(f"{text}. {named}: needed for {', '.join(data)}", _REMEDY, **details)
    return warning(f"{text}. {named}: such videos are unreadable", _REMEDY, **details)


def check_encoding() -> Finding:
    """Check the encoder of the videos that this package writes."""
    if _has_codec("libx264", "w"):
        return ok("libx264 writes videos")
    return warning(
        "no libx264: prepare-data, make-motion and annotated videos cannot write H.264", _REMEDY
    )


def find_encoder(codec: Codec) -> str:
    """Return the first encoder of a codec that exists here, "" if there is none."""
    return next((name for name in codec.encoders if _has_codec(name, "w")), "")


def find_decoding_problem(codec: Codec, *, encoder: str) -> str:
    """Return why frames do not survive encoding and decoding, "" if they do."""
    frames = _make_frames()
    try:
        decoded = _decode(_encode(frames, codec, encoder=encoder))
    except (av.FFmpegError, ValueError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__

    if len(decoded) != len(frames):
        return f"{len(decoded)} of {len(frames)} frames"
    errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(decoded, frames, strict=True)]
    return f"wrong pixels, by {max(errors):.0f} of 255" if max(errors) > _LARGEST_ERROR else ""


def _has_codec(name: str, mode: str) -> bool:
    try:
        av.Codec(name, mode)  # type: ignore[arg-type]
    except (ValueError, av.FFmpegError):
        return False
    return True


def _make_frames() -> list[NDArray[np.uint8]]:
    """Return gray frames that move from dark to bright, with a gradient from left to right."""
    gradient = np.linspace(40, 160, _WIDTH)[None].repeat(_HEIGHT, axis=0)
    return [(gradient + 30 * number).astype(np.uint8) for number in range(_NUM_FRAMES)]


def _encode(frames: list[NDArray[np.uint8]], codec: Codec, *, encoder: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream(encoder, rate=25, options=dict(codec.options))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = _HEIGHT, _WIDTH
        stream.pix_fmt = codec.pixel_format
        stream.bit_rate = 1_000_000
        stream.codec_context.thread_count = 1

        for pixels in frames:
            image = av.VideoFrame.from_ndarray(pixels, format="gray")
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return file.getvalue()


def _decode(content: bytes) -> list[NDArray[np.uint8]]:
    with av.open(io.BytesIO(content), "r") as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = container.decode(video=0)
        return [np.asarray(frame.to_ndarray(format="gray"), np.uint8) for frame in frames]
