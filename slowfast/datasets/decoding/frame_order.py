"""Frame order: assigns numbers to decoded frames and holds each one until it can be trusted."""

from collections import deque
from collections.abc import Iterator

import av

from slowfast.datasets.decoding.damage import DamageError
from slowfast.datasets.decoding.frame_index import FrameIndex, SeekPoint

# Decoders of these codecs keep a picture when they are flushed. If a file does not start with a
# keyframe, they predict its first frames from that picture.
CODECS_THAT_KEEP_PICTURES = ("wmv", "msmpeg4", "h263", "flv")


class FrameOrder:
    """Order of the frames in one pass of the decoder from a seek point on.

    Call `feed` before a packet is decoded, then `accept` with each frame that comes out.

    A frame may be predicted from frames that are shown later. A decoder outputs frames in the
    order in which they are shown, so a report about such a reference can come after the frame. A
    frame is therefore held until every frame that was decoded before it has come out undamaged.

    Args:
        index: Frame index of the video.
        start: Seek point where the pass begins.
        codec: FFmpeg's name of the codec.
    """

    def __init__(self, index: FrameIndex, *, start: SeekPoint, codec: str) -> None:
        self._index = index
        self._start = start
        self._is_timed = index.times is not None
        self._needs_key = start.number > 0 or codec.startswith(CODECS_THAT_KEEP_PICTURES)

        # Packets that went into the decoder.
        self._first_key_pts: int | None = None
        self._fed: set[int] = set()  # frame numbers
        self._next_unfed = start.number  # lowest number from the seek point on that was not fed
        self._highest_fed = -1
        self._last_reference: dict[int, int] = {}  # frame -> last frame it may be predicted from

        # Frames that came out.
        self.num_out = 0  # frames before the seek point included
        self._latest_out = -1
        self._held: deque[tuple[int, av.VideoFrame]] = deque()

    def feed(self, packet: av.Packet) -> int | None:
        """Record that a packet goes into the decoder.

        Returns:
            The number of its frame, None if it is unknown.
        """
        if packet.is_keyframe and self._first_key_pts is None:
            self._first_key_pts = packet.pts

        number = self._index.number_at.get(packet.pts)
        if number is None:
            return None

        self._highest_fed = max(self._highest_fed, number)
        self._last_reference[number] = self._highest_fed
        self._fed.add(number)
        while self._next_unfed in self._fed:
            self._next_unfed += 1
        return number

    def precedes_start(self, packet: av.Packet, *, number: int | None) -> bool:
        """Return whether a packet may depend on frames before the seek point.

        The frame of such a packet is shown before the first keyframe. Damage in it says nothing
        about the frames from the seek point on.
        """
        if packet.is_keyframe or (number is not None and number >= self._start.number):
            return False

        first_key = self._first_key_pts
        return first_key is None or packet.pts is None or packet.pts < first_key

    def accept(
        self, frame: av.VideoFrame, *, report: str, fed_number: int | None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Take a frame from the decoder, and yield the frames that can be trusted now.

        Args:
            frame: The frame.
            report: Damage that the decoder reported with it, "" for none.
            fed_number: Frame number of the packet that was decoded last, None if it is unknown.

        Yields:
            Frame numbers, ascending, and frames.

        Raises:
            DamageError: If the frame is damaged or comes out in the wrong order.
        """
        number = self._index.number_at.get(frame.pts, -1) if self._is_timed else self.num_out
        self.num_out += 1
        if number < self._start.number:
            return

        if number == self._start.number and self._needs_key and not frame.key_frame:
            raise DamageError(f"frame {number} is not a keyframe")
        if self._is_timed and not self._latest_out < number <= self._next_unfed:
            raise DamageError(
                f"the timestamps of the frames around {number} do not match their order"
            )
        if frame.is_corrupt or (report and number == fed_number):
            raise DamageError(f"{report or 'the picture is damaged'} (at frame {number})")

        self._latest_out = number
        self._held.append((number, frame))
        while self._held and self._last_reference.get(self._held[0][0], 0) <= number:
            yield self._held.popleft()

    def finish(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield the frames that are still held at the end of the stream."""
        yield from self._held
