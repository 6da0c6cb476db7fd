"""Inputs of a classifier: files, addresses, frame folders, arrays of frames and open decoders."""

import os
import re
from collections.abc import Sequence
from os.path import isdir, join
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.decode import DecodeError, FrameArray, FrameFolder, FrameSource, VideoFile
from slowfast.datasets.decoding.frame_decoder import FrameDecoder
from slowfast.datasets.folders import is_video_name

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


@runtime_checkable
class Decoder(Protocol):
    """An open video of your own: RGB frames by number.

    If it has `fps`, clips get times, and a model for a constant frame rate gets that rate.
    """

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        ...

    def read(self, numbers: Sequence[int]) -> NDArray[np.uint8]:
        """Return the frames with some numbers, shape (N, H, W, 3)."""
        ...


Input: TypeAlias = str | Path | Tensor | NDArray | Decoder


def open_input(
    x: Input,
    *,
    bgr: bool,
    fps: float | None = None,
    template: str,
    allow_truncated: bool = False,
    max_pixels: int,
) -> FrameSource:
    """Open an input as a source of frames.

    Args:
        x: Path or address of a video file, folder of images, frames of shape (T, H, W, 3) uint8, or
            a `Decoder`. Arrays and decoders have RGB frames.
        bgr: Whether the model sees the channels in the order blue, green, red.
        fps: Frames per second of an array. None if it is unknown.
        template: File name of an image as a format string of its number, DATA.IMAGE_TEMPLATE. Other
            names that end in a number are recognized too.
        allow_truncated: Whether to read a file without its end, DATA.ALLOW_TRUNCATED.
        max_pixels: Maximum number of pixels of a frame.

    Raises:
        DecodeError: If the input has no readable frames.
        TypeError: If it is none of these.
        ValueError: If an array has another shape or dtype, or the frame rate is not positive.
    """
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}. Give the number of frames per second, such as 25")

    if isinstance(x, str | Path):
        path = os.path.expanduser(x)
        if isdir(path):
            return FrameFolder(path, template=_find_template(path, template), bgr=bgr)
        return VideoFile(path, bgr=bgr, allow_truncated=allow_truncated, max_pixels=max_pixels)

    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    if isinstance(x, np.ndarray):
        return FrameArray(_check_frames(x), fps=fps, bgr=bgr)
    if isinstance(x, Decoder):
        return FrameDecoder(x, fps=fps, bgr=bgr)
    raise TypeError(
        f"cannot read a {type(x).__name__}. Give a path, an address, frames (T, H, W, 3) of uint8, "
        "or a decoder with num_frames and read(numbers)"
    )


def input_name(x: Input) -> str:
    """Return the name of an input for messages and results."""
    if isinstance(x, str | Path):
        return str(x)
    return str(getattr(x, "path", "frames"))


def _check_frames(frames: NDArray) -> NDArray[np.uint8]:
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        remedy = "Frames have the shape (T, H, W, 3)"
        if frames.ndim == 4 and frames.shape[1] == 3:
            remedy += ". Move the channels to the end: frames.permute(0, 2, 3, 1)"
        elif frames.ndim == 4 and frames.shape[0] == 3:
            remedy += ". Move the channels to the end: frames.permute(1, 2, 3, 0)"
        elif frames.ndim == 4 and frames.shape[-1] in (1, 4):
            remedy += ": convert them to RGB"
        elif frames.ndim == 3:
            remedy += ". Give one image as image[None], and repeat gray values for each channel"
        raise ValueError(f"the frames have the shape {frames.shape}. {remedy}")

    if frames.dtype != np.uint8:
        values = frames[np.isfinite(frames)] if frames.dtype.kind == "f" else frames
        found = f"from {values.min():g} to {values.max():g}" if values.size else "none finite"
        raise ValueError(
            f"the frames are {frames.dtype}, {found}. Give the pixels as uint8, from 0 to 255, "
            "without normalization"
        )
    return frames


def _find_template(folder: str, template: str) -> str:
    """Return the template of the names of the images in a folder.

    Raises:
        DecodeError: If there are no numbered images.
    """
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    if any(template.format(first) in names for first in (0, 1)):
        return template

    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    if found := _common_template(images):
        return found
    if images:
        raise DecodeError(
            f"{folder}: its images are not one numbered sequence: {', '.join(images[:3])} ... Name "
            f"them as {template.format(1)}, {template.format(2)} ..."
        )

    problem = "has no images and no videos"
    if videos := [name for name in names if is_video_name(name)]:
        problem = f"is a folder of videos. Name a file in it, such as {join(folder, videos[0])}"
    raise DecodeError(f"{folder}: {problem}")


def _common_template(names: Sequence[str]) -> str:
    """Return the template of names that differ only in their last number, "" if others differ."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*\.\w+)", name) for name in names]
    matches = [match for match in parts if match is not None]
    affixes = {match.group(1, 3) for match in matches}
    if len(matches) < len(names) or len(affixes) != 1:
        return ""

    before, after = (text.replace("{", "{{").replace("}", "}}") for text in affixes.pop())
    width = min(len(match[2]) for match in matches)
    return f"{before}{{:0{width}d}}{after}"
