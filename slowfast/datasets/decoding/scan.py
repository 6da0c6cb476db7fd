"""Scan of a video file: numbers its frames and finds what is missing, from all packets in it."""

import av
import numpy as np

from slowfast.datasets.decoding import jpeg, vp8
from slowfast.datasets.decoding.container import VideoContainer
from slowfast.datasets.decoding.damage import DamageError, LossError
from slowfast.datasets.decoding.decoder import PacketDecoder
from slowfast.datasets.decoding.frame_index import (
    FrameIndex,
    Picture,
    is_ascending,
    is_one_timeline,
    may_lose_frames_at_joints,
)
from slowfast.datasets.decoding.frame_reader import FrameReader
from slowfast.datasets.decoding.packets import PacketReader
from slowfast.datasets.decoding.truncation import Extent, find_truncation, may_end_within_picture
from slowfast.datasets.records import DecodeError, TruncatedError


class VideoScan:
    """Reads all packets of a video file once, without decoding them where their times suffice."""

    def __init__(
        self, container: VideoContainer, *, packets: PacketReader, decoder: PacketDecoder
    ) -> None:
        self._container = container
        self._packets = packets
        self._decoder = decoder
        self._keyframes = _KeyframeTest(decoder.codec)

    def run(self, *, allow_truncated: bool) -> tuple[FrameIndex, str]:
        """Return the frame index and what is missing, "" for nothing.

        Args:
            allow_truncated: Whether to index the frames that a truncated or damaged file has.

        Raises:
            TruncatedError: If frames are missing and `allow_truncated` is False.
            DecodeError: If no frame can be decoded.
        """
        pictures, loss = self._read_pictures()
        truncation = self._find_truncation(pictures, loss=loss)
        if truncation and not allow_truncated:
            raise self._truncated_error(truncation)

        index = self._index_frames(pictures)
        is_suspect = truncation or may_end_within_picture(
            self._container.local_path, self._container.stream
        )
        if not is_suspect or self._ends_with_whole_picture(pictures, index=index):
            return index, truncation

        truncation = truncation or "the last frame is cut off"
        if not allow_truncated:
            raise self._truncated_error(truncation)
        self._packets.num_packets = pictures[-1].packet
        return self._index_frames(pictures[:-1]), truncation

    def _read_pictures(self) -> tuple[list[Picture], LossError | None]:
        """Return what the packets say about all frames that a player shows, in file order."""
        pictures: list[Picture] = []
        num_whole = 0
        loss: LossError | None = None

        try:
            for index, packet in enumerate(self._packets.scan()):
                is_corrupt = packet.is_corrupt
                if not is_corrupt:
                    num_whole = index + 1
                if packet.is_discard or self._is_invisible(packet):
                    continue

                is_key = self._keyframes.is_seek_point(packet)
                duration = packet.duration or 0
                pictures.append(
                    Picture(packet.pts, packet.dts, duration, index, is_key, is_corrupt)
                )
        except LossError as error:
            loss = error

        # A file that was cut off may end in part of a packet.
        self._packets.num_packets = num_whole
        while pictures and pictures[-1].packet >= num_whole:
            pictures.pop()
        return pictures, loss

    def _is_invisible(self, packet: av.Packet) -> bool:
        """Return whether the picture in a packet only serves as a reference for others."""
        return self._decoder.codec == "vp8" and not vp8.is_shown(bytes(packet))

    def _find_truncation(self, pictures: list[Picture], *, loss: LossError | None) -> str:
        """Return what is missing from the frames that the file should hold, "" for nothing."""
        extent = self._measure(pictures)
        if loss and not loss.is_at_end:
            return f"damaged after {extent.end:.2f} s: {loss}"

        is_program_stream = self._container.format == "mpeg"
        if is_program_stream and any(picture.is_corrupt for picture in pictures):
            return "the last packet of the program stream is cut off"

        has_corrupt_end = self._packets.num_packets < len(self._packets.rows)
        is_flagged = has_corrupt_end and not self._container.flags_joints
        return find_truncation(
            self._container.input,
            self._container.stream,
            path=self._container.local_path,
            extent=extent,
            is_cut=self._container.ends_early or loss is not None or is_flagged,
        )

    def _measure(self, pictures: list[Picture]) -> Extent:
        time_base = float(self._container.stream.time_base or 0)
        stamps = [picture.dts if picture.pts is None else picture.pts for picture in pictures]
        times = np.sort([stamp or 0 for stamp in stamps]) * time_base

        end = 0.0
        if pictures:
            end = float(times[-1]) + pictures[-1].duration * time_base

        last_byte = 0
        if self._packets.num_packets:
            position, _, _, size = self._packets.rows[self._packets.num_packets - 1].tolist()
            last_byte = position + size

        longest_gap = float(np.diff(times).max(initial=0.0))
        return Extent(end=end, last_byte=last_byte, longest_gap=longest_gap)

    def _index_frames(self, pictures: list[Picture]) -> FrameIndex:
        """Number the frames by the times of their packets or, if these do not suffice, by decoding.

        Raises:
            DecodeError: If no frame can be decoded.
        """
        times = self._packet_times(pictures)
        if times is not None:
            return FrameIndex.from_times(times, pictures=pictures)

        decoded_times, has_lost_frames = self._decoder.decode_times(self._packets.read_from(0))
        if not decoded_times:
            raise DecodeError(f"{self._container.path}: no frame can be decoded")

        times = [time for time in decoded_times if time is not None]
        if has_lost_frames or len(times) < len(decoded_times) or not is_ascending(times):
            return FrameIndex.counted(len(decoded_times))
        return FrameIndex.from_times(times, pictures=pictures)

    def _packet_times(self, pictures: list[Picture]) -> list[int] | None:
        """Return the times of the packets, ascending. None if the frames may have others."""
        # If every frame is a keyframe, each packet gives one frame, in file order.
        has_made_up_times = self._container.is_untimed and not self._decoder.is_intra_only
        if not pictures or has_made_up_times:
            return None

        times = sorted(picture.pts for picture in pictures if picture.pts is not None)
        if len(times) < len(pictures) or not is_ascending(times):
            return None

        # Frames before the first keyframe cannot be decoded. Only some decoders drop them.
        if not pictures[0].is_key or pictures[0].pts != times[0]:
            return None
        if not is_one_timeline(pictures):
            return None
        if self._container.flags_joints and may_lose_frames_at_joints(pictures):
            return None
        return times

    def _ends_with_whole_picture(self, pictures: list[Picture], *, index: FrameIndex) -> bool:
        """Decode the last picture and return whether it is whole."""
        last = index.num_frames - 1
        wanted = {last, index.number_at.get(pictures[-1].pts, last)}
        start = index.seek_points[index.seek_point_before(min(wanted))]
        reader = FrameReader(index, packets=self._packets, decoder=self._decoder)

        try:
            for _ in reader.read_from(start, wanted=wanted):
                pass
        except DamageError:
            return False
        return True

    def _truncated_error(self, truncation: str) -> TruncatedError:
        return TruncatedError(
            f"{self._container.path}: truncated: {truncation}. "
            "Set DATA.ALLOW_TRUNCATED True to read the frames it has"
        )


class _KeyframeTest:
    """Finds the packets where decoding can start."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._first_jpeg_tables: set[tuple[int, int]] | None = None

    def is_seek_point(self, packet: av.Packet) -> bool:
        """Return whether decoding can start at a packet. Call it with all packets in file order."""
        if not packet.is_keyframe:
            return False
        if self._codec == "vp8":
            return not vp8.depends_on_earlier_frames(bytes(packet))
        if self._codec != "mjpeg":
            return True

        tables = jpeg.find_tables(packet)
        if self._first_jpeg_tables is None:
            self._first_jpeg_tables = tables
        return tables >= self._first_jpeg_tables
