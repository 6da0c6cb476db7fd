"""Rectangles of a frame in whole pixels: drawn at random, grown, and cut out of frames."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 10  # of a box that must fit the frame

Planes = NDArray[np.uint8]  # (3, T, H, W): each frame of each channel in one piece


class Box(NamedTuple):
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def scaled(self, rows: float, columns: float) -> "Box":
        """Return the rectangle after a resize by these factors, in whole pixels."""
        top, bottom = (round(row * rows) for row in (self.top, self.top + self.height))
        left, right = (round(column * columns) for column in (self.left, self.left + self.width))
        return Box(top, left, bottom - top, right - left)

    def within(self, outer: "Box") -> "Box":
        """Return the same rectangle, counted from the top left corner of another one."""
        return self._replace(top=self.top - outer.top, left=self.left - outer.left)

    def tiles(self, side: int) -> Iterator["Box"]:
        """Cut it into squares of this side, smaller at the right and the bottom."""
        for top in range(0, self.height, side):
            for left in range(0, self.width, side):
                height, width = min(side, self.height - top), min(side, self.width - left)
                yield Box(self.top + top, self.left + left, height, width)


def spanning(rows: tuple[int, int], columns: tuple[int, int], *, frame: Box) -> Box:
    """Return the box from the first to the last row and column, both included, as far as it lies in the frame.

    What lies outside becomes the pixels at the edge of the frame that are nearest to it.
    """
    top, bottom = (min(max(row, 0), frame.height - 1) for row in rows)
    left, right = (min(max(column, 0), frame.width - 1) for column in columns)
    return Box(top, left, bottom - top + 1, right - left + 1)


def random_box(
    height: int,
    width: int,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    largest: tuple[int, int],
    rng: np.random.Generator,
) -> Box | None:
    """Return a random box of a frame: its area uniform, its aspect uniform in the logarithm, its place uniform.

    Args:
        height: of the frame.
        width: of the frame.
        area: least and largest, in pixels.
        aspect: least and largest width / height.
        largest: height and width that the box may have.
        rng: source of the draws.

    Returns:
        None if none of NUM_DRAWS draws is small enough.
    """
    for _ in range(NUM_DRAWS):
        pixels = rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_height, box_width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < box_height <= largest[0] and 0 < box_width <= largest[1]:
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
    """Return a random box of a frame: its share of the area uniform, its aspect uniform in the logarithm.

    Args:
        height: of the frame.
        width: of the frame.
        scale: [min, max] share of the frame's area.
        aspect: [min, max] width / height of the box.
        rng: source of the draws.

    Returns:
        a box inside the frame; the largest central one within `aspect` if no draw fits.

    Source: Szegedy et al., Going Deeper with Convolutions, arXiv:1409.4842, sec. 6.
    """
    area = (scale[0] * height * width, scale[1] * height * width)
    limits = (aspect[0], aspect[1])
    box = random_box(height, width, area=area, aspect=limits, largest=(height, width), rng=rng)
    if box is not None:
        return box
    box_width = min(width, round(height * aspect[1]))
    box_height = min(height, round(width / aspect[0]))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def cut_out(planes: Planes, box: Box) -> Planes:
    """Return the pixels of a box, (3, T, height, width), of planes (3, T, H, W), as a view."""
    rows, columns = box.slices
    return planes[:, :, rows, columns]
