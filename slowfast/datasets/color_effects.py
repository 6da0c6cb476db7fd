"""Color, sharpness and blur effects of RandAugment on clips, bit-identical to Pillow."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from slowfast.datasets.boxes import Box, Planes, cut_out, enclosing_box
from slowfast.datasets.effects import Effect, EffectStep

VALUES = np.arange(256)
LUMA_WEIGHTS = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # red, green, blue, as in Pillow

# New value for each of the values 0 to 255, truncated to an integer when it is applied. Shape
# (256,), (T, 256) for a table per frame, or (3, T, 256) for a table per plane.
Levels = NDArray[Any]


class _Recoloring(NamedTuple):
    """Replaces each value by table lookup."""

    levels: Callable[[float], Levels]

    def input_region(self, wanted: Box, *, argument: float, frame: Box) -> Box:
        return wanted

    def apply(self, planes: Planes, step: EffectStep) -> Planes:
        return _apply_levels(planes, self.levels(step.argument))


class _FrameRecoloring(NamedTuple):
    """Replaces each value by lookup in a table that is computed from the whole frame."""

    levels: Callable[[Planes, float], Levels]

    def input_region(self, wanted: Box, *, argument: float, frame: Box) -> Box:
        return frame

    def apply(self, planes: Planes, step: EffectStep) -> Planes:
        planes = np.ascontiguousarray(planes)
        levels = self.levels(planes, step.argument)
        return _apply_levels(cut_out(planes, step.wanted), levels)


class _Filter(NamedTuple):
    """Computes each pixel from the channels of the pixels at most `reach` away."""

    reach: Callable[[float], int]
    function: Callable[[Planes, float], Planes]  # applied to one frame, (3, H, W)

    def input_region(self, wanted: Box, *, argument: float, frame: Box) -> Box:
        top, left, height, width = wanted
        reach = self.reach(argument)
        rows = (top - reach, top + height - 1 + reach)
        columns = (left - reach, left + width - 1 + reach)
        return enclosing_box(rows, columns, frame=frame)

    def apply(self, planes: Planes, step: EffectStep) -> Planes:
        rows, columns = step.wanted.within(step.region).slices
        num_frames = planes.shape[1]
        result = np.empty((3, num_frames, step.wanted.height, step.wanted.width), np.uint8)

        # One frame at a time keeps the intermediate values in the CPU cache.
        for index in range(num_frames):
            image = np.ascontiguousarray(planes[:, index])
            result[:, index] = self.function(image, step.argument)[:, rows, columns]
        return result


def _apply_levels(planes: Planes, levels: Levels) -> Planes:
    result = np.empty(planes.shape, np.uint8)
    tables = np.broadcast_to(levels.astype(np.uint8), (*planes.shape[:2], 256))

    # bytes.translate is several times faster than indexing an array with uint8.
    for index in np.ndindex(planes.shape[:2]):
        values = planes[index].tobytes().translate(tables[index].tobytes())
        result[index] = np.frombuffer(values, np.uint8).reshape(planes.shape[2:])
    return result


def _to_gray(frame: Planes) -> NDArray[np.uint8]:
    """Return the luma of a frame (3, H, W), rounded as in Pillow. The sums are exact in float32."""
    luma = np.full(frame.shape[1:], 0.5, np.float32)
    for channel, weight in zip(frame, LUMA_WEIGHTS, strict=True):
        luma += np.multiply(channel, weight, dtype=np.float32)
    return luma.astype(np.uint8)


def _blend(base: NDArray[Any] | int, image: NDArray[Any], factor: float) -> NDArray[np.uint8]:
    """Return base + factor * (image - base), clipped and truncated to uint8."""
    mixed = np.subtract(image, base, dtype=np.float32)
    mixed *= np.float32(factor)
    mixed += base
    return mixed.clip(0, 255, out=mixed).astype(np.uint8)


def _contrast(planes: Planes, factor: float) -> Levels:
    """Return levels that move away from the mean luma of each frame, shape (T, 256)."""
    levels = []
    for index in range(planes.shape[1]):
        mean = int(_to_gray(planes[:, index]).mean() + 0.5)
        levels.append(_blend(mean, VALUES, factor))
    return np.stack(levels)


def _autocontrast(planes: Planes, unused: float) -> Levels:
    """Return levels that stretch each plane to the full range, shape (3, T, 256)."""
    darkest = planes.min(axis=(2, 3))[..., None].astype(float)
    lightest = planes.max(axis=(2, 3))[..., None].astype(float)
    scale = 255 / np.maximum(lightest - darkest, 1)
    return np.where(lightest > darkest, (VALUES * scale - darkest * scale).clip(0, 255), VALUES)


def _equalize(planes: Planes, unused: float) -> Levels:
    """Return levels that flatten the histogram of each plane, shape (3, T, 256)."""
    counts = _count_values(planes)
    last = 255 - (counts[..., ::-1] > 0).argmax(axis=-1, keepdims=True)
    step = (planes[0, 0].size - np.take_along_axis(counts, last, axis=-1)) // 255
    below = counts.cumsum(axis=-1) - counts
    return np.where(step > 0, ((step // 2 + below) // step.clip(1)).clip(0, 255), VALUES)


def _count_values(planes: Planes) -> NDArray[np.int64]:
    """Return the histogram of each plane, shape (3, T, 256)."""
    height, width = planes.shape[2:]
    histograms = []
    for plane in planes.reshape(-1, height, width):
        image = Image.frombuffer("L", (width, height), plane.tobytes())
        histograms.append(image.histogram())
    return np.array(histograms).reshape(*planes.shape[:2], 256)


def _sharpen(frame: Planes, factor: float) -> Planes:
    """Move a frame (3, H, W) away from its 3x3 mean, in which the center counts five times."""
    sums = frame.astype(np.uint16)
    sums = sums[:, :-2] + sums[:, 1:-1] + sums[:, 2:]
    sums = sums[..., :-2] + sums[..., 1:-1] + sums[..., 2:]

    smooth = frame.copy()  # the pixels at the edge stay unchanged
    smooth[:, 1:-1, 1:-1] = (sums + 4 * frame[:, 1:-1, 1:-1].astype(np.uint16) + 6) // 13
    return _blend(smooth, frame, factor)


def _blur(frame: Planes, radius: float) -> Planes:
    gaussian = ImageFilter.GaussianBlur(radius)
    return np.stack([np.asarray(Image.fromarray(plane).filter(gaussian)) for plane in frame])


def _saturate(frame: Planes, factor: float) -> Planes:
    return _blend(_to_gray(frame), frame, factor)


def _desaturate(frame: Planes, fraction: float) -> Planes:
    return _saturate(frame, min(max(1 - fraction, 0), 1))


def _add_to_dark_values(added: float) -> Levels:
    return np.where(VALUES < 128, np.minimum(VALUES + added, 255), VALUES)


COLOR_EFFECTS: dict[str, Effect] = {
    "Invert": _Recoloring(lambda _: 255 - VALUES),
    "Posterize": _Recoloring(lambda bits: VALUES >> (8 - int(bits)) << (8 - int(bits))),
    "Solarize": _Recoloring(lambda level: np.where(level > VALUES, VALUES, 255 - VALUES)),
    "SolarizeAdd": _Recoloring(_add_to_dark_values),
    "Brightness": _Recoloring(lambda factor: _blend(0, VALUES, factor)),
    "Contrast": _FrameRecoloring(_contrast),
    "AutoContrast": _FrameRecoloring(_autocontrast),
    "Equalize": _FrameRecoloring(_equalize),
    "Color": _Filter(lambda _: 0, _saturate),
    "Desaturate": _Filter(lambda _: 0, _desaturate),
    "Sharpness": _Filter(lambda _: 1, _sharpen),
    "GaussianBlur": _Filter(lambda radius: 3 * (math.ceil(radius) + 1), _blur),
}
