"""Contact sheet and table of the views that a loader samples from a video."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from slowfast.datasets.boxes import Box
from slowfast.datasets.build import VideoLoader
from slowfast.datasets.dataset import VideoDataset
from slowfast.datasets.normalization import to_pixels
from slowfast.datasets.records import Request, View
from slowfast.datasets.transforms import Augmentation

THUMB = 128  # pixels, height of a frame on the sheet
LABEL = 14  # pixels, height of a line of text
GAP = 4  # pixels between strips
MAX_COLUMNS = 8  # maximum number of frames shown of a clip

# Colors of the views and their boxes.
COLORS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#42d4f4",
)

Frames = NDArray[np.uint8]


class SampledClip(NamedTuple):
    """The decoded frames of one temporal clip."""

    numbers: NDArray[np.int64]  # frame numbers, (T,)
    seconds: NDArray[np.float64] | None  # presentation times, (T,), None for frame folders
    frames: Frames  # (T, H, W, 3)


class SampledView(NamedTuple):
    """One view of a video, with the frames it comes from and what was done to them."""

    view: View
    source: SampledClip
    box: Box  # region of the source frames that the view shows
    augmentation: str  # random augmentation in words, may be empty
    clip: Tensor  # input of the model, (3, T, size, size)

    @property
    def color(self) -> str:
        """Color of the view on the sheet."""
        return COLORS[self.view.number % len(COLORS)]


class _Strip(NamedTuple):
    title: str
    color: str
    images: list[Image.Image]


def sample_views(loader: VideoLoader, row: int) -> list[SampledView]:
    """Return the views that a loader samples from a video, from the same draws as in training.

    Args:
        loader: Loader of the split.
        row: Row of the video in the annotation list.

    Raises:
        ValueError: If the video is unreadable.
    """
    dataset, request = loader.dataset, loader.batch_sampler.request(row)
    batch = dataset[request]
    if batch.unreadable:
        raise ValueError(batch.unreadable[0].reason)

    rng = None if request.seed is None else np.random.default_rng(request.seed)
    sources = _decode_clips(dataset, request, rng=rng)

    views = []
    for view, clip in zip(request.views, batch.frames, strict=True):
        source = sources[view.clip]
        height, width = source.frames.shape[1:3]
        drawn = dataset.reader.transform.draw(height, width, crop=view.crop, rng=rng)
        box = drawn.box_in(height, width)
        views.append(SampledView(view, source, box, _describe(drawn), clip))
    return views


def _decode_clips(
    dataset: VideoDataset, request: Request, *, rng: np.random.Generator | None
) -> dict[int, SampledClip]:
    """Return the temporal clips of a request by their index."""
    clips = sorted({view.clip for view in request.views})
    decoded = {}
    with dataset.reader.open_video(dataset.annotations[request.video_index]) as video:
        numbers_by_clip = dataset.reader.frame_numbers(video, clips=clips, rng=rng)
        for clip, numbers in zip(clips, numbers_by_clip, strict=True):
            frames = video.read(numbers.tolist())
            seconds = video.timing.starts[numbers] if video.timing else None
            decoded[clip] = SampledClip(numbers, seconds, frames)
    return decoded


def _describe(drawn: Augmentation) -> str:
    words = []
    for name, argument in drawn.operations:
        words.append(f"{name} {argument:.3g}" if argument else name)
    if drawn.flipped:
        words.append("flipped")
    for box in drawn.erased:
        words.append(f"erased {box.height}x{box.width} at {box.top},{box.left}")
    return ", ".join(words)


def format_views(views: Sequence[SampledView]) -> str:
    """Return a table with one line per view: frame numbers, times, box and augmentation."""
    lines = ["view clip crop  box (top, left, height x width)  frames: seconds"]
    for sampled in views:
        number, clip, crop = sampled.view
        top, left, height, width = sampled.box
        box = f"{top}, {left}, {height} x {width}"
        frames = " ".join(map(str, sampled.source.numbers))
        if sampled.source.seconds is not None:
            frames += ": " + " ".join(f"{second:.2f}" for second in sampled.source.seconds)

        lines.append(f"{number:4} {clip:4} {crop:4}  {box:<32}  {frames}")
        if sampled.augmentation:
            lines.append(f"{'':16}{sampled.augmentation}")
    return "\n".join(lines)


def draw_sheet(
    views: Sequence[SampledView], *, mean: Sequence[float], std: Sequence[float], bgr: bool
) -> Image.Image:
    """Return a contact sheet with two kinds of strips.

    The first strip of a clip shows its decoded frames with the boxes of its views. The strips below
    it show the input of the model, one per view.

    Args:
        views: Views of one video.
        mean: Mean of each channel that normalization subtracted, in the range [0, 1].
        std: Standard deviation of each channel that it divided by, in the range [0, 1].
        bgr: Whether the channels are in the order blue, green, red.
    """
    strips = []
    for clip in sorted({sampled.view.clip for sampled in views}):
        views_of_clip = [sampled for sampled in views if sampled.view.clip == clip]
        columns = _choose_columns(len(views_of_clip[0].source.numbers))

        thumbs = [_draw_source(views_of_clip, column, bgr=bgr) for column in columns]
        strips.append(_Strip(f"clip {clip}", "#000000", thumbs))

        for sampled in views_of_clip:
            images = _to_images(sampled.clip, mean=mean, std=std, bgr=bgr)
            thumbs = [images[column].resize((THUMB, THUMB)) for column in columns]
            title = f"view {sampled.view.number}: crop {sampled.view.crop}"
            if sampled.augmentation:
                title += f", {sampled.augmentation}"
            strips.append(_Strip(title, sampled.color, thumbs))
    return _stack_strips(strips)


def _choose_columns(num_frames: int) -> list[int]:
    """Return the indices of at most MAX_COLUMNS evenly spaced frames."""
    columns = np.linspace(0, num_frames - 1, min(num_frames, MAX_COLUMNS))
    return columns.round().astype(int).tolist()


def _draw_source(views: Sequence[SampledView], column: int, *, bgr: bool) -> Image.Image:
    """Return a thumbnail of a decoded frame with its number, time and boxes of views."""
    source = views[0].source
    image = _to_image(source.frames[column], bgr=bgr)
    scale = THUMB / image.height
    image = image.resize((round(image.width * scale), THUMB))

    pen = ImageDraw.Draw(image)
    for sampled in views:
        top, left, height, width = sampled.box.scaled(scale, scale)
        corners = (left, top, left + width - 1, top + height - 1)
        pen.rectangle(corners, outline=sampled.color, width=2)

    text = str(source.numbers[column])
    if source.seconds is not None:
        text += f"  {source.seconds[column]:.2f}s"
    pen.rectangle((0, THUMB - LABEL, pen.textlength(text) + 4, THUMB), fill="#000000")
    pen.text((2, THUMB - LABEL + 1), text, fill="#ffffff")
    return image


def _to_images(
    clip: Tensor, *, mean: Sequence[float], std: Sequence[float], bgr: bool
) -> list[Image.Image]:
    """Return the frames of a clip (3, T, H, W) as images."""
    return [_to_image(frame, bgr=bgr) for frame in to_pixels(clip, mean=mean, std=std)]


def _to_image(frame: Frames, *, bgr: bool) -> Image.Image:
    if bgr:
        frame = frame[..., ::-1]
    return Image.fromarray(np.ascontiguousarray(frame))


def _stack_strips(strips: Sequence[_Strip]) -> Image.Image:
    """Return the strips below each other, each with its title above it."""
    widths = [image.width for strip in strips for image in strip.images]
    column_width = max(widths) + 2
    strip_height = THUMB + LABEL + GAP
    size = (column_width * len(strips[0].images), strip_height * len(strips))

    sheet = Image.new("RGB", size, "#ffffff")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for index, strip in enumerate(strips):
        top = index * strip_height
        pen.text((2, top + 1), strip.title, fill=strip.color, font=font)
        for column, image in enumerate(strip.images):
            sheet.paste(image, (column * column_width, top + LABEL))
    return sheet
