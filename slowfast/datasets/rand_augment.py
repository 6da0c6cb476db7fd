"""RandAugment on clips: timm's policies draw the operations, which are done here on all frames of a clip at once.

Of each image on the way only the region is computed that the wanted box of the last one depends on.
"""

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from slowfast.datasets.boxes import Box, Planes, cut_out, spanning

FILL = 128  # color of what a rotation, a shear or a shift brings in from outside the frame
ROUNDING = (
    2.0**-12
)  # more than the error of a weighted sum in float32; added before its fraction is cut off
TILE = 128  # pixels, side of what is warped at once: what that takes then stays in the cache
VALUES = np.arange(256)

Levels = NDArray[
    Any
]  # what the values 0 to 255 become, cut off: (256,), or one row for each frame or each plane
Matrix = tuple[
    float, float, float, float, float, float
]  # a pixel at x, y comes from a x + b y + c, d x + e y + f


class Operation(NamedTuple):
    """One drawn operation: its name, and its argument in the operation's own unit; 0 where it takes none."""

    name: str
    argument: float = 0.0


class RandAugment:
    """RandAugment by timm's policies: the draws are timm's, the results Pillow's.

    Colors and sharpness equal Pillow's in every bit. Rotations, shears and shifts are summed in float32 where Pillow
    takes float64: fewer than one value in a thousand differs, by one level.

    Args:
        policy: in timm's notation, as rand-m7-n4-mstd0.5-inc1: magnitude 7, 4 operations, ...
        interpolation: of rotations, shears and shifts: nearest | bilinear | bicubic.

    Raises:
        ValueError: timm does not understand the policy, or there is no such interpolation.

    Source: Cubuk et al., RandAugment, arXiv:1909.13719.
    """

    def __init__(self, policy: str, *, interpolation: str) -> None:
        if interpolation not in _KERNELS:
            raise ValueError(
                f"{interpolation!r} is not an interpolation; choose from {', '.join(_KERNELS)}"
            )
        try:
            self._policy = rand_augment_transform(policy, {"interpolation": None})
        except (AssertionError, ValueError, TypeError) as error:
            raise ValueError(
                f"{policy!r} is not a RandAugment policy such as rand-m7-n4-mstd0.5-inc1"
            ) from error
        self._effects: dict[str, _Effect] = dict(_COLORS)
        self._effects |= {
            name: _Warp(matrix, _KERNELS[interpolation]) for name, matrix in _MATRICES.items()
        }
        for operation in self._policy.ops:
            # Where timm would call a function on an image, it now returns what it has drawn.
            operation.aug_fn = _recorder(operation.name.removesuffix("Increasing"))

    def draw(self, rng: np.random.Generator) -> tuple[Operation, ...]:
        """Return the operations for one clip, in the order in which they are done."""
        policy = self._policy
        chosen = rng.choice(
            len(policy.ops),
            policy.num_layers,
            replace=policy.choice_weights is None,
            p=policy.choice_weights,
        )
        state = random.getstate()
        random.seed(
            int(rng.integers(2**32))
        )  # timm's operations draw from Python's global generator
        try:
            drawn = [policy.ops[number](None) for number in chosen]
        finally:
            random.setstate(state)
        return tuple(operation for operation in drawn if operation is not None)

    def apply(
        self, frames: NDArray[np.uint8], operations: tuple[Operation, ...], *, box: Box
    ) -> Planes:
        """Return a box of the frames after the operations.

        Args:
            frames: (T, H, W, 3).
            operations: as `draw` gives them.
            box: the wanted part of the augmented frames.

        Returns:
            (3, T, box.height, box.width), a view of the frames if there are no operations.
        """
        frame = Box(0, 0, *frames.shape[1:3])
        region, steps = box, []
        for name, argument in reversed(operations):
            effect = self._effects[name]
            steps.append((effect, argument, region))
            region = effect.needs(region, argument=argument, frame=frame)
        planes = cut_out(frames.transpose(3, 0, 1, 2), region)
        for effect, argument, wanted in reversed(steps):
            planes = effect.apply(
                planes, argument=argument, region=region, wanted=wanted, frame=frame
            )
            region = wanted
        return planes


def _recorder(name: str) -> Callable[..., Operation]:
    return lambda image, *arguments, **options: Operation(name, *arguments)


# ---- Kinds of operations ---------------------------------------------------------------------------------------------


class _Effect(Protocol):
    """What an operation does to a region of all frames, and which region it needs for that."""

    def needs(self, wanted: Box, *, argument: float, frame: Box) -> Box:
        """Return the region of the input that the wanted region of the output depends on."""
        ...

    def apply(
        self, planes: Planes, *, argument: float, region: Box, wanted: Box, frame: Box
    ) -> Planes:
        """Return the wanted region of the output, from the needed region of the input."""
        ...


class _Recoloring(NamedTuple):
    """Each value becomes another one, by a table."""

    levels: Callable[[float], Levels]

    def needs(self, wanted: Box, *, argument: float, frame: Box) -> Box:
        return wanted

    def apply(
        self, planes: Planes, *, argument: float, region: Box, wanted: Box, frame: Box
    ) -> Planes:
        return _look_up(planes, self.levels(argument))


class _MeasuredRecoloring(NamedTuple):
    """Each value becomes another one, by a table that depends on the whole frame."""

    levels: Callable[[Planes, float], Levels]

    def needs(self, wanted: Box, *, argument: float, frame: Box) -> Box:
        return frame

    def apply(
        self, planes: Planes, *, argument: float, region: Box, wanted: Box, frame: Box
    ) -> Planes:
        planes = np.ascontiguousarray(planes)
        return _look_up(cut_out(planes, wanted), self.levels(planes, argument))


class _Filter(NamedTuple):
    """Each pixel of a frame (3, H, W) becomes a function of its channels and of the pixels up to `reach` away."""

    reach: Callable[[float], int]
    function: Callable[[Planes, float], Planes]

    def needs(self, wanted: Box, *, argument: float, frame: Box) -> Box:
        top, left, height, width = wanted
        reach = self.reach(argument)
        return spanning(
            (top - reach, top + height - 1 + reach),
            (left - reach, left + width - 1 + reach),
            frame=frame,
        )

    def apply(
        self, planes: Planes, *, argument: float, region: Box, wanted: Box, frame: Box
    ) -> Planes:
        rows, columns = wanted.within(region).slices
        result = np.empty((*planes.shape[:2], wanted.height, wanted.width), np.uint8)
        for number in range(
            planes.shape[1]
        ):  # frame by frame, so that intermediate values stay in the cache
            image = np.ascontiguousarray(planes[:, number])
            result[:, number] = self.function(image, argument)[:, rows, columns]
        return result


class _Kernel(NamedTuple):
    """How the value at a place between pixels is made along one axis: a weighted sum of the `taps` nearest ones."""

    taps: int
    weights: Callable[
        [Tensor], tuple[Tensor, ...]
    ]  # of the distance, in [0, 1), from the last pixel before the place


class _Axis(NamedTuple):
    """Where pixels come from along one axis: column * x + row * y + shift for the pixel whose center is at x, y."""

    column: float
    row: float
    shift: float
    kernel: _Kernel

    def span(self, wanted: Box) -> tuple[int, int]:
        """The first and the last pixel that the wanted ones depend on."""
        top, left, height, width = wanted
        corners = [
            (x + 0.5, y + 0.5) for x in (left, left + width - 1) for y in (top, top + height - 1)
        ]
        places = [self.column * x + self.row * y + self.shift for x, y in corners]
        first, last = (
            math.floor(place - self._center) + self._first_tap
            for place in (min(places), max(places))
        )
        return first, last + self.kernel.taps - 1

    def sums(self, wanted: Box, *, start: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """How the wanted pixels are made of `length` pixels from `start` on; those at the ends go on outside.

        Returns:
            the pixels of each sum, counted from `start`, (taps, height, width), int32; their weights, float32; and the
            places, (height, width), float64.
        """
        top, left, height, width = wanted
        y, x = (
            torch.arange(begin, begin + size) + 0.5
            for begin, size in ((top, height), (left, width))
        )
        places = self.column * x.double() + self.row * y.double()[:, None] + self.shift
        distances = places - self._center
        before = distances.floor()
        taps = torch.arange(self.kernel.taps, dtype=torch.int32)[:, None, None] + (
            self._first_tap - start
        )
        pixels = (before.int() + taps).clamp_(0, length - 1)
        return pixels, torch.stack(self.kernel.weights((distances - before).float())), places

    @property
    def _center(self) -> float:
        return (
            0.5 if self.kernel.taps > 1 else 0.0
        )  # the center of pixel n lies at n + 0.5, it begins at n

    @property
    def _first_tap(self) -> int:
        return -((self.kernel.taps - 1) // 2)


class _Warp(NamedTuple):
    """Each pixel comes from another place of the frame, by an affine map; FILL from outside."""

    matrix: Callable[[float, Box], Matrix]
    kernel: _Kernel

    def needs(self, wanted: Box, *, argument: float, frame: Box) -> Box:
        rows, columns = self._axes(argument, frame)
        return spanning(rows.span(wanted), columns.span(wanted), frame=frame)

    def apply(
        self, planes: Planes, *, argument: float, region: Box, wanted: Box, frame: Box
    ) -> Planes:
        result = np.empty((*planes.shape[:2], wanted.height, wanted.width), np.uint8)
        for tile in wanted.tiles(TILE):
            needed = self.needs(tile, argument=argument, frame=frame)
            source = cut_out(planes, needed.within(region))
            cut_out(result, tile.within(wanted))[:] = self._warp(
                source, argument, needed, tile, frame
            )
        return result

    def _warp(
        self, planes: Planes, argument: float, region: Box, wanted: Box, frame: Box
    ) -> Planes:
        row_axis, column_axis = self._axes(argument, frame)
        rows, row_weights, ys = row_axis.sums(wanted, start=region.top, length=region.height)
        columns, column_weights, xs = column_axis.sums(
            wanted, start=region.left, length=region.width
        )
        pixels = (rows * region.width)[:, None] + columns  # (taps, taps, height, width)
        weights = row_weights[:, None] * column_weights
        # All channels and frames of a pixel lie side by side, so that one set of weights serves them all. The copies
        # are NumPy's, which turns bytes and cuts floats off to bytes several times faster than torch.
        values = np.ascontiguousarray(planes.transpose(2, 3, 0, 1)).reshape(
            region.height * region.width, -1
        )
        mixed = F.embedding_bag(
            pixels.flatten(0, 1).flatten(1).t().contiguous(),  # (height * width, taps * taps)
            torch.from_numpy(values.astype(np.float32)),
            per_sample_weights=weights.flatten(0, 1).flatten(1).t().contiguous(),
            mode="sum",
        )
        mixed.add_(ROUNDING).clamp_(0, 255)
        is_outside = (ys < 0) | (ys >= frame.height) | (xs < 0) | (xs >= frame.width)
        mixed.index_fill_(0, is_outside.flatten().nonzero()[:, 0], FILL)
        warped = (
            mixed.numpy().astype(np.uint8).reshape(wanted.height, wanted.width, *planes.shape[:2])
        )
        return warped.transpose(2, 3, 0, 1)

    def _axes(self, argument: float, frame: Box) -> tuple[_Axis, _Axis]:
        """Rows and columns; one along which nothing moves is copied, not summed."""
        a, b, c, d, e, f = self.matrix(argument, frame)
        rows = _Axis(d, e, f, _POINT if (d, e, f) == (0, 1, 0) else self.kernel)
        return rows, _Axis(a, b, c, _POINT if (a, b, c) == (1, 0, 0) else self.kernel)


# ---- The operations --------------------------------------------------------------------------------------------------


def _look_up(planes: Planes, levels: Levels) -> Planes:
    """The planes with each value replaced by its level."""
    result = np.empty(planes.shape, np.uint8)
    tables = np.broadcast_to(levels.astype(np.uint8), (*planes.shape[:2], 256))
    for place in np.ndindex(planes.shape[:2]):
        # bytes.translate is several times faster than indexing an array with uint8.
        looked_up = planes[place].tobytes().translate(tables[place].tobytes())
        result[place] = np.frombuffer(looked_up, np.uint8).reshape(planes.shape[2:])
    return result


def _grey(frame: Planes) -> NDArray[np.uint8]:
    """The luma of a frame (3, H, W), rounded as Pillow does; the sums are exact in float32."""
    luma = np.full(frame.shape[1:], 0.5, np.float32)
    for channel, weight in zip(frame, (19595 / 65536, 38470 / 65536, 7471 / 65536), strict=True):
        luma += np.multiply(channel, weight, dtype=np.float32)
    return luma.astype(np.uint8)


def _blend(base: NDArray[Any] | int, image: NDArray[Any], factor: float) -> NDArray[np.uint8]:
    """The image moved away from `base`, factor times as far, cut off to whole values of uint8."""
    mixed = np.subtract(image, base, dtype=np.float32)
    mixed *= np.float32(factor)
    mixed += base
    return mixed.clip(0, 255, out=mixed).astype(np.uint8)


def _histograms(planes: Planes) -> NDArray[np.int64]:
    """How often each value occurs in each plane, (3, T, 256)."""
    height, width = planes.shape[2:]
    images = (
        Image.frombuffer("L", (width, height), plane.tobytes())
        for frames in planes
        for plane in frames
    )
    return np.array([image.histogram() for image in images]).reshape(*planes.shape[:2], 256)


def _contrasted(planes: Planes, factor: float) -> Levels:
    """Levels moved away from the mean luma of each frame, (T, 256)."""
    means = [int(_grey(planes[:, number]).mean() + 0.5) for number in range(planes.shape[1])]
    return np.stack([_blend(mean, VALUES, factor) for mean in means])


def _stretched(planes: Planes, unused: float) -> Levels:
    """Levels from 0 for the darkest value of a plane to 255 for the lightest, (3, T, 256)."""
    darkest = planes.min(axis=(2, 3))[..., None].astype(float)
    lightest = planes.max(axis=(2, 3))[..., None].astype(float)
    scale = 255 / np.maximum(lightest - darkest, 1)
    return np.where(lightest > darkest, (VALUES * scale - darkest * scale).clip(0, 255), VALUES)


def _equalized(planes: Planes, unused: float) -> Levels:
    """Levels that make all values of a plane about equally frequent, (3, T, 256)."""
    counts = _histograms(planes)
    last = 255 - (counts[..., ::-1] > 0).argmax(axis=-1, keepdims=True)
    step = (planes[0, 0].size - np.take_along_axis(counts, last, axis=-1)) // 255
    below = counts.cumsum(axis=-1) - counts
    return np.where(step > 0, ((step // 2 + below) // step.clip(1)).clip(0, 255), VALUES)


def _sharpened(frame: Planes, factor: float) -> Planes:
    """A frame (3, H, W) moved away from its mean over 3x3 pixels, the center counted five times."""
    sums = frame.astype(np.uint16)
    sums = sums[:, :-2] + sums[:, 1:-1] + sums[:, 2:]
    sums = sums[..., :-2] + sums[..., 1:-1] + sums[..., 2:]
    smooth = frame.copy()  # pixels on the edge stay as they are
    smooth[:, 1:-1, 1:-1] = (sums + 4 * frame[:, 1:-1, 1:-1].astype(np.uint16) + 6) // 13
    return _blend(smooth, frame, factor)


def _blurred(frame: Planes, radius: float) -> Planes:
    gaussian = ImageFilter.GaussianBlur(radius)
    return np.stack([np.asarray(Image.fromarray(plane).filter(gaussian)) for plane in frame])


def _rotation(degrees: float, frame: Box) -> Matrix:
    """Counter-clockwise, about the center."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = frame.width / 2, frame.height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


_COLORS: dict[str, _Effect] = {
    "Invert": _Recoloring(lambda _: 255 - VALUES),
    "Posterize": _Recoloring(lambda bits: VALUES >> (8 - int(bits)) << (8 - int(bits))),
    "Solarize": _Recoloring(lambda level: np.where(level > VALUES, VALUES, 255 - VALUES)),
    "SolarizeAdd": _Recoloring(
        lambda added: np.where(VALUES < 128, np.minimum(VALUES + added, 255), VALUES)
    ),
    "Brightness": _Recoloring(lambda factor: _blend(0, VALUES, factor)),
    "Contrast": _MeasuredRecoloring(_contrasted),
    "AutoContrast": _MeasuredRecoloring(_stretched),
    "Equalize": _MeasuredRecoloring(_equalized),
    "Color": _Filter(lambda _: 0, lambda frame, factor: _blend(_grey(frame), frame, factor)),
    "Desaturate": _Filter(
        lambda _: 0, lambda frame, share: _blend(_grey(frame), frame, min(max(1 - share, 0), 1))
    ),
    "Sharpness": _Filter(lambda _: 1, _sharpened),
    "GaussianBlur": _Filter(lambda radius: 3 * (math.ceil(radius) + 1), _blurred),
}
_MATRICES: dict[str, Callable[[float, Box], Matrix]] = {
    "Rotate": _rotation,
    "ShearX": lambda factor, _: (1, factor, 0, 0, 1, 0),
    "ShearY": lambda factor, _: (1, 0, 0, factor, 1, 0),
    "TranslateXRel": lambda share, frame: (1, 0, share * frame.width, 0, 1, 0),
    "TranslateYRel": lambda share, frame: (1, 0, 0, 0, 1, share * frame.height),
}


def _cubic(d: Tensor) -> tuple[Tensor, ...]:
    """Cubic convolution with the slope of -1 that Pillow has."""
    rest = 1 - d
    inner, outer = d * d, rest * rest
    return -d * outer, rest * (1 + d - inner), d * (1 + rest - outer), -inner * rest


_POINT = _Kernel(1, lambda d: (torch.ones_like(d),))
_KERNELS = {
    "nearest": _POINT,
    "bilinear": _Kernel(2, lambda d: (1 - d, d)),
    "bicubic": _Kernel(4, _cubic),
}
