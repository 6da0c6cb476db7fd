"""Frames by number: VideoFile reads them from a video with PyAV, FrameFolder from a folder of JPEG files.

Both are context managers with `num_frames`, `fps`, `codec` and `read(numbers)`. The frames are those that a plain
decode from front to back gives, whatever was read before. Both raise DecodeError, which names the file.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import chain, islice, pairwise, takewhile
from os.path import abspath, isfile, join
from pathlib import Path
from string import Formatter
from types import TracebackType
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video import VideoStream
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from slowfast.datasets import jpeg, vp8
from slowfast.datasets.ffmpeg_log import captured_log, first_error, listen
from slowfast.datasets.frame_metadata import (
    HDR_TRANSFERS,
    UnsupportedFrameError,
    drop_transfer,
    matrix_of,
    orientation_of,
    sws_colorspace,
)
from slowfast.datasets.frame_table import (
    MIN_VIDEO_BYTES,
    UNKNOWN,
    FrameNumbers,
    FrameTable,
    file_stamp,
    packet_row,
    read_table,
)
from slowfast.datasets.records import DecodeError, Span, TruncatedError
from slowfast.datasets.sampling import ConstantRate, constant_rate, frames_within
from slowfast.datasets.truncation import find_truncation, may_end_within_picture
from slowfast.utils.paths import forget, pathmgr

Frames = NDArray[np.uint8]

# Containers that store no presentation times; those that FFmpeg gives in their place may be made up.
UNTIMED_FORMATS = {"avi", "h264", "hevc", "m4v", "mpegvideo", "mjpeg"}
# A larger file is not kept in memory between the frame table and the decoding, but read again.
MAX_KEPT_BYTES = 256 << 20
# The largest frame, unless told otherwise: 8192 x 8192.
MAX_FRAME_PIXELS = 1 << 26
# Demuxers that report what they skip while they open a file, too, where most reports are about an odd header.
STRICT_FORMATS = {"matroska,webm", "asf"}
# What the demuxer of Matroska says of a file that ends within an element, which may be while it opens a short one.
END_OF_FILE_REPORT = "File ended prematurely"
# Demuxers that report nothing that a table of the packets does not tell, or that share their name with a decoder.
UNREPORTED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2"} | UNTIMED_FORMATS
# Demuxers that flag a packet as corrupt where recordings were joined, too.
LOOSELY_FLAGGED_FORMATS = {"mpegts", "mpeg"}
# Their decoders keep a picture when they are flushed, and predict from it where a file does not start with a keyframe.
CODECS_THAT_KEEP_PICTURES = ("wmv", "msmpeg4", "h263", "flv")
# Their decoders learn from the first frames how an encoder ends them, and only then find out what ends too early.
CODECS_THAT_LEARN = ("mpeg4",)
NUM_LEARNED_FROM = 8  # packets
# Their decoders leave in a picture what their memory held before, without a report, where the data end too early.
CODECS_WITH_UNREPORTED_ENDS = ("vp8", "mjpeg")
# Starting anew at a keyframe throws away what the decoder holds back to bring frames into order, at most 16 of them.
MIN_JUMP = 16


class _DamageError(Exception):
    """What was decoded from some keyframe on cannot be trusted."""


class _LossError(_DamageError):
    """The demuxer has skipped a part of the file, or reached the end of it too early."""

    def __init__(self, reason: str, *, is_at_end: bool) -> None:
        super().__init__(reason)
        self.is_at_end = is_at_end


class _Picture(NamedTuple):
    """What a packet says of the frame that it holds."""

    time: int | None  # of presentation, in units of the stream's time base
    decoding_time: int | None  # in the same units
    duration: int  # in the same units; 0 where the file does not say
    packet: int  # its place in the file
    is_key: bool
    is_corrupt: bool  # or, in some formats, the next packet does not go on where this one ends


class _Start(NamedTuple):
    """A keyframe, where decoding can start."""

    number: int  # of the frame
    packet: int  # its place in the file


class VideoFile:
    """The frames of a video file, numbered from 0 in the order in which a player shows them.

    Opening reads the packets, without decoding them, into a table of the frames' times. Reading decodes, with one
    thread, from the keyframe before the first wanted frame to the last wanted one. It jumps over long gaps, and the
    decoder drops frames that are neither wanted nor needed by others.

    Args:
        path: local, or remote where iopath can fetch it.
        bgr: give the channels in the order blue, green, red.
        table_path: Where the frame table of a long video may lie. With it, opening reads no packets.
        allow_truncated: Whether to read what is there of a video whose end is missing, or that is damaged within.
        max_pixels: The largest frame, width times height.

    Raises:
        TruncatedError: Frames are missing that the container promises, and that is not allowed.
        DecodeError: the file does not exist, is not a video, or has larger frames.
    """

    span: Span | None = None  # the part of the file that the list means; all frames can be read

    def __init__(
        self,
        path: str,
        *,
        bgr: bool = False,
        table_path: Path | None = None,
        allow_truncated: bool = False,
        max_pixels: int = MAX_FRAME_PIXELS,
    ) -> None:
        self.path = path
        self.truncation = ""  # what is missing, if that is allowed
        self._is_cut = False  # as the demuxer reports while it opens the file
        self._max_pixels = max_pixels
        self._table_path = table_path
        self._table: FrameTable | None = None
        self._times: Sequence[Any] | NDArray[np.int64] | None = None
        self._number_at: Mapping[int | None, int] = {}
        self._first_tables: set[tuple[int, int]] | None = (
            None  # of the first picture, in Motion JPEG
        )
        self._has_learned = False  # the decoder, of the first frames
        self._is_complete: dict[int, bool] = {}  # of keyframes, by packet
        self._pixel_format = "bgr24" if bgr else "rgb24"
        self._converter = VideoReformatter()  # one for all frames: its tables are costly to make
        self._is_transposed: bool | None = (
            None  # whether the display matrix lays frames on their side
        )
        self._local_path = self._find()
        listen()
        self._container = self._open()
        try:
            self._open_decoder()
            if not self._read_frame_table():
                self._scan(allow_truncated=allow_truncated)
        except av.FFmpegError as error:
            self.close()
            raise DecodeError(f"{path}: {_reason(error)}{forget(path)}") from error
        except _DamageError as error:  # the file has changed since its packets were read
            self.close()
            raise DecodeError(f"{path}: {error}{forget(path)}") from error
        except BaseException as error:
            self.close()
            if isinstance(error, DecodeError):
                forget(path)
            raise

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if isinstance(error, DecodeError):
            forget(self.path)

    def close(self) -> None:
        """Release the file and the decoder."""
        self._kept_packets: list[av.Packet] | None = None
        self._container.close()

    @property
    def shown(self) -> NDArray[np.int64]:
        """The frames of `span`, ascending; all of them if it is None.

        Raises:
            DecodeError: The video is over before the span begins.
        """
        if self.span is None:
            return np.arange(self.num_frames)
        total = self.times[-1] + (self.durations[-1] or 1 / float(self.fps or 1))
        if self.span.start >= total:
            raise DecodeError(
                f"{self.path}: is {total:.3f} s long, but its span starts at {self.span.start:g} s"
            )
        return frames_within(self.times, start=self.span.start, end=self.span.end)

    @property
    def stream(self) -> VideoStream:
        """The stream of the open file."""
        return self._stream

    @property
    def fps(self) -> Fraction:
        """Frames per second, on average; 0 where it is unknown."""
        return Fraction(self._stream.average_rate or self._stream.guessed_rate or 0)

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return self._decoder.codec.canonical_name

    @property
    def sample_aspect_ratio(self) -> Fraction:
        """The width of a stored pixel over its height, before frames are turned upright."""
        return Fraction(self._stream.sample_aspect_ratio or 1)

    @property
    def hdr(self) -> str:
        """PQ or HLG for video of high dynamic range; else empty."""
        return HDR_TRANSFERS.get(self._decoder.color_trc, "")

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """When each frame is shown, in seconds from the first, (num_frames,)."""
        if self._times is None or self._stream.time_base is None:
            return np.arange(self.num_frames) / float(self.fps or 1)
        return (np.array(self._times) - self._times[0]) * float(self._stream.time_base)

    @property
    def durations(self) -> NDArray[np.float64]:
        """How long each frame is shown, (num_frames,), in seconds, as the file says; 0 where it does not."""
        if self._times is None or self._stream.time_base is None:
            return np.zeros(self.num_frames)
        if self._table is not None:
            return self._table.frames[:, 1].astype(np.float64) * float(self._stream.time_base)
        return np.array([self._duration_at.get(time, 0) for time in self._times]) * float(
            self._stream.time_base
        )

    @property
    def frame_table(self) -> FrameTable | None:
        """What opening has found out, to be stored; None if decoding can start at the first frame alone.

        Also None if the file was opened with a table.
        """
        if self._table is not None or self._times is None:
            return None
        durations = [self._duration_at.get(time, 0) for time in self._times]
        return FrameTable(
            video=self._file_stamp,
            packets=self._packet_table[: self._num_packets],
            frames=np.stack([np.array(self._times), np.array(durations)], axis=1),
            starts=np.array(self._starts),
        )

    def at_rate(self, fps: float) -> ConstantRate:
        """Return which frames a constant frame rate takes, see `constant_rate`.

        Raises:
            DecodeError: A frame is shown for so long that a time stamp must be wrong.
        """
        try:
            return constant_rate(self.times, self.durations, fps=fps)
        except ValueError as error:
            raise DecodeError(f"{self.path}: {error}") from error

    def read(self, numbers: Sequence[int]) -> Frames:
        """Return the frames of the given numbers, in their order, repeats included.

        Args:
            numbers: from 0 to num_frames - 1, at least one.

        Returns:
            (N, H, W, 3), turned and mirrored as players show them; in memory, channel by channel. Pixels and brightness
            are those that are stored: no square pixels are made, and no tones of HDR mapped.

        Raises:
            DecodeError: a frame is damaged, or missing from the file, or its colors or its orientation are not
                supported.
        """
        places: dict[int, list[int]] = {}
        for place, number in enumerate(numbers):
            places.setdefault(int(number), []).append(place)
        planes: Frames | None = None
        for number, image in self._images(sorted(places)):
            if planes is None:
                planes = _empty_planes(len(numbers), image)
            for place in places[number]:
                planes[:, place] = image.transpose(2, 0, 1)
        assert planes is not None
        return planes.transpose(1, 2, 3, 0)

    def read_in_chunks(self, numbers: Sequence[int], *, max_bytes: int) -> Iterator[Frames]:
        """Yield the frames of ascending numbers in chunks, so that not all of them are in memory.

        Args:
            numbers: From 0 to num_frames - 1, ascending, at least one.
            max_bytes: The size of a chunk, if that is enough for one frame.

        Yields:
            (N, H, W, 3) each, as `read` returns them.

        Raises:
            DecodeError: A frame is damaged, or missing from the file.
        """
        images = (image for _, image in self._images(numbers))
        yield from _in_chunks(images, num_frames=len(numbers), max_bytes=max_bytes)

    def decode(self, numbers: Sequence[int]) -> Iterator[av.VideoFrame]:
        """Yield the frames of ascending numbers as the decoder gives them, neither converted nor turned.

        Args:
            numbers: From 0 to num_frames - 1, ascending, at least one.

        Raises:
            DecodeError: A frame is damaged, or missing from the file.
        """
        for _, frame in self._decode(numbers):
            yield frame

    def _images(self, wanted: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        """The wanted frames (H, W, 3), ascending, with their numbers."""
        if not 0 <= wanted[0] <= wanted[-1] < self.num_frames:
            raise DecodeError(
                f"{self.path}: frames {wanted[0]} to {wanted[-1]} asked for, of {self.num_frames}"
            )
        for number, frame in self._decode(wanted):
            yield number, self._to_image(frame)

    # ---- Opening -----------------------------------------------------------------------------------------------------

    def _find(self) -> str:
        try:
            if not pathmgr.isfile(self.path):
                raise DecodeError(f"{self.path}: no such file")
            return abspath(
                pathmgr.get_local_path(self.path)
            )  # FFmpeg takes a: in a relative path for a protocol
        except OSError as error:
            reason = _reason(error).removeprefix(f"{self.path}: ")  # our own errors name it already
            raise DecodeError(f"{self.path}: {reason}") from error

    def _open(self) -> InputContainer:
        if not isfile(self._local_path):  # another process has made room in the cache
            self._local_path = self._find()
        options = {"max_pixels": str(self._max_pixels)}  # opening may decode a frame
        try:
            with captured_log() as log:
                container = av.open(
                    self._local_path, options=options, metadata_errors="ignore"
                )  # a title may be odd
        except (av.FFmpegError, OSError) as error:
            raise DecodeError(f"{self.path}: {_reason(error)}{forget(self.path)}") from error
        name = container.format.name
        if name in STRICT_FORMATS and (report := first_error(log, source=name)):
            if report == END_OF_FILE_REPORT:
                self._is_cut = True
                return container
            container.close()
            raise DecodeError(f"{self.path}: damaged: {report}")
        return container

    def _open_decoder(self) -> None:
        stream = find_video_stream(self._container)
        if stream is None:
            picture = ", only a cover picture" if self._container.streams.video else ""
            raise DecodeError(f"{self.path}: no video stream{picture}")
        if stream.codec_context is None:
            raise DecodeError(f"{self.path}: FFmpeg has no decoder for it")
        self._stream, self._decoder = stream, stream.codec_context
        if self._decoder.width * self._decoder.height > self._max_pixels:
            raise DecodeError(
                f"{self.path}: frames of {self._decoder.width} x {self._decoder.height} pixels are larger than "
                f"DATA.MAX_FRAME_PIXELS {self._max_pixels} allows"
            )
        self._decoder.options = {
            "max_pixels": str(self._max_pixels)
        }  # the size may change on the way
        self._decoder.thread_type = "NONE"  # threads of FFmpeg in a loader worker can deadlock
        self._decoder.thread_count = 1
        self._decoder.open()  # while it drops nothing: some decoders look just once at what they may drop
        self._size = (self._decoder.width, self._decoder.height)

    def _read_frame_table(self) -> bool:
        """Number the frames by a stored table; whether there is one for this very file."""
        self._file_stamp = file_stamp(self._local_path)
        self._can_seek = True
        if self._table_path is None or self._file_stamp[0] < MIN_VIDEO_BYTES:
            return False
        self._table = table = read_table(self._table_path, stamp=self._file_stamp)
        if table is None:
            return False
        self.num_frames = len(table.frames)
        self._times = table.frames[:, 0]
        self._number_at = FrameNumbers(self._times)
        self._starts = [_Start(number, packet) for number, packet in table.starts.tolist()]
        self._packet_table = table.packets
        self._num_packets = len(table.packets)
        self._kept_packets = None
        return True

    def _scan(self, *, allow_truncated: bool) -> None:
        """Read all packets of the file, number its frames, and find out what is missing."""
        pictures = self._read_pictures()
        if allow_truncated or not self.truncation:
            self._make_frame_table(pictures)
            if cut := self._find_cut_picture(pictures):
                self.truncation = self.truncation or cut
                if allow_truncated:
                    self._num_packets = pictures[-1].packet
                    self._make_frame_table(pictures[:-1])
        if self.truncation and not allow_truncated:
            raise TruncatedError(
                f"{self.path}: truncated: {self.truncation}; DATA.ALLOW_TRUNCATED True reads what is there"
            )

    def _make_frame_table(self, pictures: list[_Picture]) -> None:
        """Number the frames by the times of their packets, or, where these do not tell, by decoding them once."""
        times = [
            picture.time for picture in sorted(pictures, key=lambda picture: picture.time or 0)
        ]
        # Frames before the first keyframe cannot be decoded: some decoders leave them out, others do not.
        starts_with_key = bool(pictures) and pictures[0].is_key and pictures[0].time == times[0]
        is_timed = _is_ascending(times) and _is_one_time_line(pictures)
        if self._container.format.name in LOOSELY_FLAGGED_FORMATS:
            is_timed = is_timed and not _may_lose_frames_at_joints(pictures)
        # Where each frame is a keyframe, frames come out as they lie in the file, one of each packet.
        is_untimed_format = (
            self._container.format.name in UNTIMED_FORMATS and not self._decoder.codec.intra_only
        )
        has_lost_frames = False
        if not starts_with_key or not is_timed or is_untimed_format:
            times, has_lost_frames = self._decode_everything()
        if not times:
            raise DecodeError(f"{self.path}: no frame can be decoded")
        self.num_frames = len(times)
        # Without times frames are counted from the start of the file, the only place where decoding can then start.
        self._times = times if _is_ascending(times) and not has_lost_frames else None
        self._duration_at = {picture.time: picture.duration for picture in pictures}
        self._number_at = {time: number for number, time in enumerate(self._times or [])}
        keys = [
            _Start(self._number_at[picture.time], picture.packet)
            for picture in pictures
            if picture.is_key and picture.time in self._number_at
        ]
        self._starts = [_Start(0, 0), *(key for key in sorted(keys) if key.number > 0)]

    def _read_pictures(self) -> list[_Picture]:
        """What the packets say, in the order of the file, of all frames that a player shows."""
        pictures: list[_Picture] = []
        kept: list[av.Packet] | None = []
        rows: list[tuple[int, int, int, int]] = []
        size = num_whole = 0
        loss: _LossError | None = None
        try:
            for place, packet in enumerate(self._demux(self._container)):
                size += packet.size
                rows.append(packet_row(packet))
                if kept is not None and size <= MAX_KEPT_BYTES:
                    kept.append(packet)
                else:
                    kept = None
                if not packet.is_corrupt:
                    num_whole = place + 1
                if not packet.is_discard and not self._is_invisible(packet):
                    pictures.append(self._describe(packet, place))
        except _LossError as error:
            loss = error
        self._kept_packets = kept
        self._packet_table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        self._num_packets = num_whole  # a file that was cut off may end in a part of a packet
        pictures = [picture for picture in pictures if picture.packet < num_whole]
        self.truncation = self._find_truncation(pictures, loss)
        return pictures

    def _find_truncation(self, pictures: list[_Picture], loss: _LossError | None) -> str:
        """What the file lacks of the frames that it should hold, "" for nothing."""
        unit = float(self._stream.time_base or 0)
        times = (
            np.sort([(p.decoding_time if p.time is None else p.time) or 0 for p in pictures]) * unit
        )
        end = float(times[-1]) + pictures[-1].duration * unit if pictures else 0.0
        if loss and not loss.is_at_end:
            return f"damaged after {end:.2f} s: {loss}"
        if self._container.format.name == "mpeg" and any(
            picture.is_corrupt for picture in pictures
        ):
            return "the last packet of the program stream is cut off"
        longest_gap = float(np.diff(times).max(initial=0.0))
        is_flagged = self._num_packets < len(self._packet_table)
        if self._container.format.name in LOOSELY_FLAGGED_FORMATS:
            is_flagged = False
        is_cut = self._is_cut or loss is not None or is_flagged
        last_byte = 0
        if self._num_packets:
            position, _, _, size = self._packet_table[self._num_packets - 1].tolist()
            last_byte = position + size
        return find_truncation(
            self._container,
            self._stream,
            path=self._local_path,
            end=end,
            last_byte=last_byte,
            longest_gap=longest_gap,
            is_cut=is_cut,
        )

    def _find_cut_picture(self, pictures: list[_Picture]) -> str:
        """Whether a file that is truncated, or may be, ends within a picture; "" if it does not."""
        if not (self.truncation or may_end_within_picture(self._local_path, self._stream)):
            return ""
        last_packet = self._number_at.get(pictures[-1].time, self.num_frames - 1)
        wanted = {last_packet, self.num_frames - 1}
        start = self._starts[self._start_before(min(wanted))]
        try:
            for _ in self._decode_from(start, wanted=wanted):
                pass
        except _DamageError:
            return "the last frame is cut off"
        return ""

    def _demux(self, container: InputContainer) -> Iterator[av.Packet]:
        """The packets of the video that hold anything.

        Raises:
            _LossError: The demuxer reports that data are lost before the next packet.
            DecodeError: The demuxer gives up.
        """
        name = container.format.name
        packets = container.demux(container.streams[self._stream.index])
        is_at_end = False
        while not is_at_end:
            try:
                with captured_log() as log:
                    packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                raise DecodeError(f"{self.path}: {_reason(error)}") from error
            except IndexError as error:  # PyAV, where damage looks like one more stream
                raise DecodeError(f"{self.path}: a packet belongs to no stream") from error
            is_at_end = not packet.size and packet.dts is None
            if name not in UNREPORTED_FORMATS and (report := first_error(log, source=name)):
                raise _LossError(report, is_at_end=is_at_end or not _has_more(packets))
            if packet.size:
                yield packet

    def _is_invisible(self, packet: av.Packet) -> bool:
        """Whether a packet holds a picture that only serves as a reference for others."""
        return self.codec == "vp8" and not vp8.is_shown(bytes(packet))

    def _describe(self, packet: av.Packet, place: int) -> _Picture:
        is_key, duration = self._is_keyframe(packet), packet.duration or 0
        return _Picture(packet.pts, packet.dts, duration, place, is_key, packet.is_corrupt)

    def _is_keyframe(self, packet: av.Packet) -> bool:
        """Whether decoding can start at a packet."""
        if not packet.is_keyframe:
            return False
        if self.codec == "mjpeg":
            tables = jpeg.tables_of(packet)
            self._first_tables = tables if self._first_tables is None else self._first_tables
            return tables >= self._first_tables
        return self.codec != "vp8" or not vp8.depends_on_earlier_frames(bytes(packet))

    # ---- Decoding ----------------------------------------------------------------------------------------------------

    def _decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """The wanted frames, ascending, with their numbers."""
        try:
            self._let_decoder_learn()
        except _DamageError as damage:
            raise DecodeError(f"{self.path}: {damage}") from damage
        for run in self._split_into_runs(wanted):
            missing = deque(run)
            start = self._start_before(run[0])
            # Where a stream renews its picture bit by bit, or lies about its keyframes, an earlier one leads there.
            for chance in dict.fromkeys((start, max(start - 1, 0), 0)):
                try:
                    yield from self._decode_run(missing, start=self._starts[chance])
                    break
                except _DamageError as damage:
                    if chance == 0:
                        raise DecodeError(f"{self.path}: {damage}") from damage.__cause__

    def _split_into_runs(self, wanted: Sequence[int]) -> Iterator[list[int]]:
        """Wanted frames that are decoded in one go; between two runs it pays to jump to a keyframe."""
        run = list(wanted[:1])
        for number in wanted[1:]:
            if self._starts[self._start_before(number)].number > run[-1] + MIN_JUMP:
                yield run
                run = []
            run.append(number)
        yield run

    def _start_before(self, number: int) -> int:
        """The place in the table of the last keyframe that is not after a frame."""
        return bisect_right(self._starts, number, key=lambda start: start.number) - 1

    def _decode_run(
        self, missing: deque[int], *, start: _Start
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """The missing frames, ascending; each is taken off the queue when it is given."""
        for number, frame in self._decode_from(start, wanted=set(missing)):
            if number > missing[0]:
                break
            if number == missing[0]:
                if len(missing) == 1:
                    self._check_none_is_late(start.number, number)
                yield missing.popleft(), frame
                if not missing:
                    return
        raise _DamageError(f"frame {missing[0]} of {self.num_frames} cannot be decoded")

    def _incomplete_keyframes(self, start: _Start, last: int) -> set[int]:
        """The packets of keyframes up to a frame that do not fill their picture, without a report."""
        if self.codec not in CODECS_WITH_UNREPORTED_ENDS:
            return set()
        starts = [other for other in self._starts if start.number <= other.number <= last]
        for packet in {other.packet for other in starts} - self._is_complete.keys():
            keyframe = next(self._packets_from(packet), None)
            if keyframe is None:
                raise _DamageError("a keyframe is missing")
            with captured_log():
                try:
                    self._is_complete[packet] = vp8.fills_its_picture(
                        keyframe, decoder=self._decoder
                    )
                except av.FFmpegError:
                    self._is_complete[packet] = True  # it will be reported
        return {other.packet for other in starts if not self._is_complete[other.packet]}

    def _let_decoder_learn(self) -> None:
        """Decode the first packets of the file once, for what a decoder keeps of them when it is flushed.

        If they are damaged, it has learned something else than an encoder does: what it reports, and
        where it starts to conceal, then depends on all that was decoded before.
        """
        if self.codec not in CODECS_THAT_LEARN or self._has_learned:
            return
        self._has_learned = True
        self._decoder.flush_buffers()
        self._decoder.skip_frame = "DEFAULT"
        reports = [
            self._decode_packet(packet)[1]
            for packet in islice(self._packets_from(0), NUM_LEARNED_FROM)
        ]
        if any(reports):
            self._starts = self._starts[:1]

    def _check_none_is_late(self, first: int, last: int) -> None:
        """Raise an error if the decoder still holds frames that should have been shown before the last one."""
        frames, _ = self._decode_packet(None)
        late = [frame for frame in frames if first <= self._number_at.get(frame.pts, -1) < last]
        if late:
            raise _DamageError(
                f"the times of frames before {last} are not in the order of the pictures"
            )

    def _decode_from(
        self, start: _Start, *, wanted: set[int]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their numbers from a keyframe on; of those that no other needs just the wanted ones."""
        incomplete = self._incomplete_keyframes(start, max(wanted))
        self._decoder.flush_buffers()
        counted = highest = -1
        # A frame may be made from later ones. It is held until those that were decoded before it have come out whole.
        held: deque[tuple[int, av.VideoFrame]] = deque()
        key_time: int | None = None  # when the first keyframe is shown
        latest = -1  # of the frames that have come out
        fed: set[int] = set()
        next_to_feed = (
            start.number
        )  # of the frames from the keyframe on, the first that was not yet decoded
        made_from: dict[int, int] = {}  # wanted frame -> the last frame that it may be made from
        for place, packet in enumerate(
            chain(self._packets_from(start.packet), [None]), start.packet
        ):
            number = None if packet is None else self._number_at.get(packet.pts)
            may_drop = self._times is not None and number not in wanted
            self._decoder.skip_frame = "NONREF" if may_drop else "DEFAULT"
            if number is not None:
                highest = max(highest, number)
                made_from[number] = highest
                fed.add(number)
                while next_to_feed in fed:
                    next_to_feed += 1
            frames, report = self._decode_packet(packet)
            if place in incomplete:
                report = "the data of a keyframe end too early"
            if packet is not None and packet.is_keyframe and key_time is None:
                key_time = packet.pts
            if (
                report
                and packet is not None
                and not packet.is_keyframe
                and (number is None or number < start.number)
            ):
                # It is shown before the keyframe, and may need frames before that.
                is_excused = key_time is None or packet.pts is None or packet.pts < key_time
                report = "" if is_excused else report
            if report and self._times is None:
                raise _DamageError(f"{report} (at frame {counted + 1})")
            for frame in frames:
                counted += 1
                shown = counted if self._times is None else self._number_at.get(frame.pts, -1)
                if shown < start.number:
                    continue
                needs_key = start.number > 0 or self.codec.startswith(CODECS_THAT_KEEP_PICTURES)
                if shown == start.number and needs_key and not frame.key_frame:
                    raise _DamageError(f"frame {shown} is no keyframe")
                if self._times is not None and (shown > next_to_feed or shown <= latest):
                    raise _DamageError(
                        f"the times of frames around {shown} are not in the order of the pictures"
                    )
                latest = max(latest, shown)
                if frame.is_corrupt or (report and shown == number):
                    raise _DamageError(f"{report or 'the picture is damaged'} (at frame {shown})")
                held.append((shown, frame))
                while held and made_from.get(held[0][0], 0) <= shown:
                    yield held.popleft()
            if report:
                raise _DamageError(f"{report} (at frame {number})")
        yield from held

    def _decode_packet(self, packet: av.Packet | None) -> tuple[list[av.VideoFrame], str]:
        """The frames that come out of the decoder, and what it reports of damage, "" for nothing."""
        with captured_log() as log:
            try:
                frames = self._decoder.decode(packet)
            except av.FFmpegError as error:
                return [], _reason(error)
        is_flagged = packet is not None and packet.is_corrupt
        if is_flagged and self._container.format.name not in LOOSELY_FLAGGED_FORMATS:
            return frames, "a packet is damaged"
        return frames, first_error(log)

    def _decode_everything(self) -> tuple[list[int | None], bool]:
        """The times of all frames from front to back, damaged ones too, and whether any was lost on the way."""
        self._decoder.flush_buffers()
        self._decoder.skip_frame = "DEFAULT"
        times: list[int | None] = []
        has_lost_frames = False
        for packet in chain(self._packets_from(0), [None]):
            try:
                with captured_log():
                    times += [frame.pts for frame in self._decoder.decode(packet)]
            except av.FFmpegError:
                has_lost_frames |= bool(times)  # before the first keyframe there are none to lose
        return times, has_lost_frames

    def _packets_from(self, place: int) -> Iterator[av.Packet]:
        if self._kept_packets is not None:
            yield from islice(self._kept_packets, place, self._num_packets)
            return
        if place and self._can_seek:
            first = self._seek(place)
            if first is not None:
                yield from self._sought_packets(first, place)
                return
            self._can_seek = False
        with self._open() as container:
            yield from islice(self._demux(container), place, self._num_packets)

    def _seek(self, place: int) -> Iterator[av.Packet] | None:
        """The packets of the file from one on, unchecked; None if the container does not lead there."""
        row = tuple(self._packet_table[place].tolist())
        position, *times, _ = row
        if position == UNKNOWN:
            return None
        # Some containers look for the time of presentation, others for that of decoding, and some find
        # nothing but the start of the file.
        for time in (*times, 0):
            if time == UNKNOWN:
                continue
            try:
                self._container.seek(time, stream=self._stream)
                packets = self._demux(self._container)
                for packet in packets:
                    found = packet_row(packet)
                    if _is_same_packet(found, row):
                        return chain([packet], packets)
                    if found[0] > position:
                        break
            except (av.FFmpegError, _LossError):
                continue
        return None

    def _sought_packets(self, packets: Iterator[av.Packet], place: int) -> Iterator[av.Packet]:
        """Packets from one on, each of which is what it was when the whole file was read."""
        rows = self._packet_table[place : self._num_packets]
        try:
            for row, packet in zip(rows, packets, strict=False):
                if not _is_same_packet(packet_row(packet), tuple(row.tolist())):
                    raise _LossError(
                        "after a seek, the container gives other packets", is_at_end=False
                    )
                yield packet
        except _LossError as error:
            self._can_seek = False
            raise _DamageError(str(error)) from error

    def _to_image(self, frame: av.VideoFrame) -> Frames:
        try:
            orientation, matrix = orientation_of(frame), matrix_of(frame)
            drop_transfer(frame)
            converted = self._converter.reformat(
                frame,
                # A stream may change its size on the way; like a player, stay with the first one.
                *self._size,
                format=self._pixel_format,
                src_colorspace=sws_colorspace(matrix),
                threads=1,
            )
        except UnsupportedFrameError as error:
            raise DecodeError(f"{self.path}: {error}") from error
        except av.FFmpegError as error:
            reason = f"no conversion from {frame.format.name} to RGB: {_reason(error)}"
            raise DecodeError(f"{self.path}: {reason}") from error

        if self._is_transposed not in (None, orientation.is_transposed):
            raise DecodeError(
                f"{self.path}: some of its frames are upright, others lie on their side"
            )
        self._is_transposed = orientation.is_transposed
        image: Frames = converted.to_ndarray()  # type: ignore[assignment]
        return orientation.turn(image)


def _has_more(packets: Iterator[av.Packet]) -> bool:
    """Whether a demuxer gives another packet that holds anything."""
    try:
        return any(packet.size for packet in packets)
    except (av.FFmpegError, OSError, IndexError):
        return False


def _is_same_packet(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether two rows of a table agree; after a seek, some containers do not know the time of decoding."""
    return (found[0], found[1], found[3]) == (expected[0], expected[1], expected[3])


def _is_one_time_line(pictures: list[_Picture]) -> bool:
    """Whether no picture goes back in time behind those that were decoded before, as where recordings are joined."""
    latest = latest_before_key = None
    decoded_at = None
    for picture in pictures:
        if picture.time is None:
            return False
        if picture.is_key:
            latest_before_key = latest
        if latest_before_key is not None and picture.time <= latest_before_key:
            return False  # neither a keyframe nor what follows it is shown before what precedes the keyframe
        if (
            decoded_at is not None
            and picture.decoding_time is not None
            and picture.decoding_time < decoded_at
        ):
            return False
        latest = picture.time if latest is None else max(latest, picture.time)
        decoded_at = picture.decoding_time if picture.decoding_time is not None else decoded_at
    return True


def _may_lose_frames_at_joints(pictures: list[_Picture]) -> bool:
    """Whether a decoder may leave out frames where recordings are joined, as one may start between keyframes."""
    steps = np.diff([picture.decoding_time or 0 for picture in pictures])
    if not len(steps):
        return False
    is_joint = np.array([picture.is_corrupt for picture in pictures[:-1]]) | (
        steps > 3 * np.median(steps)
    )
    for place in np.flatnonzero(is_joint) + 1:
        if not pictures[place].is_key:
            return True
        following = (pictures[later] for later in range(place + 1, len(pictures)))
        group = takewhile(lambda picture: not picture.is_key, following)
        if any((picture.time or 0) < (pictures[place].time or 0) for picture in group):
            return True
    return False


def _is_ascending(times: Sequence[int | None]) -> bool:
    return None not in times and all(time < following for time, following in pairwise(times))  # type: ignore[operator]


class FrameFolder:
    """The frames of a folder of JPEG files, numbered from 0; the files may be numbered from 0 or from 1.

    Args:
        path: the folder.
        template: name of the file with a number, as `{:05d}.jpg`.
        num_frames: as the list says; None: as many as there are files.
        bgr: give the channels in the order blue, green, red.

    Raises:
        DecodeError: the folder does not exist, holds no such file, or lacks one between two others.
        ValueError: the template gives no name for each number.
    """

    fps = Fraction(0)  # a folder does not tell
    codec = "jpeg"

    def __init__(
        self, path: str, *, template: str, num_frames: int | None = None, bgr: bool = False
    ) -> None:
        check_template(template)
        self.path = path
        self.template = template
        self.bgr = bgr
        try:
            self._first = 0 if pathmgr.isfile(self._file_path(0)) else 1
        except OSError as error:  # of a server
            raise DecodeError(f"{path}: {_reason(error)}") from error
        self.num_frames = num_frames or self._count_files()

    def __enter__(self) -> "FrameFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass  # no file stays open between two reads

    def read(self, numbers: Sequence[int]) -> Frames:
        """Return the frames of the given numbers, in their order, repeats included.

        Args:
            numbers: from 0 to num_frames - 1, at least one.

        Returns:
            (N, H, W, 3); in memory, channel by channel.

        Raises:
            DecodeError: a file is missing or damaged, or of another size than the others.
        """
        wanted = list(dict.fromkeys(map(int, numbers)))
        images = dict(zip(wanted, self._images(wanted), strict=True))
        planes = _empty_planes(len(numbers), images[wanted[0]])
        for place, number in enumerate(numbers):
            planes[:, place] = images[int(number)].transpose(2, 0, 1)
        return planes.transpose(1, 2, 3, 0)

    def check_files(self) -> None:
        """Check that the folder has a file for each frame, without reading any.

        Raises:
            DecodeError: It lacks one.
        """
        files = self._list_files()
        for number in range(self._first, self._first + self.num_frames):
            if self.template.format(number) not in files:
                raise DecodeError(
                    f"{self._file_path(number)}: missing (one of {self.num_frames} frames)"
                )

    def read_in_chunks(self, numbers: Sequence[int], *, max_bytes: int) -> Iterator[Frames]:
        """Yield the frames of ascending numbers in chunks, see `VideoFile.read_in_chunks`."""
        yield from _in_chunks(self._images(numbers), num_frames=len(numbers), max_bytes=max_bytes)

    def _images(self, numbers: Sequence[int]) -> Iterator[Frames]:
        """The frames (H, W, 3) of the given numbers."""
        shape = None
        for number in numbers:
            image = self._read_image(number)
            shape = shape or image.shape
            if image.shape != shape:
                sizes = " and ".join(map(str, sorted([shape, image.shape])))
                raise DecodeError(f"{self.path}: frames of different sizes, {sizes}")
            yield image[..., ::-1] if self.bgr else image

    @property
    def shown(self) -> NDArray[np.int64]:
        """All frames: lists of folders have no spans."""
        return np.arange(self.num_frames)

    def _file_path(self, file_number: int) -> str:
        return join(self.path, self.template.format(file_number))

    def _list_files(self) -> set[str]:
        try:
            return set(pathmgr.ls(self.path))
        except FileNotFoundError as error:
            raise DecodeError(f"{self.path}: no such folder") from error
        except NotImplementedError as error:
            raise DecodeError(
                f"{self.path}: cannot be listed; use a list with the number of frames"
            ) from error
        except OSError as error:
            raise DecodeError(f"{self.path}: {_reason(error)}") from error

    def _count_files(self) -> int:
        files = self._list_files()
        names = (self.template.format(self._first + number) for number in range(len(files)))
        num_files = next(
            (number for number, name in enumerate(names) if name not in files), len(files)
        )
        missing = self._first + num_files
        later = sorted(
            number
            for name in files
            if (number := self._number_in(name)) is not None and number > missing
        )
        if later:
            raise DecodeError(
                f"{self._file_path(missing)}: missing, though {self.template.format(later[0])} is there"
            )
        if not num_files:
            raise DecodeError(
                f"{self.path}: no file {self.template.format(self._first)} (DATA.IMAGE_TEMPLATE)"
            )
        return num_files

    def _number_in(self, name: str) -> int | None:
        """The number that a file name holds, None if the template gives no such name."""
        fields = list(Formatter().parse(self.template))
        start, end = len(fields[0][0]), len(name)
        if fields[-1][1] is None:  # text after the last number
            end -= len(fields[-1][0])
        digits = name[start:end]
        if not (digits.isascii() and digits.isdigit()) or self.template.format(int(digits)) != name:
            return None
        return int(digits)

    def _read_image(self, number: int) -> Frames:
        path = self._file_path(self._first + number)
        try:
            with pathmgr.open(path, "rb") as file, Image.open(file) as image:
                return _to_rgb(image)
        except DecodeError as error:
            raise DecodeError(f"{path}: {error}") from error
        # Pillow reports some damaged files as bad syntax, and frames of more than 179 million pixels as bombs.
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            discarded = forget(path)
            raise DecodeError(
                f"{path}: {_reason(error)}{discarded} (one of {self.num_frames} frames)"
            ) from error


def check_template(template: str) -> None:
    """Check that a template of file names, such as `{:05d}.jpg`, gives each number its own name.

    Raises:
        ValueError: It does not.
    """
    try:
        is_numbered = template.format(1) != template.format(2)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"the template {template!r} names no file ({error}); use a name such as {{:05d}}.jpg"
        ) from error
    if not is_numbered:
        raise ValueError(
            f"the template {template!r} gives all frames one name; use {{:05d}} for the number"
        )


def _to_rgb(image: Image.Image) -> Frames:
    """The pixels of an image as (H, W, 3); of 16 bits the upper 8, as Pillow does for colors, but not for gray."""
    is_16_bit = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    )
    if is_16_bit:
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)  # (H, W) -> (H, W, 3)
    if image.mode in ("I", "F"):
        kind = "integers of 32 bits" if image.mode == "I" else "floating point numbers"
        raise DecodeError(
            f"its pixels are {kind}, whose range is unknown; write them in 8 or 16 bits"
        )
    return np.asarray(image.convert("RGB"))


def _in_chunks(images: Iterator[Frames], *, num_frames: int, max_bytes: int) -> Iterator[Frames]:
    """Images (H, W, 3) in stacks (N, H, W, 3) of at most so many bytes, at least one image each."""
    num_left = num_frames
    while num_left:
        image = next(images)
        length = min(max(max_bytes // image.nbytes, 1), num_left)
        planes = _empty_planes(length, image)
        planes[:, 0] = image.transpose(2, 0, 1)
        for number, image in zip(range(1, length), images, strict=False):
            planes[:, number] = image.transpose(2, 0, 1)
        num_left -= length
        yield planes.transpose(1, 2, 3, 0)
        del planes


def _empty_planes(num_frames: int, image: Frames) -> Frames:
    """Room for frames like an image (H, W, 3), as (3, N, H, W): the order in which the model sees a clip."""
    return np.empty((3, num_frames, *image.shape[:2]), dtype=np.uint8)


def find_video_stream(container: InputContainer) -> VideoStream | None:
    """Return the stream that is the video of a file, None if there is only a cover picture, or nothing."""
    best = container.streams.best("video")
    streams = container.streams.video
    ranked = [best, *streams] if isinstance(best, VideoStream) else streams
    return next(
        (stream for stream in ranked if not stream.disposition & Disposition.attached_pic), None
    )


def _reason(error: Exception) -> str:
    """The words of an error without its number and its file name, which the message gives already."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:]
