"""Clips of one video: frame sampling, decoding and transforms of the requested views."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from slowfast.datasets.decode import DecodeError, FrameSource, at_rate
from slowfast.datasets.records import Interval, Video, View
from slowfast.datasets.resize import Placement
from slowfast.datasets.sampling import ConstantRate, DenseClips, Indices, SegmentClips
from slowfast.datasets.transforms import Augmentation, Transform

OpenVideo = Callable[[Video], FrameSource]


class ClipReader:
    """Reads the views of a video. Each video is opened and decoded once for all of them.

    Args:
        open_video: Function that opens a video.
        clips: Sampler of the frames of a clip.
        transform: Transform of the frames.
        target_fps: Frame rate at which clips are taken, 0 for the frame rate of each video.
        refuse_short: Whether a video with fewer frames than a clip spans counts as unreadable.
    """

    def __init__(
        self,
        open_video: OpenVideo,
        *,
        clips: DenseClips | SegmentClips,
        transform: Transform,
        target_fps: float = 0.0,
        refuse_short: bool = False,
    ) -> None:
        self.open_video = open_video
        self.clips = clips
        self.transform = transform
        self.target_fps = target_fps
        self.refuse_short = refuse_short

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """Shape of one view, (3, T, crop_size, crop_size)."""
        size = self.transform.crop_size
        return 3, self.clips.num_frames, size, size

    def with_clips(self, num_clips: int) -> "ClipReader":
        """Return a reader that spreads another number of clips over a video."""
        if num_clips == self.clips.num_clips:
            return self
        return ClipReader(
            self.open_video,
            clips=self.clips._replace(num_clips=num_clips),
            transform=self.transform,
            target_fps=self.target_fps,
            refuse_short=self.refuse_short,
        )

    def read(
        self,
        video: Video,
        views: Sequence[View],
        *,
        rng: np.random.Generator | None,
        out: Tensor,
        intervals: list[Interval] | None = None,
    ) -> list[Augmentation]:
        """Write the views of a video to `out` and return the augmentation of each.

        Args:
            video: The video.
            views: Views to read.
            rng: Generator of a training sample, None for deterministic clips and crops.
            out: Clips of shape (len(views), *clip_shape).
            intervals: List to which the time of each view is added, if it is given.

        Raises:
            DecodeError: If the video is unreadable.
        """
        with self.open_video(video) as source:
            # Sample once per temporal clip, so augmented copies of a video show the same frames.
            clips = sorted({view.clip for view in views})
            numbers = self.frame_numbers(source, clips=clips, rng=rng)
            numbers_by_clip = dict(zip(clips, numbers, strict=True))

            numbers = [numbers_by_clip[view.clip] for view in views]
            augmentations = self.write_views(source, views, numbers=numbers, rng=rng, out=out)
            if intervals is not None:
                timing = source.timing
                intervals += [timing.interval(clip) if timing else None for clip in numbers]
            return augmentations

    def frame_numbers(
        self,
        source: FrameSource,
        *,
        clips: Sequence[int],
        rng: np.random.Generator | None,
    ) -> list[Indices]:
        """Return the frame numbers of temporal clips of an open video, each of shape (T,).

        Args:
            source: The video.
            clips: Indices of the clips.
            rng: Generator for random clips, None for evenly spaced ones.

        Raises:
            DecodeError: If the video is shorter than a clip and `refuse_short` is set, or if it
                cannot be resampled because a time stamp is wrong.
        """
        rate = at_rate(source, self.target_fps) if self.target_fps else None
        return self.numbers_within(source.shown, path=source.path, rate=rate, clips=clips, rng=rng)

    def numbers_within(
        self,
        shown: Indices,
        *,
        path: str,
        rate: ConstantRate | None,
        clips: Sequence[int],
        rng: np.random.Generator | None,
    ) -> list[Indices]:
        """Return the frame numbers of temporal clips of a section, each of shape (T,).

        Args:
            shown: Numbers of the frames of the section, ascending, at least one.
            path: Path of the video, for messages.
            rate: Frames of the whole video at `target_fps`, None for its own frame rate.
            clips: Indices of the clips.
            rng: Generator for random clips, None for evenly spaced ones.

        Raises:
            DecodeError: If the section is shorter than a clip and `refuse_short` is set.
        """
        first, total = int(shown[0]), len(shown)
        if rate is not None:
            first, total = rate.ticks_between(int(shown[0]), int(shown[-1]))
            if not total:  # a span so short that it lies between two ticks
                first, total, rate = int(shown[0]), 1, None

        if self.refuse_short and total < self.clips.span:
            raise DecodeError(
                f"{path}: has {total} frames, but a clip spans {self.clips.span} "
                "(DATA.SHORT_CLIP error)"
            )

        if rng is not None:
            numbers = [first + self.clips.random(total, rng) for _ in clips]
        else:
            numbers = [first + self.clips.numbered(total, clip) for clip in clips]
        if rate is None:
            return numbers
        return [rate.frames_at(ticks) for ticks in numbers]

    def write_views(
        self,
        source: FrameSource,
        views: Sequence[View],
        *,
        numbers: Sequence[Indices],
        rng: np.random.Generator | None,
        out: Tensor,
    ) -> list[Augmentation]:
        """Write the views of an open video to `out` and return the augmentation of each.

        Each chunk of frames goes to all views that show it before the next one is decoded. The
        decoded frames in memory grow neither with the number of clips nor with their length.

        Args:
            source: The video.
            views: Views to write.
            numbers: Frame numbers of each view, each of shape (T,).
            rng: Generator of a training sample, None for deterministic crops.
            out: Clips of shape (len(views), *clip_shape).

        Raises:
            DecodeError: If a frame is unreadable.
        """
        augmentations: list[Augmentation] = []
        remaining = np.unique(np.concatenate(numbers))
        chunks = source.read_in_chunks(remaining.tolist(), max_bytes=self.transform.chunk_bytes)

        for frames in chunks:
            if not augmentations:
                height, width = frames.shape[1:3]
                for view in views:
                    drawn = self.transform.draw(height, width, crop=view.crop, rng=rng)
                    augmentations.append(drawn)

            chunk, remaining = remaining[: len(frames)], remaining[len(frames) :]
            for view_numbers, augmentation, clip in zip(numbers, augmentations, out, strict=True):
                targets = np.flatnonzero((chunk[0] <= view_numbers) & (view_numbers <= chunk[-1]))
                if len(targets):
                    placement = Placement(np.searchsorted(chunk, view_numbers[targets]), targets)
                    self.transform.apply(frames, augmentation, out=clip, placement=placement)
            del frames  # free the memory before the next chunk is decoded

        for augmentation, clip in zip(augmentations, out, strict=True):
            self.transform.erase(augmentation, out=clip)
        return augmentations
