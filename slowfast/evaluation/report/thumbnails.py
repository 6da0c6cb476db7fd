"""Thumbnails of videos: strips of frames as small JPEG files inside the report page."""

import base64
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NUM_FRAMES = 4  # frames of a strip
SIDE = 112  # pixels, shorter side of a frame in a strip
_MAX_ASPECT = 2.5  # longer side of a frame by its shorter side
_QUALITY = 70


class Thumbnail(NamedTuple):
    """The thumbnail of a video, or why there is none."""

    row: int  # index in the list
    image: str  # data URI, "" if there is none
    note: str = ""  # why there is none


def draw_thumbnail(frames: NDArray[np.uint8]) -> str:
    """Return a strip of evenly spaced frames as the data URI of a JPEG file.

    Args:
        frames: RGB frames of shape (T, H, W, 3) or (3, T, H, W).

    Raises:
        ValueError: If the shape is another one, or there are no frames.
    """
    if frames.ndim == 4 and frames.shape[-1] != 3 and frames.shape[0] == 3:
        frames = frames.transpose(1, 2, 3, 0)  # (3, T, H, W) -> (T, H, W, 3)
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames have shape {frames.shape}. Pass (T, H, W, 3) or (3, T, H, W)")

    height, width = _size(*frames.shape[1:3])
    num_shown = min(NUM_FRAMES, len(frames))
    indices = np.linspace(0, len(frames) - 1, num_shown).round().astype(int)

    strip = Image.new("RGB", (width * num_shown, height))
    for column, index in enumerate(indices):
        image = Image.fromarray(np.ascontiguousarray(frames[index]))
        strip.paste(image.resize((width, height), Image.Resampling.BILINEAR), (column * width, 0))

    return to_data_uri(strip)


def to_data_uri(image: Image.Image) -> str:
    """Return an image as the data URI of a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _size(height: int, width: int) -> tuple[int, int]:
    """Return the size of a frame in a strip. Extremely long frames are squeezed."""
    scale = SIDE / min(height, width)
    longest = round(_MAX_ASPECT * SIDE)
    return min(round(height * scale), longest), min(round(width * scale), longest)
