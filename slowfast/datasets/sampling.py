"""Which frames make up a clip: numbers in, numbers out, no files, no tensors, no config.

A clip start is counted in *ticks*, 1 / max(num_frames - 1, 1) of a frame: the published dense clips start between two
frames, and on this grid every start, and so every index, is exact.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Seconds = NDArray[np.float64]

MAX_STILL_SECONDS = 3600  # that one frame may be shown; a longer time is a damaged time stamp


class DenseClips(NamedTuple):
    """Clips of evenly spaced frames, each spanning num_frames * sampling_rate frames of the video."""

    num_frames: int
    sampling_rate: int
    num_clips: int  # spread over the video where none is drawn at random
    use_offset: bool  # the last clip ends with the video, and a single one is centered; else equal shares of the slack
    loop: bool = False  # a video shorter than a clip starts over; else its last frame is repeated

    def numbered(self, total_frames: int, clip: int) -> Indices:
        """Return the frames of clip `clip`, from 0, of a video of total_frames.

        Returns:
            (num_frames,), within the video.
        """
        slack = self._slack(total_frames)
        if not self.use_offset:
            return self._starting_at(
                slack * clip * self._ticks_per_frame // self.num_clips, total_frames
            )
        start = clip * (slack // (self.num_clips - 1)) if self.num_clips > 1 else slack // 2
        return self._starting_at(start * self._ticks_per_frame, total_frames)

    def random(self, total_frames: int, rng: np.random.Generator) -> Indices:
        """Return the frames of a clip whose start is uniform, as a real number, over the slack; shape as above.

        A real start and its tick give the same frames, so the drawn ticks have the published distribution.
        """
        slack_ticks = self._slack(total_frames) * self._ticks_per_frame
        return self._starting_at(int(rng.integers(slack_ticks)) if slack_ticks else 0, total_frames)

    @property
    def span(self) -> int:
        """Frames of the video from the start of a clip to its end."""
        return self.num_frames * self.sampling_rate

    @property
    def _ticks_per_frame(self) -> int:
        return max(self.num_frames - 1, 1)

    def _slack(self, total_frames: int) -> int:
        return max(total_frames - self.span, 0)

    def _starting_at(self, start_ticks: int, total_frames: int) -> Indices:
        # Frame i lies at start + i * (span - 1) / (num_frames - 1); cut off to a whole frame.
        steps = np.arange(self.num_frames, dtype=np.int64) * (self.span - 1)
        numbers = (start_ticks + steps) // self._ticks_per_frame
        return numbers % total_frames if self.loop else numbers.clip(0, total_frames - 1)


class SegmentClips(NamedTuple):
    """Clips of one frame from each of num_frames equal segments of the whole video.

    Source: the segments of Wang et al., Temporal Segment Networks, arXiv:1608.00859, with the published bounds.
    """

    num_frames: int
    num_clips: int

    @property
    def span(self) -> int:
        """The frames that a video needs for as many different ones in a clip."""
        return self.num_frames

    def numbered(self, total_frames: int, clip: int) -> Indices:
        """Return the frames of clip k of n, from 0: in each segment, the one (k + 1) / (n + 1) into it.

        Returns:
            (num_frames,), ascending, within the video.
        """
        offset = (total_frames - 1) * (clip + 1) // (self.num_frames * (self.num_clips + 1))
        return segment_bounds(total_frames, num_frames=self.num_frames)[:-1] + offset

    def random(self, total_frames: int, rng: np.random.Generator) -> Indices:
        """Return a uniformly random frame of each segment, both ends included; shape as above."""
        bounds = segment_bounds(total_frames, num_frames=self.num_frames)
        return rng.integers(bounds[:-1], bounds[1:], endpoint=True)


def segment_bounds(total_frames: int, *, num_frames: int) -> Indices:
    """Return the num_frames + 1 bounds of the segments: i * (total_frames - 1) / num_frames, half rounded to even."""
    doubled = 2 * np.arange(num_frames + 1, dtype=np.int64) * (total_frames - 1)
    rounded_up = (doubled + num_frames) // (2 * num_frames)
    is_half = (doubled + num_frames) % (2 * num_frames) == 0
    return rounded_up - (is_half & (rounded_up % 2 == 1))


def frames_within(times: Seconds, *, start: float, end: float) -> Indices:
    """Return the frames that are shown between two times, the one on screen at the start included.

    Args:
        times: When each frame is shown, (N,), ascending.
        start: Seconds from the first frame on.
        end: The same; a frame that comes up at this very time is not included.

    Returns:
        Shape (M,), ascending, at least one.
    """
    tolerance = 1e-6  # of times that were rounded
    first = int(np.searchsorted(times - times[0], start + tolerance, side="right")) - 1
    last = int(np.searchsorted(times - times[0], end - tolerance, side="left"))
    return np.arange(first, max(last, first + 1))


class ConstantRate(NamedTuple):
    """Which frame of a video stands at each tick of a constant frame rate, in runs of one frame.

    Its size depends on the frames of the video and not on the ticks, of which one wrong time stamp
    makes millions.
    """

    frames: Indices  # of each run, ascending
    ends: Indices  # the tick after each run, ascending

    @property
    def num_ticks(self) -> int:
        """Ticks of the whole video, at least one."""
        return int(self.ends[-1])

    def frames_at(self, ticks: Indices) -> Indices:
        """Return the frame at each of some ticks, from 0 to num_ticks - 1."""
        return self.frames[np.searchsorted(self.ends, ticks, side="right")]

    def ticks_between(self, first: int, last: int) -> tuple[int, int]:
        """Return the first tick that shows one of the frames `first` to `last`, and how many do, maybe 0."""
        runs = np.searchsorted(self.frames, [first, last + 1])
        start, end = (int(self.ends[run - 1]) if run else 0 for run in runs)
        return start, end - start


def constant_rate(times: Seconds, durations: Seconds, *, fps: float) -> ConstantRate:
    """Return which frame stands at each tick of a constant frame rate: the files that `ffmpeg -r fps` extracts.

    FFmpeg gives a frame as many ticks as bring the output to the end of the frame, rounded, and lets the output run
    ahead or behind by 1.1 ticks before it drops a frame or repeats the last one.

    Args:
        times: when each frame is shown, (N,), ascending.
        durations: of each frame, (N,); 0 where the file does not say.
        fps: ticks per second.

    Raises:
        ValueError: A frame is shown for more than MAX_STILL_SECONDS.

    Source: FFmpeg 4.1, ffmpeg.c, video sync method `cfr`.
    """
    stills = np.maximum(np.diff(times, append=times[-1]), durations)
    longest = int(stills.argmax())
    if stills[longest] > MAX_STILL_SECONDS:
        raise ValueError(
            f"frame {longest} of {len(times)} is shown for {stills[longest]:.0f} s, more than "
            f"{MAX_STILL_SECONDS} s: a time stamp must be wrong; leave the video out, or take frames "
            "at its own rate (DATA.TARGET_FPS 0)"
        )

    starts = (times - times[0]) * fps
    # FFmpeg computes in fixed point, adds half a unit so as not to meet exact halves, and rounds in single precision.
    starts = np.rint(starts * 65536) / 65536 + (starts > 0) / 131072
    lengths = np.rint((durations * fps).astype(np.float32)).astype(np.float64)
    mean_length = fps * (times[-1] - times[0]) / max(len(times) - 1, 1)
    num_ticks = 0
    counts = np.zeros(len(times), dtype=np.int64)
    last_repeats = [0, 0, 0]
    for number, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        late = start - num_ticks
        reach = late + (length or min(mean_length, 1.0))
        if late < 0 < reach:
            late = 0
        count = 0 if reach < -1.1 else 1 if reach <= 1.1 else round(reach)
        repeats = min(round(late - 0.6), count) if count and reach > 1.1 and late > 1.1 else 0
        counts[max(number - 1, 0)] += repeats
        counts[number] += count - repeats
        num_ticks += count
        last_repeats = [*last_repeats[1:], repeats]
    counts[-1] += sorted(last_repeats)[1]

    counts[0] = max(counts[0], 1 - counts[1:].sum())  # a video of no tick shows its first frame
    frames = np.flatnonzero(counts)
    return ConstantRate(frames, counts[frames].cumsum())
