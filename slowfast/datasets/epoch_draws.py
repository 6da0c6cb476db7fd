"""Draws of an epoch: which training videos it shows, in which order, and how often each of them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Draws(NamedTuple):
    """Rows of the list in the order in which they are shown, (D,)."""

    videos: NDArray[np.int64]
    repetitions: NDArray[np.int32]  # draws of the same video that count before this one


class UniformDraws:
    """Each video once per epoch, in random order.

    Args:
        num_videos: The length of the list.
    """

    def __init__(self, num_videos: int) -> None:
        self.num_videos = num_videos

    def __call__(self, rng: np.random.Generator) -> Draws:
        """Return the draws of one epoch, (num_videos,) of them."""
        order = rng.permutation(self.num_videos)
        return Draws(order, np.broadcast_to(np.int32(0), order.shape))


class BalancedDraws:
    """As many draws per epoch as there are videos, with every class drawn equally often.

    The indices of draws of two classes differ by at most one, and so do those of two videos of one
    class. Which classes and videos get the additional draw is random in every epoch.

    Args:
        labels: The class of each video, (N,). Numbers without a video may lie between them.
    """

    def __init__(self, labels: ArrayLike) -> None:
        _, classes, self._class_sizes = np.unique(labels, return_inverse=True, return_counts=True)

        # The smallest type that fits: numpy sorts 8 and 16 bits in linear time.
        self._classes = classes.astype(np.min_scalar_type(len(self._class_sizes)))

    @property
    def num_videos(self) -> int:
        """The length of the list, and the number of draws."""
        return len(self._classes)

    def __call__(self, rng: np.random.Generator) -> Draws:
        """Return the draws of one epoch, (num_videos,) of them.

        It takes about four times as long as a permutation of all videos. For 10 million videos it
        needs 320 MB, 120 MB of which are the result, and this object holds 1 or 2 bytes per video.
        """
        num_classes = len(self._class_sizes)
        draws_per_class = np.full(num_classes, self.num_videos // num_classes)
        draws_per_class[rng.permutation(num_classes)[: self.num_videos % num_classes]] += 1

        # The videos class by class, in random order within each class.
        shuffled = rng.permutation(self.num_videos)
        by_class = shuffled[np.argsort(self._classes[shuffled], kind="stable")]
        del shuffled

        # Draw n of a class takes its video n % size, which it has taken n // size times before.
        indices = np.arange(self.num_videos)
        indices -= np.repeat(np.cumsum(draws_per_class) - draws_per_class, draws_per_class)
        sizes = np.repeat(self._class_sizes.astype(np.int32), draws_per_class)
        repetitions = (indices // sizes).astype(np.int32)
        indices %= sizes
        del sizes
        indices += np.repeat(np.cumsum(self._class_sizes) - self._class_sizes, draws_per_class)
        videos = by_class[indices]
        del by_class, indices

        order = rng.permutation(self.num_videos)
        return Draws(videos[order], repetitions[order])


def padding(draws: Draws, length: int) -> Draws:
    """Return so many further draws: the first ones of an epoch again, in a circle if need be."""
    videos = draws.videos.take(np.arange(length), mode="wrap")

    is_padded = np.isin(draws.videos, videos)
    names, counts = np.unique(draws.videos[is_padded], return_counts=True)
    num_drawn = dict(zip(names.tolist(), counts.tolist(), strict=True))
    repetitions = []
    for video in videos.tolist():
        repetitions.append(num_drawn[video])
        num_drawn[video] += 1

    return Draws(videos, np.array(repetitions, np.int32))
