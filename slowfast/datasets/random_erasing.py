"""Random erasing: boxes of a clip are filled with noise or a constant.

Source: Zhong et al., Random Erasing Data Augmentation, arXiv:1708.04896.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from slowfast.datasets.boxes import Box, random_box

ERASED_AREA = (0.02, 1 / 3)  # fraction of the frame area
ERASED_ASPECT = (0.3, 1 / 0.3)  # width / height


def random_erasures(
    height: int, width: int, *, max_count: int, rng: np.random.Generator
) -> tuple[Box, ...]:
    """Return one to `max_count` random boxes of a frame that share the erased area.

    A box that does not fit the frame is dropped.
    """
    count = int(rng.integers(1, max_count, endpoint=True))
    area = (ERASED_AREA[0] * height * width / count, ERASED_AREA[1] * height * width / count)
    max_size = (height - 1, width - 1)

    boxes = []
    for _ in range(count):
        box = random_box(height, width, area=area, aspect=ERASED_ASPECT, max_size=max_size, rng=rng)
        if box is not None:
            boxes.append(box)
    return tuple(boxes)


def erase(clip: Tensor, boxes: Sequence[Box], *, mode: str, rng: torch.Generator) -> None:
    """Fill the same boxes in all frames of a clip, in place.

    Args:
        clip: Normalized frames of shape (C, T, H, W).
        boxes: Boxes to fill.
        mode: `pixel` for new noise in each pixel and frame, `rand` for one random color per frame
            and channel, `const` for the mean.
        rng: Generator of the noise, on the device of the clip.
    """
    for box in boxes:
        rows, columns = box.slices
        erased = clip[:, :, rows, columns]
        if mode == "const":
            erased.zero_()
        else:
            shape = erased.shape if mode == "pixel" else (*erased.shape[:2], 1, 1)
            erased.copy_(torch.randn(shape, generator=rng, device=rng.device))
