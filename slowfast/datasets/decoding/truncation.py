"""Truncated videos: what a file holds, compared with what its container promises."""

import os
import struct
from contextlib import suppress
from typing import NamedTuple

import av
from av.container import InputContainer
from av.video import VideoStream

# A video counts as whole if no more than the larger of these is missing at its end.
TOLERATED_SECONDS, TOLERATED_SHARE = 0.5, 0.02
# Packet of a transport stream: plain, with a timestamp in front, or with a checksum behind.
_TS_PACKET_BYTES = (188, 192, 204)
_TS_SYNC = 0x47
_MAX_LAST_TS_PACKETS = 500  # packets to search for one of the video
_GIF_END = b"\x3b"
_PROGRAM_STREAM_END = b"\x00\x00\x01\xb9"
# Containers and raw streams without an end marker and without a promised length.
_ENDLESS_FORMATS = {"nut", "mjpeg", "m4v", "mpegvideo", "h264", "hevc"}
# Formats in which all frames have one size.
_UNCOMPRESSED_FORMATS = {"yuv4mpegpipe", "dv"}
_UNKNOWN_IVF_LENGTH = (1 << 32) - 1  # in a file that was written to a pipe
_MAX_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MAX_ASF_HEADER_BYTES = 1 << 16


class Extent(NamedTuple):
    """How far the packets of a video stream reach."""

    end: float  # seconds at which the last frame ends
    last_byte: int  # position in the file where the last whole packet ends
    longest_gap: float  # most seconds between two frames


def find_truncation(
    container: InputContainer, stream: VideoStream, *, path: str, extent: Extent, is_cut: bool
) -> str:
    """Return what is missing at the end of a video, in words for an error message, "" for nothing.

    Args:
        container: Open file, after all of its packets were read.
        stream: Video stream.
        path: Path of the local file.
        extent: What the packets of the stream cover.
        is_cut: Whether the demuxer reported that the file ends too early, or flagged the last
            packet.
    """
    if missing := _count_missing_samples(container, stream):
        return f"{missing} of {len(stream.index_entries)} frames lie beyond the end of the file"
    if cut := _find_cut(container, path=path, last_byte=extent.last_byte):
        return f"{cut} is cut off"

    promised, is_for_all_streams = _promised_end(container, stream, path=path)
    if is_cut and not promised:
        return "the file ends within a packet"

    # The last frame may be shown for long, and be stored without its duration.
    tolerated = max(TOLERATED_SECONDS, TOLERATED_SHARE * promised, extent.longest_gap)
    end = extent.end
    if promised - end > tolerated and is_for_all_streams:
        end = max(end, _end_of_others(container, stream))
    if promised - end > tolerated:
        return f"ends at {end:.2f} of {promised:.2f} s"
    return ""


def may_end_within_picture(path: str, stream: VideoStream) -> bool:
    """Return whether a file may end within a picture, although its container promises nothing.

    Args:
        path: Path of the local file.
        stream: Video stream.
    """
    name = stream.container.format.name
    if name == "mpegts":
        return _may_end_within_ts_picture(path, stream)
    if name == "gif":
        return not _last_bytes(path, 64).rstrip(b"\0").endswith(_GIF_END)
    if name == "mpeg":
        return not _last_bytes(path, 64).rstrip(b"\0").endswith(_PROGRAM_STREAM_END)
    return name in _ENDLESS_FORMATS


def _count_missing_samples(container: InputContainer, stream: VideoStream) -> int:
    """Return how many frames the sample table of an MP4 file locates beyond the end of the file."""
    if not container.format.name.startswith("mov"):
        return 0
    size = container.size
    return sum(entry.pos + entry.size > size for entry in stream.index_entries)


def _find_cut(container: InputContainer, *, path: str, last_byte: int) -> str:
    """Return the unit of the format that the end of the file cuts, "" for none."""
    name, size = container.format.name, container.size
    if name == "mpegts" and all(size % packet_bytes for packet_bytes in _TS_PACKET_BYTES):
        return "the last packet of the transport stream"
    if name == "ogg" and _ends_within_ogg_page(path):
        return "the last page of the Ogg stream"
    if name in _UNCOMPRESSED_FORMATS and last_byte < size:
        return "the last frame"
    return ""


def _promised_end(
    container: InputContainer, stream: VideoStream, *, path: str
) -> tuple[float, bool]:
    """Return the end according to a header in seconds, or 0, and whether all streams count."""
    name = container.format.name
    if name == "avi" and stream.frames and stream.time_base:
        return stream.frames * float(stream.time_base), False

    is_known = stream.frames != _UNKNOWN_IVF_LENGTH
    if name in ("ivf", "mxf") and is_known and stream.duration and stream.time_base:
        return stream.duration * float(stream.time_base), False

    if name == "matroska,webm" and "DURATION" in stream.metadata:
        return _parse_clock(stream.metadata["DURATION"]), False
    if name == "asf":
        return _asf_seconds(path), True
    if name in ("matroska,webm", "flv") and container.duration:
        return container.duration / av.time_base, True
    return 0.0, False


def _end_of_others(container: InputContainer, stream: VideoStream) -> float:
    """Return the seconds at which the last of the other streams ends. Reads the file again."""
    end = 0.0
    others = [other for other in container.streams if other.index != stream.index]
    with suppress(av.FFmpegError, IndexError):  # may be the end of a truncated file
        container.seek(0)
        for packet in container.demux(others):
            if packet.dts is not None:
                end = max(end, float((packet.dts + (packet.duration or 0)) * packet.time_base))
    return end


def _may_end_within_ts_picture(path: str, stream: VideoStream) -> bool:
    """Return whether the last packet of the video in a transport stream is full.

    A picture ends in a packet with stuffing, unless it happens to fit, once in 184 times.
    """
    size = os.stat(path).st_size
    packet_bytes = next((number for number in _TS_PACKET_BYTES if size % number == 0), 0)
    if not packet_bytes:
        return True

    tail = _last_bytes(path, packet_bytes * _MAX_LAST_TS_PACKETS)
    offset = 4 if packet_bytes == 192 else 0
    for start in range(len(tail) - packet_bytes + offset, -1, -packet_bytes):
        sync, high, low, control = tail[start : start + 4]
        stream_id = (high & 0x1F) << 8 | low
        has_payload, has_stuffing = control & 0x10, control & 0x20
        if sync == _TS_SYNC and stream_id == stream.id and has_payload:
            return not has_stuffing
    return False


def _ends_within_ogg_page(path: str) -> bool:
    tail = _last_bytes(path, 2 * _MAX_OGG_PAGE_BYTES)
    page = tail[tail.rfind(b"OggS") :]
    num_segments = page[26] if len(page) > 26 else 255
    return len(page) < 27 + num_segments + sum(page[27 : 27 + num_segments])


def _asf_seconds(path: str) -> float:
    """Return the duration in the header of an ASF file, 0 if it is unknown, as in a broadcast."""
    with open(path, "rb") as file:
        header = file.read(_MAX_ASF_HEADER_BYTES)
    start = header.find(_ASF_FILE_PROPERTIES)
    if start < 0 or len(header) < start + 92:
        return 0.0

    # 64 bytes after the identifier: duration in 100 ns, time to send, preroll in ms, flags.
    duration, _, preroll, flags = struct.unpack_from("<QQQI", header, start + 64)
    is_broadcast = flags & 1
    return 0.0 if is_broadcast else max(duration / 1e7 - preroll / 1e3, 0.0)


def _last_bytes(path: str, max_bytes: int) -> bytes:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(-min(size, max_bytes), os.SEEK_END)
        return file.read()


def _parse_clock(clock: str) -> float:
    """Return the seconds of a tag like 00:01:02.500000000, 0 for anything else."""
    try:
        hours, minutes, seconds = clock.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0
