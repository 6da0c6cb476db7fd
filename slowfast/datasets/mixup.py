"""MixUp and CutMix over a batch: each clip is mixed with its mirror image in the batch, labels in proportion.

Sources: Zhang et al., mixup, arXiv:1710.09412; Yun et al., CutMix, arXiv:1905.04899.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Mix:
    """Turns a batch of clips and class numbers into mixed clips and soft labels.

    Args:
        num_classes: width of the soft labels.
        mixup_alpha: beta parameter of MixUp; 0: never MixUp.
        cutmix_alpha: beta parameter of CutMix; 0: never CutMix.
        probability: that a batch is mixed at all.
        switch_probability: of CutMix where both are on.
        smoothing: share of the label spread over all classes.
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
        self, frames: Tensor, label: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return mixed frames and soft labels.

        Args:
            frames: (B, C, T, H, W), left as they are.
            label: (B,), class numbers.
            rng: source of the draws; one mix for the whole batch.

        Returns:
            mixed frames, and (B, num_classes) float32 of sum 1 per row.
        """
        own_share = 1.0
        if rng.random() < self.probability:
            use_cutmix = self.cutmix_alpha > 0 and (
                self.mixup_alpha == 0 or rng.random() < self.switch_probability
            )
            mix = self._cutmix if use_cutmix else self._mixup
            frames, own_share = mix(frames, rng)
        target = smooth_one_hot(label, num_classes=self.num_classes, smoothing=self.smoothing)
        return frames, target * own_share + target.flip(0) * (1 - own_share)

    def _mixup(self, frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        own_share = float(rng.beta(self.mixup_alpha, self.mixup_alpha))
        return frames.lerp(frames.flip(0), 1 - own_share), own_share

    def _cutmix(self, frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        height, width = frames.shape[3:]
        side = math.sqrt(1 - rng.beta(self.cutmix_alpha, self.cutmix_alpha))
        box_height, box_width = int(height * side), int(width * side)
        # The center may lie anywhere, so the box may stick out of the frame; the labels go by what is left of it.
        y, x = int(rng.integers(height)), int(rng.integers(width))
        top, bottom = max(y - box_height // 2, 0), min(y + box_height // 2, height)
        left, right = max(x - box_width // 2, 0), min(x + box_width // 2, width)
        mixed = frames.clone()
        mixed[..., top:bottom, left:right] = frames[..., top:bottom, left:right].flip(0)
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def smooth_one_hot(label: Tensor, *, num_classes: int, smoothing: float) -> Tensor:
    """Return (B, num_classes) float32: smoothing / num_classes everywhere, and the rest of 1 on the label of each row.

    Source: Szegedy et al., Rethinking the Inception Architecture, arXiv:1512.00567, sec. 7.
    """
    return (
        F.one_hot(label, num_classes).to(torch.float32) * (1 - smoothing) + smoothing / num_classes
    )
