"""JPEG pictures (ITU-T T.81, annex B): the tables one defines, and whether its data is complete."""

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

_START_OF_SCAN = 0xDA
_HUFFMAN_TABLES, _QUANTIZATION_TABLES = 0xC4, 0xDB
_START_OF_IMAGE_BYTES = 2


def find_tables(packet: av.Packet) -> set[tuple[int, int]]:
    """Return the tables that a picture defines before its first scan.

    If a table is missing, the picture is decoded with the one of the picture before it, or with a
    standard one.

    Returns:
        The marker of each table, and its class and number.
    """
    data = bytes(packet)
    tables: set[tuple[int, int]] = set()

    start = _START_OF_IMAGE_BYTES
    while start + 4 <= len(data):
        prefix, marker = data[start : start + 2]
        if prefix != 0xFF or marker == _START_OF_SCAN:
            break

        length = int.from_bytes(data[start + 2 : start + 4], "big")
        segment = data[start + 4 : start + 2 + length]
        if marker in (_HUFFMAN_TABLES, _QUANTIZATION_TABLES):
            tables |= {(marker, number) for number in _table_numbers(segment, marker)}
        start += 2 + max(length, 2)
    return tables


def fills_picture(packet: av.Packet, *, decoder: VideoCodecContext) -> bool:
    """Return whether the data of a packet gives a value to each pixel of its picture.

    If the data ends too early, FFmpeg reports nothing and leaves in the picture what its memory
    held before. This function decodes twice, inverts the memory in between, and compares.

    Args:
        packet: Packet with one picture.
        decoder: Open decoder. Flush it afterwards.
    """
    decoder.flush_buffers()
    frames = decoder.decode(packet)
    if not frames:
        return True  # not shown, or FFmpeg reports it
    pixels = _pixels(frames[0])

    decoder.flush_buffers()
    _invert(frames.pop())  # the decoder uses this memory for the next picture
    return _pixels(decoder.decode(packet)[0]) == pixels


def _invert(frame: av.VideoFrame) -> None:
    for plane in frame.planes:
        plane.update((~np.frombuffer(memoryview(plane), dtype=np.uint8)).tobytes())


def _pixels(frame: av.VideoFrame) -> list[bytes]:
    """Return the planes of a frame, without the padding of their lines."""
    pixels = []
    for plane in frame.planes:
        lines = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
        pixels.append(lines[:, : plane.width].tobytes())
    return pixels


def _table_numbers(segment: bytes, marker: int) -> list[int]:
    """Return the number of each table in a segment, together with the class of a Huffman table."""
    numbers = []
    start = 0
    while start < len(segment):
        header = segment[start]
        if marker == _HUFFMAN_TABLES:
            numbers.append(header)
            start += 17 + sum(segment[start + 1 : start + 17])
        else:
            is_16_bit = header >> 4
            numbers.append(header & 0x0F)
            start += 129 if is_16_bit else 65
    return numbers
