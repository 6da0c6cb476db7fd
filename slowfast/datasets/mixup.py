"""MixUp and CutMix: each clip of a batch is mixed with its mirror image in the batch.

Sources: Zhang et al., mixup, arXiv:1710.09412; Yun et al., CutMix, arXiv:1905.04899.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Mix:
    """Turns a batch of clips and class labels into mixed clips and soft labels.

    Args:
        num_classes: Number of classes.
        mixup_alpha: Parameter of MixUp's beta distribution, 0 for no MixUp.
        cutmix_alpha: Parameter of CutMix's beta distribution, 0 for no CutMix.
        probability: Probability that a batch is mixed.
        switch_probability: Probability of CutMix if both are enabled.
        smoothing: Fraction of the label that is spread over all classes.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mixup_alpha: float,
        cutmix_alpha: float,
        probability: float,
        switch_probability: float,
        smoothing: float,
    ) -> None:
        self.num_classes = num_classes
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.probability = probability if mixup_alpha > 0 or cutmix_alpha > 0 else 0.0
        self.switch_probability = switch_probability
        self.smoothing = smoothing

    def __call__(
        self, frames: Tensor, labels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return mixed frames and soft labels. The whole batch shares one draw.

        Args:
            frames: Frames of shape (B, C, T, H, W), which stay unchanged.
            labels: Class labels of shape (B,).
            rng: Generator of the draws.

        Returns:
            Frames of shape (B, C, T, H, W), and float32 targets of shape (B, num_classes) with rows
            that sum to 1.
        """
        own_share = 1.0
        if rng.random() < self.probability:
            mix = self._cutmix if self._draw_use_cutmix(rng) else self._mixup
            frames, own_share = mix(frames, rng)

        targets = smooth_one_hot(labels, num_classes=self.num_classes, smoothing=self.smoothing)
        return frames, targets * own_share + targets.flip(0) * (1 - own_share)

    def _draw_use_cutmix(self, rng: np.random.Generator) -> bool:
        if self.cutmix_alpha > 0 and self.mixup_alpha > 0:
            return rng.random() < self.switch_probability
        return self.cutmix_alpha > 0

    def _mixup(self, frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        own_share = float(rng.beta(self.mixup_alpha, self.mixup_alpha))
        return frames.lerp(frames.flip(0), 1 - own_share), own_share

    def _cutmix(self, frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        height, width = frames.shape[3:]
        side = math.sqrt(1 - rng.beta(self.cutmix_alpha, self.cutmix_alpha))
        box_height, box_width = int(height * side), int(width * side)

        # The center can be anywhere, so the box may extend beyond the frame. The labels follow the
        # area that remains inside.
        y, x = int(rng.integers(height)), int(rng.integers(width))
        top, bottom = max(y - box_height // 2, 0), min(y + box_height // 2, height)
        left, right = max(x - box_width // 2, 0), min(x + box_width // 2, width)

        mixed = frames.clone()
        mixed[..., top:bottom, left:right] = frames[..., top:bottom, left:right].flip(0)
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def smooth_one_hot(labels: Tensor, *, num_classes: int, smoothing: float) -> Tensor:
    """Return targets with `smoothing` spread evenly over all classes and the rest on the label.

    Args:
        labels: Class labels of shape (B,).
        num_classes: Number of classes.
        smoothing: Fraction of the label to spread.

    Returns:
        Shape (B, num_classes), float32.

    Source: Szegedy et al., Rethinking the Inception Architecture, arXiv:1512.00567, sec. 7.
    """
    one_hot = F.one_hot(labels, num_classes).to(torch.float32)
    return one_hot * (1 - smoothing) + smoothing / num_classes
