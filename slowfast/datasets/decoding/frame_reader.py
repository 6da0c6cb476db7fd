"""Frame reader: seeks to and decodes the wanted frames of a video."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import av

from slowfast.datasets.decoding.completeness import CompletenessCheck
from slowfast.datasets.decoding.damage import DamageError
from slowfast.datasets.decoding.decoder import PacketDecoder
from slowfast.datasets.decoding.frame_index import FrameIndex, SeekPoint
from slowfast.datasets.decoding.frame_order import FrameOrder
from slowfast.datasets.decoding.packets import PacketReader

# Decoders of these codecs learn from the first packets how the encoder ends its pictures. Only then
# do they find pictures that end too early.
CODECS_THAT_LEARN = ("mpeg4",)
NUM_PACKETS_TO_LEARN = 8
# A jump to a keyframe throws away the frames that the decoder holds for reordering, at most 16.
MIN_JUMP = 16


class FrameReader:
    """Decodes frames by number, from the seek point before them.

    Every frame it yields is the one that decoding the whole file in order gives.
    """

    def __init__(self, index: FrameIndex, *, packets: PacketReader, decoder: PacketDecoder) -> None:
        self.index = index
        self._packets = packets
        self._decoder = decoder
        self._completeness = CompletenessCheck(decoder, packets)
        self._has_learned = decoder.codec not in CODECS_THAT_LEARN

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the wanted frames with their numbers.

        Args:
            wanted: Frame numbers, ascending, at least one.

        Raises:
            DamageError: If a frame is damaged or missing.
        """
        self._let_decoder_learn()

        for run in self._split_into_runs(wanted):
            missing = deque(run)
            nearest = self.index.seek_point_before(run[0])

            # Where a stream refreshes its picture gradually, or lies about its keyframes, an
            # earlier seek point leads to the frame.
            for attempt in dict.fromkeys((nearest, max(nearest - 1, 0), 0)):
                try:
                    yield from self._read_run(missing, start=self.index.seek_points[attempt])
                    break
                except DamageError:
                    if attempt == 0:
                        raise

    def read_from(
        self, start: SeekPoint, *, wanted: set[int]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the frames from a seek point on with their numbers, ascending.

        Frames that are neither wanted nor needed by others may be left out.

        Raises:
            DamageError: If the data is damaged. The frames before it are right.
        """
        self._completeness.start(self.index.seek_points_between(start.number, max(wanted)))
        self._decoder.restart()
        order = FrameOrder(self.index, start=start, codec=self._decoder.codec)

        packets = chain(self._packets.read_from(start.packet), [None])
        for packet_index, packet in enumerate(packets, start.packet):
            number = None if packet is None else order.feed(packet)
            self._decoder.drop_unreferenced(drop=self._may_drop(number, wanted=wanted))
            frames, report = self._decoder.decode(packet)
            if not self._completeness.is_complete(packet, packet_index=packet_index):
                report = report or "the data of the picture ends too early"

            if report and packet is not None and order.precedes_start(packet, number=number):
                report = ""
            if report and self.index.times is None:
                raise DamageError(f"{report} (at frame {order.num_out})")

            for frame in frames:
                yield from order.accept(frame, report=report, fed_number=number)
            if report:
                raise DamageError(f"{report} (at frame {number})")

        yield from order.finish()

    def _let_decoder_learn(self) -> None:
        """Decode the first packets once, for what the decoder remembers when it is flushed.

        If they are damaged, the decoder learns something wrong. What it reports and where it starts
        to conceal damage then depends on everything decoded before, so decoding must always start
        at the first frame.
        """
        if self._has_learned:
            return
        self._has_learned = True

        self._decoder.restart()
        self._decoder.drop_unreferenced(drop=False)
        first_packets = islice(self._packets.read_from(0), NUM_PACKETS_TO_LEARN)
        reports = [self._decoder.decode(packet)[1] for packet in first_packets]
        if any(reports):
            del self.index.seek_points[1:]

    def _split_into_runs(self, wanted: Sequence[int]) -> Iterator[list[int]]:
        """Split the wanted frames where jumping to a keyframe takes less time than decoding on."""
        run = list(wanted[:1])
        for number in wanted[1:]:
            nearest = self.index.seek_points[self.index.seek_point_before(number)]
            if nearest.number > run[-1] + MIN_JUMP:
                yield run
                run = []
            run.append(number)
        yield run

    def _read_run(
        self, missing: deque[int], *, start: SeekPoint
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the missing frames, ascending. Each one leaves the queue when it is yielded."""
        for number, frame in self.read_from(start, wanted=set(missing)):
            if number > missing[0]:
                break
            if number < missing[0]:
                continue

            if len(missing) == 1:
                self._check_none_is_late(first=start.number, last=number)
            yield missing.popleft(), frame
            if not missing:
                return

        raise DamageError(f"frame {missing[0]} of {self.index.num_frames} cannot be decoded")

    def _check_none_is_late(self, *, first: int, last: int) -> None:
        """Check that the decoder does not hold a frame that is shown before the last one.

        Raises:
            DamageError: If it does.
        """
        frames, _ = self._decoder.decode(None)
        numbers = [self.index.number_at.get(frame.pts, -1) for frame in frames]
        if any(first <= number < last for number in numbers):
            raise DamageError(
                f"the timestamps of the frames before {last} do not match their order"
            )

    def _may_drop(self, number: int | None, *, wanted: set[int]) -> bool:
        """Return whether the decoder may drop a frame if no other is predicted from it."""
        if self.index.times is None:
            return False
        # Frames of VP8 may need the header of a frame that nothing is predicted from.
        return number not in wanted and self._decoder.codec != "vp8"
