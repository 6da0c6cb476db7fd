"""Packets of a video file by index: from memory, by seeking, or by reading the file again."""

from collections.abc import Iterator
from itertools import chain, islice

import av
import numpy as np

from slowfast.datasets.decoding.container import VideoContainer
from slowfast.datasets.decoding.damage import DamageError, LossError
from slowfast.datasets.decoding.frame_table import UNKNOWN, Integers, packet_row

# Packets of a larger file do not stay in memory between the scan and decoding.
MAX_KEPT_BYTES = 256 << 20


class PacketReader:
    """Reads the packets of a video file from any index on.

    Call `scan` or `use_table` first.

    Attributes:
        rows: One row for each packet, see `FrameTable.packets`.
        num_packets: Number of packets to use. The file may hold more, damaged ones at its end.
        can_seek: Whether the container has always led to the expected packet.
        kept: Packets in memory, None if they were too large or `scan` did not run.
    """

    def __init__(self, container: VideoContainer) -> None:
        self._container = container
        self.rows: Integers = np.empty((0, 4), dtype=np.int64)
        self.num_packets = 0
        self.can_seek = True
        self.kept: list[av.Packet] | None = None
        self._has_stored_rows = False

    def use_table(self, rows: Integers) -> None:
        """Use rows from a stored frame table instead of a scan."""
        self.rows = rows
        self.num_packets = len(rows)
        self._has_stored_rows = True

    def scan(self) -> Iterator[av.Packet]:
        """Yield all packets and remember where they are. Sets `rows`, `kept` and `num_packets`.

        Raises:
            LossError: If the demuxer skipped data. The packets before it are remembered.
        """
        rows: list[tuple[int, int, int, int]] = []
        kept: list[av.Packet] = []
        num_bytes = 0

        try:
            for packet in self._container.demux():
                rows.append(packet_row(packet))
                num_bytes += packet.size
                if num_bytes <= MAX_KEPT_BYTES:
                    kept.append(packet)
                else:
                    kept.clear()
                yield packet
        finally:
            self.rows = np.array(rows, dtype=np.int64).reshape(-1, 4)
            self.num_packets = len(rows)
            self.kept = kept if num_bytes <= MAX_KEPT_BYTES else None

    def read_from(self, index: int) -> Iterator[av.Packet]:
        """Yield the packets from an index on.

        Raises:
            DamageError: If the file changed since the scan.
            LossError: If the demuxer skipped data.
        """
        if self.kept is not None:
            yield from islice(self.kept, index, self.num_packets)
            return

        if index and self.can_seek:
            packets = self._seek(index)
            if packets is not None:
                yield from self._check(packets, first=index)
                return
            self.can_seek = False

        with self._container.open_again() as container:
            packets = islice(container.demux(), index, self.num_packets)
            # Stored rows may be wrong. Rows from a scan are right, unless the file changed since.
            if self._has_stored_rows:
                yield from packets
            else:
                yield from self._check(packets, first=index)

    def release(self) -> None:
        """Free the packets in memory."""
        self.kept = None

    def _seek(self, index: int) -> Iterator[av.Packet] | None:
        """Return the packets from an index on, unchecked. None if seeking does not lead there."""
        row = tuple(self.rows[index].tolist())
        position, pts, dts, _ = row
        if position == UNKNOWN:
            return None

        # Some containers seek by presentation time, others by decoding time, and some can only
        # seek to the start of the file.
        for time in (pts, dts, 0):
            if time == UNKNOWN:
                continue
            try:
                packets = self._seek_to_time(time, row=row)
            except (av.FFmpegError, LossError):
                continue
            if packets is not None:
                return packets
        return None

    def _seek_to_time(self, time: int, *, row: tuple[int, ...]) -> Iterator[av.Packet] | None:
        """Return the packets from the one with this row on, None if it does not follow the time."""
        self._container.input.seek(time, stream=self._container.stream)
        packets = self._container.demux()

        for packet in packets:
            found = packet_row(packet)
            if _is_same_packet(found, row):
                return chain([packet], packets)
            if found[0] > row[0]:  # positions in bytes
                break
        return None

    def _check(self, packets: Iterator[av.Packet], *, first: int) -> Iterator[av.Packet]:
        """Yield packets as long as each one has the row that it should have."""
        rows = self.rows[first : self.num_packets]
        try:
            for row, packet in zip(rows, packets, strict=False):
                if not _is_same_packet(packet_row(packet), tuple(row.tolist())):
                    raise LossError(
                        "the container returns different packets than before", is_at_end=False
                    )
                yield packet
        except LossError as error:
            self.can_seek = False
            raise DamageError(str(error)) from error


def _is_same_packet(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Compare two rows without the dts, which some containers do not know after a seek."""
    return (found[0], found[1], found[3]) == (expected[0], expected[1], expected[3])
