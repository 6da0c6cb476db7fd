"""Conversion of decoded frames and image files to uint8 arrays of shape (H, W, 3)."""

from collections.abc import Iterator
from itertools import islice

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from slowfast.datasets.decoding.damage import describe_error
from slowfast.datasets.frame_metadata import (
    UnsupportedFrameError,
    drop_transfer,
    read_color_matrix,
    read_orientation,
    sws_colorspace,
)
from slowfast.datasets.records import DecodeError

Frames = NDArray[np.uint8]


class FrameConverter:
    """Converts the decoded frames of one video to upright RGB or BGR images.

    Args:
        path: Path of the video, for messages.
        size: Width and height of the images before they are turned upright.
        bgr: Whether the channels are in the order blue, green, red.
    """

    def __init__(self, path: str, *, size: tuple[int, int], bgr: bool) -> None:
        self._path = path
        # A stream may change its size midway. Like a player, keep the size of the first frame.
        self._width, self._height = size
        self._pixel_format = "bgr24" if bgr else "rgb24"
        self._reformatter = VideoReformatter()  # shared by all frames: its tables are costly
        self._is_transposed: bool | None = None  # unknown until the first frame

    def to_image(self, frame: av.VideoFrame) -> Frames:
        """Return a frame as an array of shape (H, W, 3).

        Raises:
            DecodeError: If the colors or the orientation of the frame are not supported.
        """
        try:
            orientation, matrix = read_orientation(frame), read_color_matrix(frame)
            drop_transfer(frame)
            converted = self._reformatter.reformat(
                frame,
                width=self._width,
                height=self._height,
                format=self._pixel_format,
                src_colorspace=sws_colorspace(matrix),
                threads=1,
            )
        except UnsupportedFrameError as error:
            raise DecodeError(f"{self._path}: {error}") from error
        except av.FFmpegError as error:
            reason = f"cannot convert {frame.format.name} to RGB: {describe_error(error)}"
            raise DecodeError(f"{self._path}: {reason}") from error

        if self._is_transposed not in (None, orientation.is_transposed):
            raise DecodeError(
                f"{self._path}: some of its frames are upright, others lie on their side"
            )
        self._is_transposed = orientation.is_transposed

        image: Frames = converted.to_ndarray()  # type: ignore[assignment]
        return orientation.turn(image)


def to_rgb(image: Image.Image) -> Frames:
    """Return the pixels of an image file as an array of shape (H, W, 3).

    Of 16-bit values it keeps the upper 8 bits. Pillow does so for colors, but not for gray.

    Raises:
        DecodeError: If the range of the pixel values is unknown.
    """
    is_16_bit = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    )
    if is_16_bit:
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)  # (H, W) -> (H, W, 3)

    unknown_ranges = {"I": "32-bit integers", "F": "floating-point numbers"}
    if image.mode in unknown_ranges:
        raise DecodeError(
            f"its pixels are {unknown_ranges[image.mode]}, whose range is unknown; "
            "save them with 8 or 16 bits"
        )
    return np.asarray(image.convert("RGB"))


def stack_in_chunks(
    images: Iterator[Frames], *, num_frames: int, max_bytes: int
) -> Iterator[Frames]:
    """Yield images (H, W, 3) in stacks (N, H, W, 3) of at most `max_bytes` or one image."""
    num_left = num_frames
    while num_left:
        first = next(images)
        length = min(max(max_bytes // first.nbytes, 1), num_left)

        planes = empty_planes(length, first)
        planes[:, 0] = first.transpose(2, 0, 1)
        for index, image in enumerate(islice(images, length - 1), start=1):
            planes[:, index] = image.transpose(2, 0, 1)

        num_left -= length
        yield planes.transpose(1, 2, 3, 0)
        del planes, first


def empty_planes(num_frames: int, image: Frames) -> Frames:
    """Return an empty (3, N, H, W) array for frames like an image (H, W, 3).

    The model sees a clip in this order. Fill the array channel by channel and return it
    transposed to (N, H, W, 3).
    """
    return np.empty((3, num_frames, *image.shape[:2]), dtype=np.uint8)
