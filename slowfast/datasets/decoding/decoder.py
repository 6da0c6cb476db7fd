"""Single-threaded decoder that returns the frames in a packet and what FFmpeg reports about it."""

from collections.abc import Iterable
from itertools import chain

import av

from slowfast.datasets.decoding.container import VideoContainer
from slowfast.datasets.decoding.damage import describe_error
from slowfast.datasets.decoding.ffmpeg_log import captured_log, first_error
from slowfast.datasets.records import DecodeError


class PacketDecoder:
    """Decodes the packets of a video stream in one thread.

    Attributes:
        codec: FFmpeg's name of the codec.
        context: FFmpeg's codec context.
        size: Width and height of the frames in pixels, as the file's header gives them.

    Raises:
        DecodeError: If the file has no video stream that can be decoded, or its frames are too
            large.
    """

    def __init__(self, container: VideoContainer) -> None:
        self._flags_joints = container.flags_joints
        self.context = container.stream.codec_context
        self.codec = self.context.codec.canonical_name

        width, height = self.context.width, self.context.height
        max_pixels = container.max_pixels
        if width * height > max_pixels:
            raise DecodeError(
                f"{container.path}: frames of {width} x {height} pixels are larger than "
                f"DATA.MAX_FRAME_PIXELS {max_pixels} allows"
            )

        options = {"max_pixels": str(max_pixels)}  # the size may change midway
        if self.codec == "hevc":
            # Without it, the decoder drops slices it cannot decode and reports nothing.
            options["err_detect"] = "explode"
        self.context.options = options
        # FFmpeg's threads can deadlock in a loader worker.
        self.context.thread_type = "NONE"
        self.context.thread_count = 1
        # Open it while it drops nothing: some decoders read `skip_frame` only when they open.
        self.context.open()
        self.size = (self.context.width, self.context.height)  # opening may correct it

    @property
    def is_intra_only(self) -> bool:
        """Whether every frame of the codec is a keyframe."""
        return self.context.codec.intra_only

    def restart(self) -> None:
        """Forget all packets, to decode from another seek point."""
        self.context.flush_buffers()

    def drop_unreferenced(self, *, drop: bool) -> None:
        """Choose whether to drop frames that no other frame is predicted from."""
        self.context.skip_frame = "NONREF" if drop else "DEFAULT"

    def decode(self, packet: av.Packet | None) -> tuple[list[av.VideoFrame], str]:
        """Decode a packet.

        Args:
            packet: The packet, None for the end of the stream.

        Returns:
            The frames that come out of the decoder, and the damage that it reports, "" for none.
        """
        with captured_log() as log:
            try:
                frames = self.context.decode(packet)
            except av.FFmpegError as error:
                return [], describe_error(error)

        is_flagged = packet is not None and packet.is_corrupt
        if is_flagged and not self._flags_joints:
            return frames, "a packet is damaged"
        return frames, first_error(log)

    def decode_times(self, packets: Iterable[av.Packet]) -> tuple[list[int | None], bool]:
        """Decode the whole stream for the presentation times of its frames, damaged ones included.

        Returns:
            The times in the order in which the frames come out, and whether any frame was lost.
        """
        self.restart()
        self.drop_unreferenced(drop=False)

        times: list[int | None] = []
        has_lost_frames = False
        for packet in chain(packets, [None]):
            try:
                with captured_log():
                    times += [frame.pts for frame in self.context.decode(packet)]
            except av.FFmpegError:
                # Before the first keyframe there are no frames to lose.
                has_lost_frames |= bool(times)
        return times, has_lost_frames
