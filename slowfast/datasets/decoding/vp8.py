"""VP8 (RFC 6386): what a packet says about its frame, and whether its data is complete."""

from collections.abc import Iterator
from itertools import islice

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

_KEYFRAME_HEADER_BYTES = 10  # frame tag, start code, width and height
_IS_INTERFRAME, _IS_SHOWN = 0x01, 0x10  # bits of the first byte
_MACROBLOCK = 16  # height and width in pixels
# Previous, golden and alternate picture, the one being decoded, the one before, the last output.
_MAX_PICTURES = 6
_HALF = 128  # probability of one half


def is_shown(packet: bytes) -> bool:
    """Return whether a frame is shown. Otherwise it is only a reference (section 9.1)."""
    return bool(packet[0] & _IS_SHOWN)


def depends_on_earlier_frames(keyframe: bytes) -> bool:
    """Return whether a keyframe keeps the segment map of the frame before it (section 9.3).

    No encoder writes such a keyframe, but damage may create one. It then depends on what was
    decoded before.
    """
    bits = _read_bits(keyframe[_KEYFRAME_HEADER_BYTES : _KEYFRAME_HEADER_BYTES + 4])
    _color_space, _clamping, has_segments, updates_map = islice(bits, 4)
    return has_segments and not updates_map


class LastMacroblockCheck:
    """A second decoder that finds pictures whose data ends too early.

    FFmpeg does not report it and shows old memory in the rest of the picture, which always includes
    the last macroblock. This decoder's memory has noise in the last macroblock, new for each
    picture. If the noise is still there after decoding, the data ended before. The noise does not
    affect later checks, because pixel values play no role in how data is parsed.
    """

    def __init__(self) -> None:
        self._decoder: VideoCodecContext = av.CodecContext.create("vp8", "r")
        self._decoder.thread_count = 1
        self._size = b""  # as in the header of a keyframe
        self._noise_at: dict[int, bytes] = {}  # by memory address of the picture
        self._rng = np.random.default_rng(0)

    def restart(self) -> None:
        """Forget all pictures, because the next packet is a keyframe."""
        self._decoder.flush_buffers()

    def is_complete(self, packet: av.Packet) -> bool:
        """Return whether the data of a picture reaches its end, or FFmpeg reports its damage."""
        data = bytearray(bytes(packet))
        data[0] |= _IS_SHOWN  # also check pictures that are only references
        if not data[0] & _IS_INTERFRAME:
            self._fill_memory(data)
        return all(self._replace_noise(frame) for frame in self._decode(data))

    def _fill_memory(self, keyframe: bytearray) -> None:
        """Make the decoder allocate all the memory it will ever need, and fill it with noise."""
        size = bytes(keyframe[6:_KEYFRAME_HEADER_BYTES])
        if size == self._size:
            return

        self._noise_at.clear()
        frames: list[av.VideoFrame] = []
        for _ in range(_MAX_PICTURES):  # keep each one in memory until all are allocated
            frames += self._decode(keyframe)
        for frame in frames:
            self._replace_noise(frame)
        self._size = size if frames else b""
        self._decoder.flush_buffers()

    def _decode(self, data: bytearray) -> list[av.VideoFrame]:
        try:
            return self._decoder.decode(av.Packet(bytes(data)))
        except av.FFmpegError:
            return []

    def _replace_noise(self, frame: av.VideoFrame) -> bool:
        """Put new noise into a picture. Return whether the decoder had overwritten the old one."""
        plane = frame.planes[0]
        lines = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
        row = (plane.height - 1) // _MACROBLOCK * _MACROBLOCK
        column = (plane.width - 1) // _MACROBLOCK * _MACROBLOCK
        last = lines[row:, column : column + _MACROBLOCK]

        is_overwritten = last.tobytes() != self._noise_at.get(plane.buffer_ptr)
        last[:] = self._rng.integers(0, 256, last.shape, dtype=np.uint8)
        self._noise_at[plane.buffer_ptr] = last.tobytes()
        return is_overwritten


def _read_bits(data: bytes) -> Iterator[bool]:
    """Yield the first bits that a boolean decoder reads with even odds (section 7.3)."""
    value = int.from_bytes(data.ljust(4, b"\0"), "big")
    span, num_bits = 255, 8 * 4

    while True:
        split = 1 + (((span - 1) * _HALF) >> 8)
        threshold = split << (num_bits - 8)
        bit = value >= threshold
        if bit:
            value -= threshold
            span -= split
        else:
            span = split

        while span < _HALF:
            value, span = value << 1, span << 1
        yield bit
