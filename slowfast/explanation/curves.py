"""Deletion and insertion curves: whether the hottest pixels of a map are those that matter.

As the hottest pixels are blurred, the probability of the class falls. The faster it does, the
better the map. Insertion starts with blurred frames and brings the hottest pixels back first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from slowfast.explanation.frame_maps import FrameMaps, ViewMap

ORDERS = ("clip", "frame")
# Standard deviation of the blur and of the centered Gaussian, as a fraction of a side. A weaker
# blur leaves the motion of what it hides.
SIGMA = 0.25

HeatOfFrame = Callable[[int], NDArray[np.float32]]  # from a frame number to (H, W)


class Curves(NamedTuple):
    """Probability of a class as pixels vanish and appear, for a map and two others.

    Attributes:
        fractions: Fractions of the pixels, from 0 to 1, shape (F,).
        deletion: Probability after this fraction is blurred, (F,), for "map", "random" (random
            numbers of the resolution of the map) and "gaussian" (a centered Gaussian).
        insertion: Probability after this fraction alone is sharp, (F,), for the same.
    """

    fractions: NDArray[np.float64]
    deletion: Mapping[str, NDArray[np.float64]]
    insertion: Mapping[str, NDArray[np.float64]]

    def area(self, kind: str, order: str) -> float:
        """Return the area under a curve: its mean probability.

        Args:
            kind: deletion | insertion.
            order: map | random | gaussian.
        """
        curve = getattr(self, kind)[order]
        return float(np.mean((curve[1:] + curve[:-1]) / 2))  # the steps are equal

    def as_json(self) -> dict[str, Any]:
        """Return the areas under all curves as plain data."""
        return {
            kind: {order: self.area(kind, order) for order in self.deletion}
            for kind in ("deletion", "insertion")
        }


def trace_curves(
    views: Tensor,
    maps: FrameMaps,
    *,
    probability: Callable[[Iterable[Tensor]], NDArray[np.float64]],
    num_steps: int,
    order: str,
    seed: int = 0,
) -> Curves:
    """Return the curves of the map of a video.

    Args:
        views: Normalized views of the video, shape (V, C, T, S, S), one for each view of `maps`.
        maps: The map of the video.
        probability: Function that takes the perturbed versions (F, C, T, S, S) of each view, one
            view after the other, and returns the probability of the class for each version, (F,).
        num_steps: Number of equal steps from no pixel to all of them.
        order: "clip" to take the hottest pixels of each view first, "frame" to take the same share
            of each of its frames.
        seed: Seed of the random numbers.
    """
    fractions = np.linspace(0, 1, num_steps + 1)
    heats: dict[str, HeatOfFrame] = {
        "map": lambda number: maps.frame(number)[0],
        "random": _random_heat(maps, seed=seed),
        "gaussian": _gaussian_heat(maps),
    }

    deletion, insertion = {}, {}
    for name, heat in heats.items():

        def versions(*, deletes: bool, heat: HeatOfFrame = heat) -> Iterator[Tensor]:
            for view, origin in zip(views, maps.views, strict=True):
                ranks = _rank(_heat_of_view(heat, origin), order=order, seed=seed)
                yield _perturb(view, ranks, fractions, deletes=deletes)

        deletion[name] = probability(versions(deletes=True))
        insertion[name] = probability(versions(deletes=False))
    return Curves(fractions, deletion, insertion)


def _random_heat(maps: FrameMaps, *, seed: int) -> HeatOfFrame:
    """Return random numbers in the cells of the maps, which look as coarse as they do."""
    rng = np.random.default_rng(seed)
    views = [
        view._replace(values=rng.random(view.values.shape, dtype=np.float32)) for view in maps.views
    ]
    num_frames, height, width = maps.shape
    random = FrameMaps(views, num_frames=num_frames, height=height, width=width)
    return lambda number: random.frame(number)[0]


def _gaussian_heat(maps: FrameMaps) -> HeatOfFrame:
    """Return a Gaussian in the center of each frame."""
    rows, columns = (
        np.exp(-(((np.arange(side) + 0.5) / side - 0.5) ** 2) / (2 * SIGMA**2))
        for side in maps.shape[1:]
    )
    heat = np.outer(rows, columns).astype(np.float32)
    return lambda number: heat


def _heat_of_view(heat: HeatOfFrame, view: ViewMap) -> Tensor:
    """Return the heat of each pixel of a view, shape (T, S, S)."""
    frames = torch.stack([torch.from_numpy(heat(number)) for number in view.numbers.tolist()])
    resized = F.interpolate(frames[:, None], size=view.resized, mode="bilinear")[:, 0]
    rows, columns = view.box.slices
    return resized[:, rows, columns]


def _rank(heat: Tensor, *, order: str, seed: int) -> Tensor:
    """Return the share of the pixels that are hotter than each pixel, shape (T, S, S)."""
    flat = heat.flatten(1) if order == "frame" else heat.flatten()[None]
    # Pixels of the same heat have a random order. Otherwise the upper ones would come first.
    shuffled = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed))
    hottest_first = shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    return hottest_first.argsort(dim=1).view(heat.shape) / flat.shape[1]


def _perturb(
    view: Tensor, ranks: Tensor, fractions: NDArray[np.float64], *, deletes: bool
) -> Tensor:
    """Return versions (F, C, T, S, S) of a view in which some pixels are blurred."""
    blurred = _blur(view)
    before, after = (view, blurred) if deletes else (blurred, view)
    return torch.stack([torch.where(ranks < fraction, after, before) for fraction in fractions])


def _blur(view: Tensor) -> Tensor:
    """Return the frames of a view (C, T, S, S), each blurred by a Gaussian."""
    size = view.shape[-1]
    offsets = torch.arange(size)
    squares = (offsets[:, None] - offsets[None]).float().square()
    weights = torch.exp(-squares / (2 * (SIGMA * size) ** 2))
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights @ view @ weights.t()
