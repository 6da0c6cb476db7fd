"""Temporal sampling: the frame numbers of a clip, and of a video at a constant frame rate.

Clip starts are counted in ticks of 1 / max(num_frames - 1, 1) frames, because the published dense
clips start between two frames. On this grid, every start and every frame number is exact.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Seconds = NDArray[np.float64]

MAX_STILL_SECONDS = 3600  # a frame that is shown for longer has a damaged time stamp
TIME_TOLERANCE = 1e-6  # seconds, error of rounded times


class DenseClips(NamedTuple):
    """Clips of evenly spaced frames.

    A clip spans num_frames * sampling_rate frames of the video.
    """

    num_frames: int
    sampling_rate: int
    num_clips: int  # number of clips that `numbered` spreads over the video

    # If set, the last clip ends with the video, and a single clip is centered. Otherwise the clips
    # start at equal fractions of the slack.
    use_offset: bool

    # If set, a video that is shorter than a clip starts over. Otherwise its last frame repeats.
    loop: bool = False

    def numbered(self, total_frames: int, clip: int) -> Indices:
        """Return the frames of one of `num_clips` evenly spaced clips.

        Args:
            total_frames: Number of frames of the video.
            clip: Index of the clip.

        Returns:
            Frame numbers of shape (num_frames,).
        """
        slack = self._slack(total_frames)
        if not self.use_offset:
            start_ticks = slack * clip * self._ticks_per_frame // self.num_clips
            return self._starting_at(start_ticks, total_frames)

        if self.num_clips == 1:
            return self._starting_at(slack // 2 * self._ticks_per_frame, total_frames)
        start = clip * (slack // (self.num_clips - 1))
        return self._starting_at(start * self._ticks_per_frame, total_frames)

    def random(self, total_frames: int, rng: np.random.Generator) -> Indices:
        """Return the frames of a clip at a random start, uniform over the slack.

        The published start is a real number. The tick below it gives the same frames, so drawing
        ticks gives the published distribution.

        Args:
            total_frames: Number of frames of the video.
            rng: Generator of the draw.

        Returns:
            Frame numbers of shape (num_frames,).
        """
        slack_ticks = self._slack(total_frames) * self._ticks_per_frame
        start_ticks = int(rng.integers(slack_ticks)) if slack_ticks else 0
        return self._starting_at(start_ticks, total_frames)

    @property
    def span(self) -> int:
        """Number of frames of the video from the start of a clip to its end."""
        return self.num_frames * self.sampling_rate

    @property
    def _ticks_per_frame(self) -> int:
        return max(self.num_frames - 1, 1)

    def _slack(self, total_frames: int) -> int:
        return max(total_frames - self.span, 0)

    def _starting_at(self, start_ticks: int, total_frames: int) -> Indices:
        # Frame i is at start + i * (span - 1) / (num_frames - 1), truncated to a whole frame.
        steps = np.arange(self.num_frames, dtype=np.int64) * (self.span - 1)
        numbers = (start_ticks + steps) // self._ticks_per_frame
        if self.loop:
            return numbers % total_frames
        return numbers.clip(0, total_frames - 1)


class SegmentClips(NamedTuple):
    """Clips of one frame from each of num_frames equal segments of the video.

    Source: Wang et al., Temporal Segment Networks, arXiv:1608.00859, with the published bounds.
    """

    num_frames: int
    num_clips: int

    @property
    def span(self) -> int:
        """Number of frames that a video needs for a clip without repeated frames."""
        return self.num_frames

    def numbered(self, total_frames: int, clip: int) -> Indices:
        """Return the frames of one of `num_clips` evenly spaced clips.

        Clip k of n takes the frame at (k + 1) / (n + 1) of each segment.

        Args:
            total_frames: Number of frames of the video.
            clip: Index of the clip.

        Returns:
            Ascending frame numbers of shape (num_frames,).
        """
        offset = (total_frames - 1) * (clip + 1) // (self.num_frames * (self.num_clips + 1))
        return segment_bounds(total_frames, num_frames=self.num_frames)[:-1] + offset

    def random(self, total_frames: int, rng: np.random.Generator) -> Indices:
        """Return a uniformly random frame of each segment, both ends included.

        Args:
            total_frames: Number of frames of the video.
            rng: Generator of the draws.

        Returns:
            Ascending frame numbers of shape (num_frames,).
        """
        bounds = segment_bounds(total_frames, num_frames=self.num_frames)
        return rng.integers(bounds[:-1], bounds[1:], endpoint=True)


def segment_bounds(total_frames: int, *, num_frames: int) -> Indices:
    """Return the bounds of the segments of a video, shape (num_frames + 1,).

    Bound i is i * (total_frames - 1) / num_frames, with halves rounded to even.
    """
    doubled = 2 * np.arange(num_frames + 1, dtype=np.int64) * (total_frames - 1)
    rounded_up = (doubled + num_frames) // (2 * num_frames)
    is_half = (doubled + num_frames) % (2 * num_frames) == 0
    return rounded_up - (is_half & (rounded_up % 2 == 1))


def frames_within(times: Seconds, *, start: float, end: float) -> Indices:
    """Return the frames on screen between two times, including the one on screen at the start.

    Args:
        times: Presentation times of the frames in seconds, shape (N,), ascending.
        start: Start in seconds from the first frame.
        end: End in seconds from the first frame. A frame that appears exactly then is excluded.

    Returns:
        Ascending frame numbers of shape (M,), at least one.
    """
    elapsed = times - times[0]
    first = int(np.searchsorted(elapsed, start + TIME_TOLERANCE, side="right")) - 1
    last = int(np.searchsorted(elapsed, end - TIME_TOLERANCE, side="left"))
    return np.arange(first, max(last, first + 1))


class ConstantRate(NamedTuple):
    """Map from the ticks of a constant frame rate to frames of a video, run-length encoded.

    Its size depends on the number of frames and not on the number of ticks. A single wrong time
    stamp can make millions of ticks.
    """

    frames: Indices  # frame of each run of ticks, ascending
    ends: Indices  # tick after the end of each run, ascending

    @property
    def num_ticks(self) -> int:
        """Number of ticks of the video, at least one."""
        return int(self.ends[-1])

    def frames_at(self, ticks: Indices) -> Indices:
        """Return the frames at some ticks, each from 0 to num_ticks - 1."""
        return self.frames[np.searchsorted(self.ends, ticks, side="right")]

    def ticks_between(self, first: int, last: int) -> tuple[int, int]:
        """Return the first tick that shows one of the frames `first` to `last`, and their number.

        The number of ticks can be 0.
        """
        runs = np.searchsorted(self.frames, [first, last + 1])
        start, end = (self._start_of_run(run) for run in runs)
        return start, end - start

    def _start_of_run(self, run: int) -> int:
        return int(self.ends[run - 1]) if run else 0


def constant_rate(times: Seconds, durations: Seconds, *, fps: float) -> ConstantRate:
    """Return the frame at each tick of a constant frame rate, as in files from `ffmpeg -r fps`.

    FFmpeg gives a frame as many ticks as bring the output to the end of the frame, rounded. It lets
    the output run ahead or behind by 1.1 ticks before it drops a frame or repeats the last one.

    Args:
        times: Presentation times of the frames in seconds, shape (N,), ascending.
        durations: Durations of the frames in seconds, shape (N,), 0 if the file does not say.
        fps: Frame rate in ticks per second.

    Raises:
        ValueError: If a frame is shown for more than MAX_STILL_SECONDS.

    Source: FFmpeg 4.1, ffmpeg.c, video sync method `cfr`.
    """
    _check_stills(times, durations)

    # FFmpeg computes in fixed point, adds half a unit to avoid exact halves, and rounds durations
    # in single precision.
    starts = (times - times[0]) * fps
    starts = np.rint(starts * 65536) / 65536 + (starts > 0) / 131072
    lengths = np.rint((durations * fps).astype(np.float32)).astype(np.float64)
    mean_length = fps * (times[-1] - times[0]) / max(len(times) - 1, 1)
    lengths[lengths == 0] = min(mean_length, 1.0)

    counts = _count_ticks(starts, lengths)
    frames = np.flatnonzero(counts)
    return ConstantRate(frames, counts[frames].cumsum())


def _check_stills(times: Seconds, durations: Seconds) -> None:
    stills = np.maximum(np.diff(times, append=times[-1]), durations)
    longest = int(stills.argmax())
    if stills[longest] > MAX_STILL_SECONDS:
        raise ValueError(
            f"frame {longest} of {len(times)} is shown for {stills[longest]:.0f} s, more than "
            f"{MAX_STILL_SECONDS} s: a time stamp must be wrong. Remove the video from the list, "
            "or take frames at its own rate (DATA.TARGET_FPS 0)"
        )


def _count_ticks(starts: Seconds, lengths: Seconds) -> Indices:
    """Return how many ticks show each frame.

    Args:
        starts: Starts of the frames in ticks, shape (N,).
        lengths: Lengths of the frames in ticks, shape (N,).

    Returns:
        Shape (N,), with a sum of at least one.
    """
    num_ticks = 0
    counts = np.zeros(len(starts), dtype=np.int64)
    last_repeats = [0, 0, 0]

    for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        late = start - num_ticks
        reach = late + length
        if late < 0 < reach:
            late = 0

        if reach < -1.1:
            count = 0
        elif reach <= 1.1:
            count = 1
        else:
            count = round(reach)

        repeats = 0
        if count and reach > 1.1 and late > 1.1:
            repeats = min(round(late - 0.6), count)

        counts[max(number - 1, 0)] += repeats
        counts[number] += count - repeats
        num_ticks += count
        last_repeats = [*last_repeats[1:], repeats]

    counts[-1] += sorted(last_repeats)[1]
    counts[0] = max(counts[0], 1 - counts[1:].sum())  # show the first frame if there is no tick
    return counts
