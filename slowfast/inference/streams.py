"""Live streams: windows of the newest frames of a camera or of an RTSP, TCP or UDP address.

A thread reads the stream into a ring of frames. If the model is slower than the stream, the oldest
frames are dropped. A stream that stalls is waited for, and one that is lost is connected to again.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any, NamedTuple

import av
import numpy as np
from av.video import VideoStream
from torch import Tensor

from slowfast.datasets.clip_reader import ClipReader
from slowfast.datasets.decode import FrameTimes
from slowfast.datasets.decoding.damage import describe_error
from slowfast.datasets.decoding.images import FrameConverter, Frames
from slowfast.datasets.records import DecodeError
from slowfast.datasets.resize import compile_resize
from slowfast.datasets.samplers import make_views
from slowfast.datasets.sampling import TIME_TOLERANCE, constant_rate, frames_within
from slowfast.inference.clip_settings import ClipSettings
from slowfast.inference.frame_ring import FrameRing
from slowfast.inference.predictions import Prediction
from slowfast.inference.windows import clip_seconds
from slowfast.utils.threads import WaitingThread

OPEN_SECONDS = 10.0  # time limit of a connection
READ_SECONDS = 10.0  # time without data after which a connection counts as lost
STALL_SECONDS = 1.0  # time without frames that is reported
GAP_SECONDS = 1.0  # gap in the times of the frames after which windows start anew
FIRST_DELAY, MAX_DELAY = 0.5, 8.0  # seconds before the first attempts to connect again

_MAX_WAITING_PACKETS = 256  # packets whose frames have not come out of the decoder

Report = Callable[[str], None]


class StreamWindow(NamedTuple):
    """Prediction of a window of a stream."""

    path: str
    start: float  # seconds from the first frame
    end: float
    prediction: Prediction
    latency: float  # seconds from the arrival of its newest frame to the prediction
    num_dropped: int  # frames since the window before that are in no window

    def as_json(self) -> dict[str, Any]:
        """Return the path, the times, the top classes, latency and dropped frames as plain data."""
        return {
            "path": self.path,
            "start": self.start,
            "end": self.end,
            "latency": self.latency,
            "num_dropped": self.num_dropped,
            "top": [score._asdict() for score in self.prediction.top],
        }


class LiveViews(NamedTuple):
    """Views of a window of a stream."""

    start: float  # seconds from the first frame
    end: float
    frames: Tensor  # (V, 3, T, S, S), clip by clip
    intervals: list[tuple[float, float] | None]  # of each temporal clip
    arrival: float  # when the newest frame arrived, in seconds of `time.monotonic`
    num_dropped: int


class StreamLostError(OSError):
    """Raised at the end of a stream that cannot be connected to any more."""


class _LiveFrame(NamedTuple):
    number: int
    time: float  # seconds from the first frame
    arrival: float


class LiveStream:
    """Windows of the newest frames of a stream.

    It is a context manager, and an iterator over `LiveViews`. Windows start every `stride` seconds
    of the stream. A window that is complete while the model computes an earlier one replaces it.

    Args:
        address: Address or device, such as rtsp://camera/1, tcp://host:port or /dev/video0.
        reader: Reader of the clips of a test.
        settings: How the model looks at a video.
        window: Seconds of a window. None for the span of a clip.
        stride: Seconds from one window to the next. None for the window.
        num_clips: Number of temporal clips per window.
        num_crops: Number of spatial crops per clip.
        retries: Number of attempts to connect again before the stream counts as lost.
        report: Function that takes what happens to the connection, as a sentence.
    """

    def __init__(
        self,
        address: str,
        reader: ClipReader,
        settings: ClipSettings,
        *,
        window: float | None = None,
        stride: float | None = None,
        num_clips: int = 1,
        num_crops: int = 1,
        retries: int = 5,
        report: Report = lambda text: None,
    ) -> None:
        self._address = address
        self._settings = settings
        self._clips = reader.with_clips(num_clips)
        self._ring = FrameRing(reader.transform, make_views(num_clips, num_crops))
        self._window, self._stride = window, stride
        self._retries = retries
        self._report = report

        # The lock protects what follows.
        self._changed = threading.Condition()
        self._frames: deque[_LiveFrame] = deque()  # those in the ring
        self._newest = 0.0  # time of the newest frame
        self._interval = 0.0  # time between the two newest frames
        self._origin = 0.0  # time at which window 0 starts
        self._next_window = 0  # first window that was not taken
        self._last_used = -1  # number of the newest frame in a window
        self._num_dropped = 0
        self._last_arrival: float | None = None
        self._is_connected = False
        self._ended_by = ""  # why the stream ended
        self._failure: BaseException | None = None  # unexpected error of the thread

        self._num_frames = 0
        self._first_arrival = 0.0
        self._run_start = 0.0  # time of the first frame after the latest gap
        self._stopped = threading.Event()
        self._thread = WaitingThread(target=self._read, name="stream")  # at most READ_SECONDS

    def __enter__(self) -> "LiveStream":
        compile_resize()  # the first frames would wait for it
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join(timeout=1.0)  # it may wait for data

    def __iter__(self) -> Iterator[LiveViews]:
        """Iterate over the windows as they are complete.

        Raises:
            StreamLostError: If the stream is lost.
        """
        is_stalled = False
        while True:
            with self._changed:
                number = self._newest_complete()
                if number is None and not self._ended_by:
                    self._changed.wait(timeout=0.2)
                    number = self._newest_complete()
                if self._failure is not None:
                    raise self._failure
                views = None if number is None else self._take(number)
                ended_by = self._ended_by
                wait = self._seconds_without_frames()

            if views is not None:
                yield views
            elif ended_by and number is None:
                raise StreamLostError(f"{self._address}: {ended_by}")
            elif wait > STALL_SECONDS and not is_stalled:
                self._report(f"{self._address}: no frames for {wait:.1f} s, waiting")
            is_stalled = wait > STALL_SECONDS

    # ---- Windows, with the lock -----------------------------------------------------------------

    def _newest_complete(self) -> int | None:
        """Return the newest window that is complete and was not taken, None if there is none."""
        if self._window is None or self._stride is None or self._last_arrival is None:
            return None
        # A frame ends when the next one comes, or never.
        end = self._newest + (self._interval if self._ended_by else 0.0)
        number = int((end - self._origin - self._window + TIME_TOLERANCE) // self._stride)
        return number if number >= self._next_window and self._frames else None

    def _take(self, number: int) -> LiveViews | None:
        """Return the views of a window, None if it is shorter than the model allows."""
        assert self._window is not None
        assert self._stride is not None
        start = self._origin + number * self._stride
        end = start + self._window
        times = np.array([frame.time for frame in self._frames])
        from_first = max(start - times[0], 0.0)
        shown = frames_within(times, start=from_first, end=end - times[0])

        timing = FrameTimes(times, np.full(len(times), self._interval))
        target_fps = self._clips.target_fps
        rate = constant_rate(*timing, fps=target_fps) if target_fps else None
        self._next_window = number + 1
        try:
            clips = self._clips.numbers_within(
                shown,
                path=self._address,
                rate=rate,
                clips=range(self._clips.clips.num_clips),
                rng=None,
            )
        except DecodeError:
            return None

        first = self._frames[0].number
        frames = self._ring.clips([first + clip for clip in clips])
        newest = self._frames[int(shown[-1])]
        self._last_used = max(self._last_used, newest.number)
        num_dropped, self._num_dropped = self._num_dropped, 0
        intervals = []
        for clip in clips:
            clip_start, clip_end = timing.interval(clip)
            intervals.append((round(clip_start, 6), round(clip_end, 6)))
        return LiveViews(
            round(start, 6), round(end, 6), frames, [*intervals], newest.arrival, num_dropped
        )

    def _seconds_without_frames(self) -> float:
        if self._last_arrival is None or not self._is_connected:
            return 0.0
        return time.monotonic() - self._last_arrival

    def _drop_old_frames(self) -> None:
        """Drop the frames before the newest window that is complete."""
        assert self._window is not None
        assert self._stride is not None
        number = (self._newest - self._origin - self._window + TIME_TOLERANCE) // self._stride
        start = self._origin + max(number, 0) * self._stride + TIME_TOLERANCE
        # The frame on screen at the start of the window may have begun before.
        while len(self._frames) > 1 and self._frames[1].time <= start:
            self._drop(self._frames.popleft())
        self._ring.drop_before(self._frames[0].number)

    def _drop(self, frame: _LiveFrame) -> None:
        self._num_dropped += frame.number > self._last_used

    # ---- Reading, in a thread -------------------------------------------------------------------

    def _read(self) -> None:
        try:
            self._read_connections()
        except BaseException as error:  # the thread that waits for windows raises it
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _read_connections(self) -> None:
        attempt = 0
        while not self._is_over():
            num_before = self._num_frames
            try:
                self._read_connection()
                problem = "the connection was closed"
            except (av.FFmpegError, OSError, ValueError) as error:
                problem = describe_error(error)
            if self._is_over():
                return

            attempt = 0 if self._num_frames > num_before else attempt
            is_lost = attempt >= self._retries
            with self._changed:
                self._is_connected = False
                self._ended_by = problem if is_lost else ""
                self._changed.notify_all()
            if is_lost:
                return
            delay = min(FIRST_DELAY * 2**attempt, MAX_DELAY)
            self._report(f"{self._address}: {problem}. Connecting again in {delay:g} s")
            self._stopped.wait(delay)
            attempt += 1

    def _is_over(self) -> bool:
        """Return whether nobody wants more frames: the stream is closed, or the program ends."""
        return self._stopped.is_set() or not threading.main_thread().is_alive()

    def _read_connection(self) -> None:
        """Read frames until the connection ends."""
        with _open(self._address) as container:
            stream = _find_video(container)
            if stream is None:
                raise DecodeError("no video stream")
            self._choose_window(stream)
            with self._changed:
                self._is_connected = True
                self._last_arrival = self._last_arrival and time.monotonic()

            clock = _StreamClock(stream.time_base)
            converter: FrameConverter | None = None
            for frame, arrival in _decode(container, stream):
                if self._is_over():
                    return
                if converter is None:
                    size = (frame.width, frame.height)
                    is_bgr = self._settings.channel_order == "BGR"
                    converter = FrameConverter(self._address, size=size, bgr=is_bgr)
                self._add(converter.to_image(frame), clock.read(frame, arrival), arrival=arrival)

    def _choose_window(self, stream: VideoStream) -> None:
        if self._window is None:
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            self._window = clip_seconds(self._settings, fps=fps)
        self._stride = self._stride or self._window

    def _add(self, image: Frames, tick: "_Tick", *, arrival: float) -> None:
        """Add a frame to the ring."""
        assert self._window is not None
        assert self._stride is not None
        if self._last_arrival is None:
            self._first_arrival = arrival
        elif self._is_connected and arrival - self._last_arrival > STALL_SECONDS:
            seconds = arrival - self._last_arrival
            self._report(f"{self._address}: frames again after {seconds:.1f} s")

        if tick.starts_anew:
            self._run_start = max(arrival - self._first_arrival, self._newest)
        at = self._run_start + tick.seconds
        is_in_gap = tick.seconds % self._stride >= self._window + TIME_TOLERANCE
        rendered = None if is_in_gap else self._ring.render(image)

        with self._changed:
            if tick.starts_anew:
                self._start_anew(at)
            self._interval = at - self._newest if at > self._newest else self._interval
            self._newest = at
            self._last_arrival = arrival
            if rendered is not None:
                self._frames.append(_LiveFrame(self._num_frames, at, arrival))
                self._ring.put(self._num_frames, rendered)
                self._num_frames += 1
            if self._frames:
                self._drop_old_frames()
            self._changed.notify_all()

    def _start_anew(self, origin: float) -> None:
        """Forget the frames before a gap. Window 0 starts now."""
        while self._frames:
            self._drop(self._frames.popleft())
        self._ring.clear()
        self._origin = origin
        self._next_window = 0


class _Tick(NamedTuple):
    seconds: float  # from the first frame without a gap
    starts_anew: bool  # whether there is a gap before this frame


class _StreamClock:
    """Times of the frames of a connection. They start anew where the stream has a gap.

    Args:
        time_base: Seconds of a unit of the times. The last frames of a decoder do not know it.
    """

    def __init__(self, time_base: Fraction | None) -> None:
        self._time_base = time_base
        self._first = self._last = 0.0
        self._is_new = True

    def read(self, frame: av.VideoFrame, arrival: float) -> _Tick:
        """Return the time of a frame. A frame without one has that of its arrival."""
        now = arrival
        if frame.pts is not None and self._time_base is not None:
            now = float(frame.pts * self._time_base)
        starts_anew = self._is_new or not self._last <= now <= self._last + GAP_SECONDS
        if starts_anew:
            self._first = now
        self._is_new, self._last = False, now
        return _Tick(now - self._first, starts_anew)


def _open(address: str) -> av.container.InputContainer:
    options = {"analyzeduration": "1000000"}
    if address.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    device = "v4l2" if address.startswith("/dev/video") else None
    timeout = (OPEN_SECONDS, READ_SECONDS)
    try:
        return av.open(address, format=device, options=options, timeout=timeout)
    except av.error.ExitError as error:
        raise OSError(f"no answer for {OPEN_SECONDS:g} s") from error


def _find_video(container: av.container.InputContainer) -> VideoStream | None:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        return None
    stream.codec_context.thread_type = "NONE"  # threads would delay the frames
    stream.codec_context.thread_count = 1
    return stream


def _decode(
    container: av.container.InputContainer, stream: VideoStream
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yield the undamaged frames, each with the time at which its packet arrived."""
    arrivals: dict[int | None, float] = {}
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.ExitError as error:
            raise OSError(f"no data for {READ_SECONDS:g} s") from error
        if packet is None:
            return

        now = time.monotonic()
        if len(arrivals) > _MAX_WAITING_PACKETS:
            arrivals.clear()
        arrivals[packet.pts] = now
        try:
            frames = stream.codec_context.decode(packet if packet.size else None)
        except av.error.InvalidDataError:
            continue  # a part of the stream was lost
        for frame in frames:
            if not frame.is_corrupt:
                yield frame, arrivals.pop(frame.pts, now)
