"""Clips to compare an exported model with: from real videos, or of noise."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from slowfast.datasets.clip_reader import ClipReader
from slowfast.datasets.normalization import (
    ClipFormat,
    Float32Clips,
    Uint8Clips,
    normalizing_scaling,
)
from slowfast.datasets.transforms import EvalTransform
from slowfast.exporting.capture import ExportOptions
from slowfast.inference.classifier import Classifier
from slowfast.inference.clip_settings import ClipSettings
from slowfast.inference.view_reader import ViewReader

_NOISE_SEED = 0


def read_clips(
    classifier: Classifier,
    options: ExportOptions,
    videos: Sequence[str],
    *,
    num_clips: int,
    report: Callable[[str], None],
    extra: int = 0,
) -> Iterator[Tensor]:
    """Iterate over clips of videos as an exported model takes them, each (C, T, H, W).

    The clips are spread over the videos, and in each video over its length. All are center crops.

    Args:
        classifier: The classifier.
        options: What the exported model takes.
        videos: Paths or addresses of videos, at least one.
        num_clips: Number of clips if all videos are readable.
        report: Function that takes the reason why a video is unreadable.
        extra: Number of pixels that the clips are wider than those of the classifier.
    """
    settings = classifier.settings
    size = settings.crop_size
    reader = _reader_of(classifier, options, extra=extra)

    num_videos = min(num_clips, len(videos))
    for position in range(num_videos):
        video = videos[position * len(videos) // num_videos]
        first, last = (end * num_clips // num_videos for end in (position, position + 1))
        views = reader.read(video, num_clips=last - first, num_crops=1)
        if views.reason:
            report(views.reason)
        for clip in views.frames:
            yield clip[:, :, :size]  # (C, T, size + extra, size + extra) -> (C, T, size, ...)


def noise_clips(
    settings: ClipSettings, options: ExportOptions, *, num_clips: int, extra: int = 0
) -> Iterator[Tensor]:
    """Iterate over clips of uniform noise, always the same, see `read_clips`."""
    rng = torch.Generator().manual_seed(_NOISE_SEED)
    scale, shift = map(torch.from_numpy, normalizing_scaling(settings.mean, settings.std))
    size = settings.crop_size
    shape = (len(settings.mean), settings.num_frames, size, size + extra)

    for _ in range(num_clips):
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
        if options.uint8:
            yield pixels
        else:
            yield pixels * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1)


def _reader_of(classifier: Classifier, options: ExportOptions, *, extra: int) -> ViewReader:
    """Return the reader of a classifier for other clips."""
    settings, reader = classifier.settings, classifier.reader.clip_reader
    clip_format: ClipFormat = Uint8Clips()
    if not options.uint8:
        clip_format = Float32Clips(mean=settings.mean, std=settings.std)

    transform = EvalTransform(
        short_side=settings.short_side + extra,
        crop_size=settings.crop_size + extra,
        clip_format=clip_format,
    )
    clip_reader = ClipReader(
        reader.open_video,
        clips=reader.clips,
        transform=transform,
        target_fps=reader.target_fps,
        refuse_short=reader.refuse_short,
    )
    return ViewReader(clip_reader, settings)
