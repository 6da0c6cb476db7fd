"""Which frames make up a clip. Integer arithmetic only: no files, no tensors, no config.

A clip start is counted in *ticks*, 1 / max(num_frames - 1, 1) of a frame: the published dense clips start between two
frames, and on this grid every start, and so every index, is exact.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class DenseClips(NamedTuple):
    """Clips of evenly spaced frames, each spanning num_frames * sampling_rate frames of the video."""

    num_frames: int
    sampling_rate: int
    num_clips: int  # spread over the video where none is drawn at random
    use_offset: bool  # the last clip ends with the video, and a single one is centred; else equal shares of the slack

    def numbered(self, total_frames: int, clip: int) -> Indices:
        """Return the frames of clip `clip`, from 0, of a video of total_frames.

        Returns:
            (num_frames,), ascending, within the video: a short one repeats its last frame.
        """
        slack = self._slack(total_frames)
        if not self.use_offset:
            return self._starting_at(slack * clip * self._ticks_per_frame // self.num_clips, total_frames)
        start = clip * (slack // (self.num_clips - 1)) if self.num_clips > 1 else slack // 2
        return self._starting_at(start * self._ticks_per_frame, total_frames)

    def random(self, total_frames: int, rng: np.random.Generator) -> Indices:
        """Return the frames of a clip whose start is uniform, as a real number, over the slack; shape as above.

        A real start and its tick give the same frames, so the drawn ticks have the published distribution.
        """
        slack_ticks = self._slack(total_frames) * self._ticks_per_frame
        return self._starting_at(int(rng.integers(slack_ticks)) if slack_ticks else 0, total_frames)

    @property
    def _ticks_per_frame(self) -> int:
        return max(self.num_frames - 1, 1)

    def _slack(self, total_frames: int) -> int:
        return max(total_frames - self.num_frames * self.sampling_rate, 0)

    def _starting_at(self, start_ticks: int, total_frames: int) -> Indices:
        # Frame i lies at start + i * (span - 1) / (num_frames - 1); cut off to a whole frame.
        steps = np.arange(self.num_frames, dtype=np.int64) * (self.num_frames * self.sampling_rate - 1)
        return ((start_ticks + steps) // self._ticks_per_frame).clip(0, total_frames - 1)


class SegmentClips(NamedTuple):
    """Clips of one frame from each of num_frames equal segments of the whole video.

    Source: the segments of Wang et al., Temporal Segment Networks, arXiv:1608.00859, with the published bounds.
    """

    num_frames: int
    num_clips: int

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


def resampled_length(total_frames: int, *, fps: Fraction, target_fps: Fraction) -> int:
    """Return how many frames a video has at another frame rate, at least 1."""
    return max(int(total_frames * target_fps / fps), 1)


def to_native(indices: Indices, total_frames: int, *, fps: Fraction, target_fps: Fraction) -> Indices:
    """Return the frames that a video shows at the times of the given frames of its resampled version."""
    ratio = fps / target_fps
    return (indices * ratio.numerator // ratio.denominator).clip(0, total_frames - 1)
