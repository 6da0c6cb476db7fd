"""Frames by number: VideoFile reads them from a video with PyAV, FrameFolder from a folder of JPEG files.

Both are context managers with `num_frames`, `fps` (0 where it is unknown) and `read(numbers)`, and give the same frames
for the same numbers whatever was read before. Both raise DecodeError, which names the file.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from os.path import join
from types import TracebackType
from typing import cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from slowfast.utils.paths import pathmgr

Frames = NDArray[np.uint8]


class DecodeError(ValueError):
    """A video or a frame that cannot be read; the message names the file and the reason."""


class VideoFile:
    """The frames of a video file, numbered from 0 in the order in which a player shows them.

    Opening reads the packets, without decoding them, into a table of the frames' times. Reading seeks to the keyframe
    before the first wanted frame, decodes with one thread, and stops after the last wanted one.

    Raises:
        DecodeError: the file does not exist, or is not a video.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._converter = VideoReformatter()  # one for all frames: its tables are costly to make
        if not pathmgr.isfile(path):
            raise DecodeError(f"{path}: no such file")
        try:
            self._container = av.open(pathmgr.get_local_path(path))
        except (av.FFmpegError, OSError) as error:
            raise DecodeError(f"{path}: {_reason(error)}") from error
        try:
            self._read_frame_table()
        except BaseException:
            self._container.close()
            raise

    def _read_frame_table(self) -> None:
        if not self._container.streams.video:
            raise DecodeError(f"{self.path}: no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "NONE"  # threads of FFmpeg in a loader worker can deadlock
        self._stream.codec_context.thread_count = 1
        self.fps = Fraction(self._stream.average_rate or self._stream.guessed_rate or 0)
        try:
            shown = [
                (packet.pts, packet.dts, packet.is_keyframe)
                for packet in self._container.demux(self._stream)
                if packet.size and not packet.is_discard
            ]
        except av.FFmpegError as error:
            raise DecodeError(f"{self.path}: {_reason(error)}") from error
        self.num_frames = len(shown)
        if not shown:
            raise DecodeError(f"{self.path}: no frames")
        times = [pts for pts, _, _ in shown if pts is not None]
        # Without a time of its own for every frame there is nothing to seek by: frames are then counted from the start.
        # Times that never go back although the codec reorders frames are of the container's own making (AVI).
        is_made_up = (
            self._stream.codec_context.has_b_frames
            and times == sorted(times)
            and not all(is_key for _, _, is_key in shown)
        )
        self._has_times = len(set(times)) == len(shown) and not is_made_up
        if self._has_times:
            self._numbers = {pts: number for number, pts in enumerate(sorted(times))}
            self._key_times = sorted(pts for pts, _, is_key in shown if is_key and pts is not None)
            self._first_time = min(time for pts, dts, _ in shown for time in (pts, dts) if time is not None)
            self._key_numbers = [self._numbers[pts] for pts in self._key_times]

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file and the decoder."""
        self._container.close()

    def read(self, numbers: Sequence[int]) -> Frames:
        """Return the frames of the given numbers, in their order, repeats included.

        Args:
            numbers: from 0 to num_frames - 1.

        Returns:
            (N, H, W, 3), RGB.

        Raises:
            DecodeError: a frame is damaged, or missing from the file.
        """
        images: dict[int, Frames] = {}
        wanted = sorted(set(map(int, numbers)))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.num_frames:
            raise DecodeError(f"{self.path}: frames {wanted[0]} to {wanted[-1]} asked for, of {self.num_frames}")
        try:
            for number, frame in self._decode_wanted(wanted):
                images[number] = cast(Frames, self._converter.reformat(frame, format="rgb24").to_ndarray())
        except av.FFmpegError as error:
            raise DecodeError(f"{self.path}: {_reason(error)}") from error
        missing = [number for number in wanted if number not in images]
        if missing:
            raise DecodeError(f"{self.path}: frame {missing[0]} of {self.num_frames} cannot be decoded")
        return np.stack([images[int(number)] for number in numbers])

    def _decode_wanted(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """The wanted frames, ascending; gaps longer than to the next keyframe are jumped over."""
        while wanted:
            start = self._keyframe_before(wanted[0])
            read = 0
            for number, frame in self._decode_from(start, first=wanted[0]):
                if number == wanted[read]:
                    yield number, frame
                    read += 1
                    if read == len(wanted) or self._keyframe_before(wanted[read]) > max(number, start):
                        break
            if read == 0:
                return
            wanted = wanted[read:]

    def _keyframe_before(self, number: int) -> int:
        if not self._has_times:
            return 0
        return self._key_numbers[max(bisect_right(self._key_numbers, number) - 1, 0)]

    def _decode_from(self, start: int, *, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their numbers from keyframe `start` on, or from an earlier one if needed to give `first`."""
        if not self._has_times:
            self._container.seek(0, stream=None)
            yield from enumerate(self._container.decode(self._stream))
            return
        key = max(bisect_right(self._key_numbers, start) - 1, 0)
        while True:
            self._container.seek(self._key_times[key] if key else self._first_time, stream=self._stream)
            frames = ((self._numbers.get(frame.pts, -1), frame) for frame in self._container.decode(self._stream))
            head = next(((number, frame) for number, frame in frames if number >= 0), None)
            if head is not None and head[0] <= first:
                yield head
                yield from frames
                return
            if key == 0:  # the file starts with frames that no keyframe leads to, or the frame is not there
                if head is not None:
                    yield head
                    yield from frames
                return
            key -= 1  # containers seek by decoding time, which may lead to a later keyframe


class FrameFolder:
    """The frames of a folder of JPEG files, numbered from 0; the files are numbered from 1.

    Args:
        path: the folder.
        template: file name of frame n, as `{:05d}.jpg`.
        num_frames: as the list says.
    """

    fps = Fraction(0)  # a folder does not tell

    def __init__(self, path: str, *, template: str, num_frames: int) -> None:
        self.path = path
        self.template = template
        self.num_frames = num_frames

    def __enter__(self) -> "FrameFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # no file stays open between two reads

    def read(self, numbers: Sequence[int]) -> Frames:
        """Return the frames of the given numbers, in their order, repeats included.

        Args:
            numbers: from 0 to num_frames - 1.

        Returns:
            (N, H, W, 3), RGB.

        Raises:
            DecodeError: a file is missing or damaged, or of another size than the first.
        """
        images = {int(number): self._read_image(int(number)) for number in dict.fromkeys(numbers)}
        sizes = {image.shape for image in images.values()}
        if len(sizes) > 1:
            raise DecodeError(f"{self.path}: frames of different sizes, {' and '.join(map(str, sorted(sizes)))}")
        return np.stack([images[int(number)] for number in numbers])

    def _read_image(self, number: int) -> Frames:
        path = join(self.path, self.template.format(number + 1))
        try:
            with pathmgr.open(path, "rb") as file, Image.open(file) as image:
                return np.asarray(image.convert("RGB"))
        except OSError as error:
            raise DecodeError(f"{path}: {_reason(error)} (frame {number + 1} of {self.num_frames})") from error


def _reason(error: Exception) -> str:
    """The words of an error without its number and its file name, which the message gives already."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:]
