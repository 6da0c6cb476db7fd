"""Limits of a video, checked from its container before any frame is decoded."""

from pathlib import Path

import av
from av.container import InputContainer

from slowfast.datasets.decoding.damage import describe_error
from slowfast.serving.refusal import RefusedError

# Containers that are a single file. FFmpeg also opens playlists, which name other files and
# addresses to read.
_FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,h264,hevc,ivf"
_MAX_PIXELS = 1 << 26  # of a frame
_MAX_FPS = 240  # mean frames per second


def check_video(path: Path, *, name: str, max_seconds: float) -> None:
    """Refuse a file that is no video or a longer one than the limit.

    The length that the container states is checked first, then that of its packets.

    Args:
        path: The file.
        name: Name of the file in messages.
        max_seconds: Longest video to accept.

    Raises:
        RefusedError: If the video is refused.
    """
    options = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": "file",
        "max_pixels": str(_MAX_PIXELS),
    }
    try:
        with av.open(str(path), options=options, metadata_errors="ignore") as container:
            if container.duration is not None:
                _check_seconds(container.duration / av.time_base, name, max_seconds=max_seconds)
            _check_packets(container, name, max_seconds=max_seconds)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise RefusedError(
            f"{name}: this is no video that can be read ({describe_error(error)})", status=422
        ) from error


def _check_packets(container: InputContainer, name: str, *, max_seconds: float) -> None:
    if not container.streams.video:
        raise RefusedError(f"{name}: has no video stream", status=422)
    stream = container.streams.video[0]

    first: int | None = None
    for num_packets, packet in enumerate(container.demux(stream)):
        if num_packets > max_seconds * _MAX_FPS:
            raise RefusedError(
                f"{name}: has more frames than {max_seconds:g} s with {_MAX_FPS} frames per "
                "second, the limit here. Send a shorter part of it",
                status=413,
            )
        if packet.dts is not None and packet.time_base:
            first = packet.dts if first is None else first
            seconds = float((packet.dts - first) * packet.time_base)
            _check_seconds(seconds, name, max_seconds=max_seconds)


def _check_seconds(seconds: float, name: str, *, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise RefusedError(
            f"{name}: is {_length(seconds)} long, more than {_length(max_seconds)}, the limit "
            "here. Send a shorter part of it",
            status=413,
        )


def _length(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, seconds = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{seconds:02} h"
        if minutes > 59
        else f"{minutes}:{seconds:02} min"
    )
