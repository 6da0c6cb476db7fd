"""Video files: exact frames by number from a file that FFmpeg can decode."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video import VideoStream
from numpy.typing import NDArray

from slowfast.datasets.decoding.container import VideoContainer
from slowfast.datasets.decoding.damage import DamageError, describe_error
from slowfast.datasets.decoding.decoder import PacketDecoder
from slowfast.datasets.decoding.frame_index import FrameIndex
from slowfast.datasets.decoding.frame_reader import FrameReader
from slowfast.datasets.decoding.frame_source import FrameTimes
from slowfast.datasets.decoding.frame_table import (
    MIN_VIDEO_BYTES,
    FrameTable,
    file_stamp,
    read_table,
)
from slowfast.datasets.decoding.images import (
    FrameConverter,
    Frames,
    empty_planes,
    stack_in_chunks,
)
from slowfast.datasets.decoding.packets import PacketReader
from slowfast.datasets.decoding.scan import VideoScan
from slowfast.datasets.frame_metadata import HDR_TRANSFERS
from slowfast.datasets.records import DecodeError, Span
from slowfast.datasets.sampling import frames_within
from slowfast.utils.paths import forget

MAX_FRAME_PIXELS = 1 << 26  # 8192 x 8192


class VideoFile:
    """Frames of a video file, numbered from 0 in the order in which a player shows them.

    Opening reads the packets, without decoding them, to index the frames. Reading decodes in one
    thread, from the keyframe before the first wanted frame to the last wanted one. It jumps over
    long gaps and drops frames that are neither wanted nor needed by others.

    Args:
        path: Path of the file, local or remote if iopath can fetch it.
        bgr: Whether the channels are in the order blue, green, red.
        table_path: Path of the frame table of a long video. If the table is valid, opening reads no
            packets.
        allow_truncated: Whether to read the frames of a file that is truncated or damaged inside.
        max_pixels: Largest frame to accept, width times height.

    Attributes:
        span: Section of the file that the annotation list means. You can still read all frames.
        truncation: What is missing from the file, "" for nothing. Only set with `allow_truncated`.

    Raises:
        TruncatedError: If frames are missing that the container promises, and this is not allowed.
        DecodeError: If the file does not exist, is not a video, or has larger frames.
    """

    span: Span | None = None

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
        self.bgr = bgr
        self.truncation = ""
        self._table_path = table_path
        self._table: FrameTable | None = None

        self._container = VideoContainer(path, max_pixels=max_pixels)
        self._packets = PacketReader(self._container)
        try:
            self._decoder = PacketDecoder(self._container)
            self._converter = FrameConverter(path, size=self._decoder.size, bgr=bgr)
            index = self._index_frames(allow_truncated=allow_truncated)
            self._reader = FrameReader(index, packets=self._packets, decoder=self._decoder)
        except av.FFmpegError as error:
            self.close()
            raise DecodeError(f"{path}: {describe_error(error)}{forget(path)}") from error
        except DamageError as error:  # the file changed since its packets were read
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
        self._packets.release()
        self._container.close()

    @property
    def num_frames(self) -> int:
        """Number of frames in the file."""
        return self._index.num_frames

    @property
    def shown(self) -> NDArray[np.int64]:
        """Numbers of the frames in `span`, ascending. All frames if it is None.

        Raises:
            DecodeError: If the video ends before the span begins.
        """
        if self.span is None:
            return np.arange(self.num_frames)

        last_seconds = self.durations[-1] or 1 / float(self.fps or 1)
        total_seconds = self.times[-1] + last_seconds
        if self.span.start >= total_seconds:
            raise DecodeError(
                f"{self.path}: is {total_seconds:.3f} s long, "
                f"but its span starts at {self.span.start:g} s"
            )
        return frames_within(self.times, start=self.span.start, end=self.span.end)

    @property
    def stream(self) -> VideoStream:
        """PyAV's video stream of the open file."""
        return self._container.stream

    @property
    def fps(self) -> Fraction:
        """Average number of frames per second, 0 if unknown."""
        return Fraction(self.stream.average_rate or self.stream.guessed_rate or 0)

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return self._decoder.codec

    @property
    def sample_aspect_ratio(self) -> Fraction:
        """Width of a stored pixel divided by its height, before frames are turned upright."""
        return Fraction(self.stream.sample_aspect_ratio or 1)

    @property
    def hdr(self) -> str:
        """Transfer function of high dynamic range video, "PQ" or "HLG". Otherwise empty."""
        return HDR_TRANSFERS.get(self._decoder.context.color_trc, "")

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """Seconds from the first frame to each frame, shape (num_frames,)."""
        times, time_base = self._index.times, self.stream.time_base
        if times is None or time_base is None:
            return np.arange(self.num_frames) / float(self.fps or 1)
        return (times - times[0]) * float(time_base)

    @property
    def durations(self) -> NDArray[np.float64]:
        """Seconds for which each frame is shown, shape (num_frames,), 0 where the file has none."""
        return self._index.durations.astype(np.float64) * float(self.stream.time_base or 0)

    @property
    def timing(self) -> FrameTimes:
        """When the frames are shown."""
        return FrameTimes(self.times, self.durations)

    @property
    def frame_table(self) -> FrameTable | None:
        """Frame table to store for the next time the file is opened.

        None if decoding can only start at the first frame, or if the file was opened with a table.
        """
        if self._table is not None or self._index.times is None:
            return None
        return FrameTable(
            video=self._file_stamp,
            packets=self._packets.rows[: self._packets.num_packets],
            frames=np.stack([self._index.times, self._index.durations], axis=1),
            starts=np.array(self._index.seek_points),
        )

    def read(self, numbers: Sequence[int]) -> Frames:
        """Return the frames with the given numbers, in the given order, repeats included.

        Args:
            numbers: Frame numbers from 0 to num_frames - 1, at least one.

        Returns:
            Shape (N, H, W, 3), stored channel by channel, rotated and mirrored as players show
            them. Pixels and brightness are as stored: nothing makes pixels square or maps HDR
            tones.

        Raises:
            DecodeError: If a frame is damaged or missing, or its colors or orientation are not
                supported.
        """
        indices_of: dict[int, list[int]] = {}
        for index, number in enumerate(numbers):
            indices_of.setdefault(int(number), []).append(index)

        planes: Frames | None = None
        for number, image in self._images(sorted(indices_of)):
            if planes is None:
                planes = empty_planes(len(numbers), image)
            for index in indices_of[number]:
                planes[:, index] = image.transpose(2, 0, 1)

        assert planes is not None
        return planes.transpose(1, 2, 3, 0)

    def read_in_chunks(self, numbers: Sequence[int], *, max_bytes: int) -> Iterator[Frames]:
        """Yield the frames with ascending numbers in chunks, to keep few of them in memory.

        Args:
            numbers: Frame numbers from 0 to num_frames - 1, ascending, at least one.
            max_bytes: Size of a chunk. A chunk holds at least one frame.

        Yields:
            Shape (N, H, W, 3), as `read` returns it.

        Raises:
            DecodeError: If a frame is damaged or missing.
        """
        images = (image for _, image in self._images(numbers))
        yield from stack_in_chunks(images, num_frames=len(numbers), max_bytes=max_bytes)

    def decode(self, numbers: Sequence[int]) -> Iterator[av.VideoFrame]:
        """Yield the frames with ascending numbers as the decoder returns them, without conversion.

        Args:
            numbers: Frame numbers from 0 to num_frames - 1, ascending, at least one.

        Raises:
            DecodeError: If a frame is damaged or missing.
        """
        for _, frame in self._decode(numbers):
            yield frame

    @property
    def _index(self) -> FrameIndex:
        return self._reader.index

    def _images(self, wanted: Sequence[int]) -> Iterator[tuple[int, Frames]]:
        """Yield the wanted frames, ascending, as (number, array of shape (H, W, 3))."""
        first, last = wanted[0], wanted[-1]
        if not 0 <= first <= last < self.num_frames:
            raise DecodeError(
                f"{self.path}: frames {first} to {last} were requested, "
                f"but it has {self.num_frames}"
            )
        for number, frame in self._decode(wanted):
            yield number, self._converter.to_image(frame)

    def _decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        try:
            yield from self._reader.read(wanted)
        except DamageError as error:
            raise DecodeError(f"{self.path}: {error}") from error

    def _index_frames(self, *, allow_truncated: bool) -> FrameIndex:
        """Return the index in a stored table of this file, or scan the file for it."""
        self._file_stamp = file_stamp(self._container.local_path)
        is_long = self._file_stamp[0] >= MIN_VIDEO_BYTES
        if self._table_path is not None and is_long:
            self._table = read_table(self._table_path, stamp=self._file_stamp)
        if self._table is not None:
            self._packets.use_table(self._table.packets)
            return FrameIndex.from_table(self._table)

        scan = VideoScan(self._container, packets=self._packets, decoder=self._decoder)
        index, self.truncation = scan.run(allow_truncated=allow_truncated)
        return index
