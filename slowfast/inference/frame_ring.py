"""The ring of frames: what windows share of a video, decoded and transformed once."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.decoding.images import Frames
from slowfast.datasets.records import View
from slowfast.datasets.resize import Placement
from slowfast.datasets.transforms import Augmentation, Transform


class FrameRing:
    """Frames of a video as the model sees them, by number, the oldest first.

    A frame goes through the transform of the test when it is added. Clips that are put together
    from the ring are therefore those that the test reads, to the bit.

    Args:
        transform: Transform of a test, in which nothing is random.
        views: Views of the clips that are put together. Their numbers of clips start at 0.
    """

    def __init__(self, transform: Transform, views: Sequence[View]) -> None:
        self._transform = transform
        self._views = views
        self._crops = sorted({view.crop for view in views})
        self._frames: dict[int, Tensor] = {}  # (num_crops, 3, S, S)
        self._size = (0, 0)  # height and width of the latest frame
        self._augmentations: list[Augmentation] = []

    def __contains__(self, number: int) -> bool:
        return number in self._frames

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def frame_bytes(self) -> int:
        """Size of a frame in the ring."""
        size = self._transform.crop_size
        return len(self._crops) * 3 * size * size * self._transform.clip_format.dtype.itemsize

    def add(self, number: int, frame: Frames) -> None:
        """Add a decoded frame of shape (H, W, 3) in the channel order of the model."""
        self._frames[number] = self.render(frame)

    def put(self, number: int, rendered: Tensor) -> None:
        """Add a frame that `render` returned."""
        self._frames[number] = rendered

    def render(self, frame: Frames) -> Tensor:
        """Return the crops of a frame of shape (H, W, 3), shape (num_crops, 3, S, S)."""
        height, width = frame.shape[:2]
        if self._size != (height, width):
            self._size = (height, width)
            self._augmentations = [
                self._transform.draw(height, width, crop=crop, rng=None) for crop in self._crops
            ]

        size = self._transform.crop_size
        dtype = self._transform.clip_format.dtype
        crops = torch.empty(len(self._crops), 3, 1, size, size, dtype=dtype)
        only = Placement(np.zeros(1, np.int64), np.zeros(1, np.int64))
        for augmentation, crop in zip(self._augmentations, crops, strict=True):
            self._transform.apply(frame[None], augmentation, out=crop, placement=only)
        return crops[:, :, 0]

    def drop_before(self, number: int) -> None:
        """Drop the frames with smaller numbers."""
        for found in list(self._frames):
            if found >= number:
                return
            del self._frames[found]

    def clear(self) -> None:
        """Drop all frames."""
        self._frames.clear()

    def clips(self, numbers: Sequence[NDArray[np.int64]]) -> Tensor:
        """Return the views of temporal clips, shape (num_views, 3, T, S, S).

        Args:
            numbers: Frame numbers of each temporal clip, each of shape (T,). All are in the ring.
        """
        stacked = []
        for view in self._views:
            crop = self._crops.index(view.crop)
            frames = [self._frames[number][crop] for number in numbers[view.clip].tolist()]
            stacked.append(torch.stack(frames, dim=1))
        return torch.stack(stacked)
