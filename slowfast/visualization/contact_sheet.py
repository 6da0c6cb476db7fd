"""What the model sees of a video: which frames, which part of them and what is done to it, as a table and a picture."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from slowfast.datasets.boxes import Box
from slowfast.datasets.build import VideoLoader
from slowfast.datasets.dataset import Transform
from slowfast.datasets.decode import VideoFile
from slowfast.datasets.records import View
from slowfast.datasets.transforms import Augmentation

THUMB = 128  # pixels, height of a frame on the sheet
MAX_COLUMNS = 8  # frames shown of a clip
COLORS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#42d4f4",
)  # of the boxes of crops or samples
LABEL = 14  # pixels, height of a line of text

Frames = NDArray[np.uint8]


class Look(NamedTuple):
    """One view of a video."""

    view: View
    numbers: NDArray[np.int64]  # of the frames, (T,)
    seconds: NDArray[np.float64] | None  # when they are shown, (T,), where the file says
    source: Frames  # these frames as they are decoded, (T, H, W, 3)
    box: Box  # the part of them that is seen
    done: str  # what is drawn at random and done to it, in words
    clip: Tensor  # what the model sees, (3, T, size, size)


def look_at(loader: VideoLoader, row: int) -> list[Look]:
    """Return the views that a loader takes of one video of its list, made by the same code and from the same draws.

    Raises:
        ValueError: the video cannot be read.
    """
    dataset, request = loader.dataset, loader.batch_sampler.request(row)
    rng = None if request.seed is None else np.random.default_rng(request.seed)
    clips = sorted({view.clip for view in request.views})
    seen = dataset[request]
    if seen.unreadable:
        raise ValueError(seen.unreadable[0].reason)
    looks: list[Look] = []
    with dataset.open_video(dataset.annotations[row]) as source:
        for clip, numbers in zip(
            clips, dataset.frame_numbers(source, clips=clips, rng=rng), strict=True
        ):
            frames = source.read(numbers.tolist())
            seconds = source.times[numbers] if isinstance(source, VideoFile) else None
            for view in (view for view in request.views if view.clip == clip):
                box, done = _box_of(dataset.transform, *frames.shape[1:3], crop=view.crop, rng=rng)
                looks.append(
                    Look(view, numbers, seconds, frames, box, done, seen.frames[len(looks)])
                )
    return looks


def _box_of(
    transform: Transform, height: int, width: int, *, crop: int, rng: np.random.Generator | None
) -> tuple[Box, str]:
    """The part of a frame that the next view shows, and what is done to it."""
    drawn = transform.draw(height, width, crop=crop, rng=rng)
    return drawn.box_in(height, width), _in_words(drawn)


def _in_words(drawn: Augmentation) -> str:
    words = [f"{name} {argument:.3g}" if argument else name for name, argument in drawn.operations]
    words += ["flipped"] if drawn.flipped else []
    words += [f"erased {box.height}x{box.width} at {box.top},{box.left}" for box in drawn.erased]
    return ", ".join(words)


def format_looks(looks: Sequence[Look]) -> str:
    """Return a table for a console: one line per view, its frames, their times, its box and what is done to it."""
    lines = ["view clip crop  box (top, left, height x width)  frames: seconds"]
    for look in looks:
        top, left, height, width = look.box
        times = (
            ""
            if look.seconds is None
            else ": " + " ".join(f"{second:.2f}" for second in look.seconds)
        )
        numbers = " ".join(map(str, look.numbers))
        box = f"{top}, {left}, {height} x {width}"
        lines.append(
            f"{look.view.number:4} {look.view.clip:4} {look.view.crop:4}  {box:<32}  {numbers}{times}"
        )
        lines += [f"{'':16}{look.done}"] if look.done else []
    return "\n".join(lines)


def draw_sheet(
    looks: Sequence[Look], *, mean: Sequence[float], std: Sequence[float], bgr: bool
) -> Image.Image:
    """Return a contact sheet: of each clip its frames with the boxes of its views, and below it what the model sees.

    Args:
        looks: of one video.
        mean: per channel, on [0, 1], that was taken off.
        std: per channel, on [0, 1], that was divided by.
        bgr: whether the channels come in the order blue, green, red.
    """
    strips: list[tuple[str, str, list[Image.Image]]] = []
    for clip in sorted({look.view.clip for look in looks}):
        views = [look for look in looks if look.view.clip == clip]
        columns = (
            np.linspace(0, len(views[0].numbers) - 1, min(len(views[0].numbers), MAX_COLUMNS))
            .round()
            .astype(int)
        )
        strips.append(
            (
                f"clip {clip}",
                "#000000",
                [_source_thumb(views, column, bgr=bgr) for column in columns],
            )
        )
        for look in views:
            color = COLORS[look.view.number % len(COLORS)]
            images = _as_images(look.clip, mean=mean, std=std, bgr=bgr)
            title = f"view {look.view.number}: crop {look.view.crop}" + (
                f", {look.done}" if look.done else ""
            )
            strips.append(
                (title, color, [images[column].resize((THUMB, THUMB)) for column in columns])
            )
    return _stack_strips(strips)


def _source_thumb(views: Sequence[Look], column: int, *, bgr: bool) -> Image.Image:
    """One decoded frame with its number, its time and the box of each view."""
    frame = views[0].source[column]
    image = Image.fromarray(np.ascontiguousarray(frame[..., ::-1] if bgr else frame))
    scale = THUMB / image.height
    image = image.resize((round(image.width * scale), THUMB))
    pen = ImageDraw.Draw(image)
    for look in views:
        top, left, height, width = look.box.scaled(scale, scale)
        color = COLORS[look.view.number % len(COLORS)]
        pen.rectangle((left, top, left + width - 1, top + height - 1), outline=color, width=2)
    seconds = views[0].seconds
    text = f"{views[0].numbers[column]}" + ("" if seconds is None else f"  {seconds[column]:.2f}s")
    pen.rectangle((0, THUMB - LABEL, pen.textlength(text) + 4, THUMB), fill="#000000")
    pen.text((2, THUMB - LABEL + 1), text, fill="#ffffff")
    return image


def _as_images(
    clip: Tensor, *, mean: Sequence[float], std: Sequence[float], bgr: bool
) -> list[Image.Image]:
    """The frames of a normalized clip (3, T, H, W) as pictures."""
    values = clip.permute(1, 2, 3, 0).numpy() * np.array(std) + np.array(
        mean
    )  # (3, T, H, W) -> (T, H, W, 3)
    frames = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return [
        Image.fromarray(np.ascontiguousarray(frame[..., ::-1] if bgr else frame))
        for frame in frames
    ]


def _stack_strips(strips: Sequence[tuple[str, str, list[Image.Image]]]) -> Image.Image:
    """Strips of pictures below each other, each under its title in its color."""
    column_width = max(image.width for _, _, images in strips for image in images) + 2
    size = (column_width * len(strips[0][2]), len(strips) * (THUMB + LABEL + 4))
    sheet = Image.new("RGB", size, "#ffffff")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    top = 0
    for title, color, images in strips:
        pen.text((2, top + 1), title, fill=color, font=font)
        for column, image in enumerate(images):
            sheet.paste(image, (column * column_width, top + LABEL))
        top += THUMB + LABEL + 4
    return sheet
