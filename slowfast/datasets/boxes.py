"""Rectangular regions of a frame in whole pixels: random boxes, evenly spread crops and tiles."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_ATTEMPTS = 10  # draws of a box before random_box gives up

Planes = NDArray[np.uint8]  # (3, T, H, W), usually with each frame of a channel contiguous


class Box(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices of its rows and its columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def scaled(self, rows: float, columns: float) -> "Box":
        """Return the box after a resize by these factors, rounded to whole pixels."""
        top, bottom = round(self.top * rows), round((self.top + self.height) * rows)
        left, right = round(self.left * columns), round((self.left + self.width) * columns)
        return Box(top, left, bottom - top, right - left)

    def within(self, outer: "Box") -> "Box":
        """Return the same box relative to the top left corner of another one."""
        return self._replace(top=self.top - outer.top, left=self.left - outer.left)

    def tiles(self, side: int) -> Iterator["Box"]:
        """Split the box into squares of this side. Tiles at the right and bottom may be smaller."""
        for top in range(0, self.height, side):
            for left in range(0, self.width, side):
                height, width = min(side, self.height - top), min(side, self.width - left)
                yield Box(self.top + top, self.left + left, height, width)


def enclosing_box(rows: tuple[int, int], columns: tuple[int, int], *, frame: Box) -> Box:
    """Return the box of a range of rows and columns, with both ends clamped to the frame.

    A range outside the frame becomes the nearest pixels at its edge.
    """
    top, bottom = (min(max(row, 0), frame.height - 1) for row in rows)
    left, right = (min(max(column, 0), frame.width - 1) for column in columns)
    return Box(top, left, bottom - top + 1, right - left + 1)


def cut_out(planes: Planes, box: Box) -> Planes:
    """Return the pixels of a box as a view of the planes.

    Args:
        planes: Pixels of shape (3, T, H, W).
        box: The box to cut out.

    Returns:
        Shape (3, T, box.height, box.width).
    """
    rows, columns = box.slices
    return planes[:, :, rows, columns]


def short_side_size(height: int, width: int, *, short_side: int) -> tuple[int, int]:
    """Return the height and width of a frame after its short side is resized to `short_side`.

    The long side keeps the proportion and is truncated to whole pixels.
    """
    if height <= width:
        return short_side, width * short_side // height
    return height * short_side // width, short_side


def uniform_box(height: int, width: int, *, size: int, crop: int) -> Box:
    """Return one of three square crops spread along the long side of a frame.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        size: Side of the crop in pixels.
        crop: 0 for left or top, 1 for center, 2 for right or bottom.

    Raises:
        ValueError: If the frame is smaller than the crop, or `crop` is not 0, 1 or 2.

    Source: Wang et al., Non-local Neural Networks, arXiv:1711.07971, sec. 4.1.
    """
    if size > min(height, width) or crop not in (0, 1, 2):
        raise ValueError(
            f"there is no crop {crop} of {size}x{size} pixels in a frame of {height}x{width}"
        )

    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        top = (0, top, height - size)[crop]
    else:
        left = (0, left, width - size)[crop]
    return Box(top, left, size, size)


def random_box(
    height: int,
    width: int,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    max_size: tuple[int, int],
    rng: np.random.Generator,
) -> Box | None:
    """Return a random box of a frame, uniform in area, log aspect and position.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        area: Minimum and maximum area in pixels.
        aspect: Minimum and maximum width / height.
        max_size: Maximum height and width in pixels.
        rng: Generator of the draws.

    Returns:
        The first box that fits, or None if none of NUM_ATTEMPTS draws does.
    """
    max_height, max_width = max_size

    for _ in range(NUM_ATTEMPTS):
        pixels = rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_height, box_width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))

        if 0 < box_height <= max_height and 0 < box_width <= max_width:
            top = int(rng.integers(height - box_height, endpoint=True))
            left = int(rng.integers(width - box_width, endpoint=True))
            return Box(top, left, box_height, box_width)
    return None


def random_resized_box(
    height: int,
    width: int,
    *,
    scale: Sequence[float],
    aspect: Sequence[float],
    rng: np.random.Generator,
) -> Box:
    """Return the box of a random resized crop, uniform in area and log aspect.

    Args:
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        scale: Minimum and maximum fraction of the frame area.
        aspect: Minimum and maximum width / height.
        rng: Generator of the draws.

    Returns:
        A box inside the frame. If no draw fits, the largest centered box within `aspect`.

    Source: Szegedy et al., Going Deeper with Convolutions, arXiv:1409.4842, sec. 6.
    """
    area = (scale[0] * height * width, scale[1] * height * width)
    limits = (aspect[0], aspect[1])
    box = random_box(height, width, area=area, aspect=limits, max_size=(height, width), rng=rng)
    if box is not None:
        return box

    box_width = min(width, round(height * aspect[1]))
    box_height = min(height, round(width / aspect[0]))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)
