"""Order of the training videos in an epoch: each of them once, or balanced over the classes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class EpochOrder(NamedTuple):
    """Videos in the order in which an epoch shows them."""

    videos: NDArray[np.int64]  # (N,), rows of the annotation list
    repetitions: NDArray[np.int32]  # (N,), how often the epoch has shown the video before


class UniformOrder:
    """Draws every video once per epoch, in random order.

    Args:
        num_videos: Length of the annotation list.
    """

    def __init__(self, num_videos: int) -> None:
        self.num_videos = num_videos

    def __call__(self, rng: np.random.Generator) -> EpochOrder:
        """Return the order of one epoch, of length `num_videos`."""
        videos = rng.permutation(self.num_videos)
        return EpochOrder(videos, np.broadcast_to(np.int32(0), videos.shape))


class BalancedOrder:
    """Draws every class equally often, with as many draws per epoch as there are videos.

    The numbers of draws of two classes differ by at most one, and so do those of two videos of the
    same class. Which classes and videos get an additional draw is random in every epoch.

    Args:
        labels: Label of each video, shape (N,). Labels without videos are allowed.
    """

    def __init__(self, labels: ArrayLike) -> None:
        _, classes, self._class_sizes = np.unique(labels, return_inverse=True, return_counts=True)

        # Use the smallest type that fits: numpy sorts 8 and 16 bits in linear time.
        self._classes = classes.astype(np.min_scalar_type(len(self._class_sizes)))

    @property
    def num_videos(self) -> int:
        """Length of the annotation list, which is the number of draws."""
        return len(self._classes)

    def __call__(self, rng: np.random.Generator) -> EpochOrder:
        """Return the order of one epoch, of length `num_videos`.

        This takes about four times as long as a permutation of all videos. For 10 million videos it
        needs 320 MB, of which the result keeps 120 MB. The object itself holds 1 or 2 bytes per
        video.
        """
        draws_per_class = self._count_draws(rng)

        # Sort the videos by class, in random order within each class.
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
        return EpochOrder(videos[order], repetitions[order])

    def _count_draws(self, rng: np.random.Generator) -> NDArray[np.int64]:
        num_classes = len(self._class_sizes)
        draws_per_class = np.full(num_classes, self.num_videos // num_classes)
        draws_per_class[rng.permutation(num_classes)[: self.num_videos % num_classes]] += 1
        return draws_per_class


def draw_padding(order: EpochOrder, length: int) -> EpochOrder:
    """Return `length` additional draws: the first ones of an epoch again, repeatedly if needed."""
    videos = order.videos.take(np.arange(length), mode="wrap")

    is_padded = np.isin(order.videos, videos)
    names, counts = np.unique(order.videos[is_padded], return_counts=True)
    num_shown = dict(zip(names.tolist(), counts.tolist(), strict=True))

    repetitions = []
    for video in videos.tolist():
        repetitions.append(num_shown[video])
        num_shown[video] += 1
    return EpochOrder(videos, np.array(repetitions, np.int32))
