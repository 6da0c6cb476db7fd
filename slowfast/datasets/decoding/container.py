"""Video containers: opening a file with FFmpeg and reading the packets of its video stream."""

from collections.abc import Iterator
from functools import cached_property
from os.path import abspath, isfile
from types import TracebackType

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video import VideoStream

from slowfast.datasets.decoding.damage import LossError, describe_error
from slowfast.datasets.decoding.ffmpeg_log import captured_log, first_error, forward_errors
from slowfast.datasets.records import DecodeError
from slowfast.utils.paths import forget, pathmgr

# Containers that store no presentation times. FFmpeg may make up the times it gives.
UNTIMED_FORMATS = {"avi", "h264", "hevc", "m4v", "mpegvideo", "mjpeg"}
# Demuxers whose reports while they open a file mean skipped data. Others report odd headers.
STRICT_FORMATS = {"matroska,webm", "asf"}
# What the Matroska demuxer reports about a file that ends within an element. If the file is short,
# it does so while it opens the file.
END_OF_FILE_REPORT = "File ended prematurely"
# Demuxers that report nothing beyond what the packets tell, or that share their name with a
# decoder.
UNREPORTED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2"} | UNTIMED_FORMATS
# Demuxers that also flag a packet as corrupt where two recordings were joined.
LOOSELY_FLAGGED_FORMATS = {"mpegts", "mpeg"}


class VideoContainer:
    """An open video file and the packets of its video stream.

    Args:
        path: Path the user gave, local or remote. Error messages name it.
        max_pixels: Largest frame to accept, width times height. Opening may decode a frame.
        local_path: Path of the file or of its local copy, if it is known.

    Attributes:
        local_path: Path of the file or of its local copy.
        input: PyAV's container.
        ends_early: Whether the demuxer reported, while it opened the file, that the file ends too
            early.

    Raises:
        DecodeError: If the file does not exist, is not a video, or is damaged at its start.
    """

    def __init__(self, path: str, *, max_pixels: int, local_path: str = "") -> None:
        self.path = path
        self.max_pixels = max_pixels
        self.ends_early = False
        self.local_path = local_path or _find_local_path(path)

        forward_errors()
        self.input = self._open()

    def __enter__(self) -> "VideoContainer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self.input.close()

    def open_again(self) -> "VideoContainer":
        """Return the file opened a second time, at its start."""
        return VideoContainer(self.path, max_pixels=self.max_pixels, local_path=self.local_path)

    @property
    def format(self) -> str:
        """FFmpeg's name of the container format."""
        return self.input.format.name

    @property
    def is_untimed(self) -> bool:
        """Whether the format stores no presentation times."""
        return self.format in UNTIMED_FORMATS

    @property
    def flags_joints(self) -> bool:
        """Whether a corrupt packet may mean no more than a joint of two recordings."""
        return self.format in LOOSELY_FLAGGED_FORMATS

    @cached_property
    def stream(self) -> VideoStream:
        """The video stream.

        Raises:
            DecodeError: If the file has none, or FFmpeg cannot decode it.
        """
        stream = _find_video_stream(self.input)
        if stream is None:
            picture = ", only a cover picture" if self.input.streams.video else ""
            raise DecodeError(f"{self.path}: no video stream{picture}")
        if stream.codec_context is None:
            raise DecodeError(f"{self.path}: FFmpeg has no decoder for its video stream")
        return stream

    def demux(self) -> Iterator[av.Packet]:
        """Yield the packets of the video stream that hold data.

        Raises:
            LossError: If the demuxer reports that data was lost before the next packet.
            DecodeError: If the demuxer fails.
        """
        packets = self.input.demux(self.stream)
        if self.format in UNREPORTED_FORMATS:  # capturing the log would only cost time
            yield from self._demux_unreported(packets)
            return

        is_at_end = False
        while not is_at_end:
            with captured_log() as log:
                packet = self._next_packet(packets)
            if packet is None:
                return

            is_at_end = not packet.size and packet.dts is None
            if report := first_error(log, source=self.format):
                raise LossError(report, is_at_end=is_at_end or not _has_more(packets))
            if packet.size:
                yield packet

    def _demux_unreported(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        while (packet := self._next_packet(packets)) is not None:
            if packet.size:
                yield packet
            elif packet.dts is None:  # the end of the file
                return

    def _next_packet(self, packets: Iterator[av.Packet]) -> av.Packet | None:
        try:
            return next(packets, None)
        except (av.FFmpegError, OSError) as error:
            raise DecodeError(f"{self.path}: {describe_error(error)}") from error
        except IndexError as error:  # PyAV raises it where damage looks like another stream
            raise DecodeError(f"{self.path}: a packet belongs to no stream") from error

    def _open(self) -> InputContainer:
        if not isfile(self.local_path):  # another process made room in the cache
            self.local_path = _find_local_path(self.path)

        options = {"max_pixels": str(self.max_pixels)}
        try:
            with captured_log() as log:
                # Metadata such as the title may not be valid UTF-8.
                container = av.open(self.local_path, options=options, metadata_errors="ignore")
        except (av.FFmpegError, OSError) as error:
            reason = f"{describe_error(error)}{forget(self.path)}"
            raise DecodeError(f"{self.path}: {reason}") from error

        name = container.format.name
        report = first_error(log, source=name) if name in STRICT_FORMATS else ""
        if report == END_OF_FILE_REPORT:
            self.ends_early = True
        elif report:
            container.close()
            raise DecodeError(f"{self.path}: damaged: {report}")
        return container


def _find_local_path(path: str) -> str:
    try:
        if not pathmgr.isfile(path):
            raise DecodeError(f"{path}: no such file")

        # FFmpeg takes the "a:" in a relative path "a:b.mp4" for a protocol.
        return abspath(pathmgr.get_local_path(path))
    except OSError as error:
        reason = describe_error(error).removeprefix(f"{path}: ")  # our own errors begin with it
        raise DecodeError(f"{path}: {reason}") from error


def _find_video_stream(container: InputContainer) -> VideoStream | None:
    """Return the video stream, None if there is none or only a cover picture."""
    streams = list(container.streams.video)
    best = container.streams.best("video")
    if isinstance(best, VideoStream):
        streams.insert(0, best)
    videos = (s for s in streams if not s.disposition & Disposition.attached_pic)
    return next(videos, None)


def _has_more(packets: Iterator[av.Packet]) -> bool:
    """Return whether a demuxer gives another packet that holds data."""
    try:
        return any(packet.size for packet in packets)
    except (av.FFmpegError, OSError, IndexError):
        return False
