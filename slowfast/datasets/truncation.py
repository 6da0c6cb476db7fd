"""Truncated videos: what a file holds, compared with what its container promises."""

import os
import struct
from contextlib import suppress

import av
from av.container import InputContainer
from av.video import VideoStream

# What may be missing at the end of a video that counts as whole: the larger of the two.
TOLERATED_SECONDS, TOLERATED_SHARE = 0.5, 0.02
# The packets of a transport stream, also with a time stamp in front, or with a checksum behind.
_TS_PACKET_BYTES = (188, 192, 204)
_TS_SYNC = 0x47
_NUM_LAST_PACKETS = 500  # among which one of the video is looked for
_GIF_END = b"\x3b"
_PROGRAM_STREAM_END = b"\x00\x00\x01\xb9"
# Containers and raw streams without a sign of their end, or of how long they should be.
_ENDLESS_FORMATS = {"nut", "mjpeg", "m4v", "mpegvideo", "h264", "hevc"}
# Where all frames have one size.
_UNCOMPRESSED_FORMATS = {"yuv4mpegpipe", "dv"}
_UNKNOWN_LENGTH = (1 << 32) - 1  # of an IVF file that was written to a pipe
_MAX_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MAX_ASF_HEADER_BYTES = 1 << 16


def find_truncation(
    container: InputContainer,
    stream: VideoStream,
    *,
    path: str,
    end: float,
    last_byte: int,
    longest_gap: float,
    is_cut: bool,
) -> str:
    """Return what is missing at the end of a video, or "" if it is whole.

    Args:
        container: The open file, whose packets have been read.
        stream: The video.
        path: The local file.
        end: Seconds at which its last frame ends.
        last_byte: Where its last whole packet ends in the file, in bytes.
        longest_gap: The most seconds between two of its frames.
        is_cut: Whether the demuxer reports that the file ends too early, or flags the last packet.

    Returns:
        The words for an error message.
    """
    if missing := _num_missing_samples(container, stream):
        return f"{missing} of {len(stream.index_entries)} frames lie beyond the end of the file"
    if container.format.name == "mpegts" and all(
        container.size % size for size in _TS_PACKET_BYTES
    ):
        return "the last packet of the transport stream is cut off"
    if container.format.name == "ogg" and _ends_within_ogg_page(path):
        return "the last page of the Ogg stream is cut off"
    if container.format.name in _UNCOMPRESSED_FORMATS and last_byte < container.size:
        return "the last frame is cut off"

    promised, is_for_all_streams = _promised_end(container, stream, path=path)
    if is_cut and not promised:
        return "the file ends within a packet"
    # A last frame that is shown for long may be stored without its duration.
    tolerated = max(TOLERATED_SECONDS, TOLERATED_SHARE * promised, longest_gap)
    if promised - end > tolerated and is_for_all_streams:
        end = max(end, _end_of_others(container, stream))
    if promised - end > tolerated:
        return f"ends at {end:.2f} of {promised:.2f} s"
    return ""


def may_end_within_picture(path: str, stream: VideoStream) -> bool:
    """Return whether the end of a file that promises nothing does not tell where the last picture ends.

    Args:
        path: The local file.
        stream: The video.
    """
    name = stream.container.format.name
    if name == "mpegts":
        return _may_end_within_ts_picture(path, stream)
    if name == "gif":
        return not _last_bytes(path, 64).rstrip(b"\0").endswith(_GIF_END)
    if name == "mpeg":
        return not _last_bytes(path, 64).rstrip(b"\0").endswith(_PROGRAM_STREAM_END)
    return name in _ENDLESS_FORMATS


def _may_end_within_ts_picture(path: str, stream: VideoStream) -> bool:
    """Whether the last packet of a transport stream is full of the video.

    A picture ends in a packet that is stuffed, unless it fits by chance, once in 184 times.
    """
    size = os.stat(path).st_size
    packet_bytes = next((bytes_ for bytes_ in _TS_PACKET_BYTES if size % bytes_ == 0), 0)
    if not packet_bytes:
        return True
    tail = _last_bytes(path, packet_bytes * _NUM_LAST_PACKETS)

    offset = 4 if packet_bytes == 192 else 0
    for start in range(len(tail) - packet_bytes + offset, -1, -packet_bytes):
        sync, high, low, control = tail[start : start + 4]
        has_payload, has_stuffing = control & 0x10, control & 0x20
        if sync == _TS_SYNC and (high & 0x1F) << 8 | low == stream.id and has_payload:
            return not has_stuffing
    return False


def _ends_within_ogg_page(path: str) -> bool:
    """Whether the last page of an Ogg file is longer than what is left of the file."""
    tail = _last_bytes(path, 2 * _MAX_OGG_PAGE_BYTES)
    page = tail[tail.rfind(b"OggS") :]
    num_segments = page[26] if len(page) > 26 else 255
    return len(page) < 27 + num_segments + sum(page[27 : 27 + num_segments])


def _asf_seconds(path: str) -> float:
    """The duration in the header of an ASF file, 0 where it does not say, as in a broadcast."""
    with open(path, "rb") as file:
        header = file.read(_MAX_ASF_HEADER_BYTES)
    place = header.find(_ASF_FILE_PROPERTIES)
    if place < 0 or len(header) < place + 92:
        return 0.0
    # 64 bytes from its identifier on: duration in 100 ns, time to send, preroll in ms, flags.
    duration, _, preroll, flags = struct.unpack_from("<QQQI", header, place + 64)
    is_broadcast = flags & 1
    return 0.0 if is_broadcast else max(duration / 1e7 - preroll / 1e3, 0.0)


def _last_bytes(path: str, number: int) -> bytes:
    """At most so many bytes from the end of a file."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(-min(size, number), os.SEEK_END)
        return file.read()


def _num_missing_samples(container: InputContainer, stream: VideoStream) -> int:
    """The number of frames that the table of an MP4 file places beyond its end."""
    if not container.format.name.startswith("mov"):
        return 0
    size = container.size
    return sum(entry.pos + entry.size > size for entry in stream.index_entries)


def _promised_end(
    container: InputContainer, stream: VideoStream, *, path: str
) -> tuple[float, bool]:
    """Seconds at which a header says that a file ends, or 0; and whether that is the end of all of its streams."""
    name = container.format.name
    if name == "avi" and stream.frames and stream.time_base:
        return stream.frames * float(stream.time_base), False
    is_known = stream.duration and stream.frames != _UNKNOWN_LENGTH
    if name in ("ivf", "mxf") and is_known and stream.duration and stream.time_base:
        return stream.duration * float(stream.time_base), False
    if name == "matroska,webm" and "DURATION" in stream.metadata:
        return _seconds(stream.metadata["DURATION"]), False
    if name == "asf":
        return _asf_seconds(path), True
    if name in ("matroska,webm", "flv") and container.duration:
        return container.duration / av.time_base, True
    return 0.0, False


def _end_of_others(container: InputContainer, stream: VideoStream) -> float:
    """Seconds at which the last of the other streams ends; the file is read again to find out."""
    end = 0.0
    others = [other for other in container.streams if other.index != stream.index]
    with suppress(av.FFmpegError, IndexError):  # which the end of a truncated file may be
        container.seek(0)
        for packet in container.demux(others):
            if packet.dts is not None:
                end = max(end, float((packet.dts + (packet.duration or 0)) * packet.time_base))
    return end


def _seconds(clock: str) -> float:
    """Seconds of a tag like 00:01:02.500000000; 0 where it is something else."""
    try:
        hours, minutes, seconds = clock.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0
