"""Completeness of pictures: data that ends too early in codecs where FFmpeg does not report it."""

from collections.abc import Iterable

import av

from slowfast.datasets.decoding import jpeg, vp8
from slowfast.datasets.decoding.damage import DamageError
from slowfast.datasets.decoding.decoder import PacketDecoder
from slowfast.datasets.decoding.ffmpeg_log import captured_log
from slowfast.datasets.decoding.frame_index import SeekPoint
from slowfast.datasets.decoding.packets import PacketReader


class CompletenessCheck:
    """Finds pictures of Motion JPEG and VP8 whose data ends too early.

    FFmpeg reports nothing there and shows what its memory held before, which depends on what was
    decoded before.
    """

    def __init__(self, decoder: PacketDecoder, packets: PacketReader) -> None:
        self._decoder = decoder
        self._packets = packets
        self._fills_jpeg: dict[int, bool] = {}  # by index of the packet
        self._incomplete_jpegs: set[int] = set()  # indices of packets in the range
        self._vp8_check = vp8.LastMacroblockCheck() if decoder.codec == "vp8" else None

    def start(self, seek_points: Iterable[SeekPoint]) -> None:
        """Prepare to check a range of packets in their order.

        Leaves the decoder in an undefined state. Restart it afterwards.

        Args:
            seek_points: Seek points in the range. In Motion JPEG, every picture with its own tables
                is one.

        Raises:
            DamageError: If a picture is missing.
        """
        if self._vp8_check is not None:
            self._vp8_check.restart()

        if self._decoder.codec == "mjpeg":
            indices = {point.packet for point in seek_points}
            for packet_index in indices - self._fills_jpeg.keys():
                self._fills_jpeg[packet_index] = self._fills_picture(packet_index)
            self._incomplete_jpegs = {i for i in indices if not self._fills_jpeg[i]}

    def is_complete(self, packet: av.Packet | None, *, packet_index: int) -> bool:
        """Return whether the data of a packet fills its picture, or FFmpeg reports its damage."""
        if packet_index in self._incomplete_jpegs:
            return False
        if self._vp8_check is None or packet is None:
            return True
        with captured_log():
            return self._vp8_check.is_complete(packet)

    def _fills_picture(self, packet_index: int) -> bool:
        packet = next(self._packets.read_from(packet_index), None)
        if packet is None:
            raise DamageError("a keyframe is missing")

        with captured_log():
            try:
                return jpeg.fills_picture(packet, decoder=self._decoder.context)
            except av.FFmpegError:
                return True  # FFmpeg will report it
