"""JPEG headers: which tables the picture in a packet brings with it (ITU-T T.81, annex B)."""

import av

_START_OF_SCAN = 0xDA
_HUFFMAN_TABLES, _QUANTIZATION_TABLES = 0xC4, 0xDB


def tables_of(packet: av.Packet) -> set[tuple[int, int]]:
    """Return the tables that a picture defines before its first scan, as marker and class and number of each.

    A picture that lacks some is decoded with those of the picture before it, or with standard ones.
    """
    data = bytes(packet)
    tables: set[tuple[int, int]] = set()
    start = 2  # after the marker of the start
    while start + 4 <= len(data):
        prefix, marker = data[start : start + 2]
        if prefix != 0xFF or marker == _START_OF_SCAN:
            break
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        segment = data[start + 4 : start + 2 + length]
        if marker in (_HUFFMAN_TABLES, _QUANTIZATION_TABLES):
            tables |= {(marker, number) for number in _numbers_in(segment, marker)}
        start += 2 + max(length, 2)
    return tables


def _numbers_in(segment: bytes, marker: int) -> list[int]:
    """The first byte of each table of a segment: for quantization tables their precision and number."""
    numbers = []
    start = 0
    while start < len(segment):
        number = segment[start]
        numbers.append(number & 0x0F if marker == _QUANTIZATION_TABLES else number)
        if marker == _HUFFMAN_TABLES:
            start += 17 + sum(segment[start + 1 : start + 17])
        else:
            start += 129 if number >> 4 else 65
    return numbers
