"""VP8 frame headers: what a packet says about the frame in it (RFC 6386)."""

from collections.abc import Iterator
from itertools import islice

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

_KEYFRAME_HEADER_BYTES = 10  # frame tag, start code, width and height
_HALF = 128  # a probability of one half


def is_shown(packet: bytes) -> bool:
    """Return whether a frame is shown, or serves only as a reference for others (section 9.1)."""
    return bool(packet[0] & 0x10)


def depends_on_earlier_frames(keyframe: bytes) -> bool:
    """Return whether a keyframe keeps the segment map of the frame before it (section 9.3).

    No encoder writes such a keyframe, but damage may make one. It then depends on what was decoded
    before.
    """
    bits = _read_bits(keyframe[_KEYFRAME_HEADER_BYTES : _KEYFRAME_HEADER_BYTES + 4])
    _color_space, _clamping, has_segments, updates_map = islice(bits, 4)
    return has_segments and not updates_map


def fills_its_picture(keyframe: av.Packet, *, decoder: VideoCodecContext) -> bool:
    """Return whether a keyframe gives a value to each pixel.

    Where the data end too early, FFmpeg reports nothing and leaves in the picture what its memory
    held before, which depends on what was decoded before. So decode twice, in between invert what
    the memory holds, and compare.

    Args:
        keyframe: The packet.
        decoder: An open decoder, left to be flushed.
    """
    decoder.flush_buffers()
    frames = decoder.decode(keyframe)
    if not frames:
        return True  # not shown, or reported
    pixels = _pixels(frames[0])

    decoder.flush_buffers()
    _invert(frames.pop())  # its memory is the next that the decoder takes
    return _pixels(decoder.decode(keyframe)[0]) == pixels


def _invert(frame: av.VideoFrame) -> None:
    for plane in frame.planes:
        plane.update((~np.frombuffer(memoryview(plane), dtype=np.uint8)).tobytes())


def _pixels(frame: av.VideoFrame) -> list[bytes]:
    """The planes of a frame, without what lies between their lines in memory."""
    lines = [
        np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
        for plane in frame.planes
    ]
    return [
        part[:, : plane.width].tobytes() for part, plane in zip(lines, frame.planes, strict=True)
    ]


def _read_bits(data: bytes) -> Iterator[bool]:
    """The first bits that a boolean decoder reads with even odds (section 7.3)."""
    value = int.from_bytes(data.ljust(4, b"\0"), "big")
    span, num_bits = 255, 8 * 4
    while True:
        split = 1 + (((span - 1) * _HALF) >> 8)
        threshold = split << (num_bits - 8)
        bit = value >= threshold
        value -= threshold if bit else 0
        span = span - split if bit else split
        while span < _HALF:
            value, span = value << 1, span << 1
        yield bit
