"""Learning-rate schedule: linear warm-up, then a cosine or a staircase."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LrSchedule:
    """Learning rate as a function of the time in epochs.

    The rate rises linearly from `warmup_start_lr` to the value that the policy has at the end of
    the warm-up.

    Args:
        policy: cosine | steps_with_relative_lrs.
        num_epochs: Length of the run.
        base_lr: Rate at the top of the cosine, or the rate that `relative_lrs` multiply.
        scale: Factor for all rates, such as the number of machines.
        warmup_epochs: Length of the warm-up. It may be a fraction.
        warmup_start_lr: Rate at epoch 0 if there is a warm-up.
        cosine_end_lr: Rate at the end of the cosine.
        cosine_after_warmup: Whether the cosine begins after the warm-up instead of at epoch 0.
        steps: Epochs at which the staircase takes the next rate. The first one is 0.
        relative_lrs: One factor per step of the staircase.

    Source: Loshchilov and Hutter, SGDR, arXiv:1608.03983, sec. 3, and Goyal et al., Accurate,
    Large Minibatch SGD, arXiv:1706.02677, sec. 2.2, for the warm-up.
    """

    policy: str
    num_epochs: float
    base_lr: float
    scale: float = 1.0
    warmup_epochs: float = 0.0
    warmup_start_lr: float = 0.0
    cosine_end_lr: float = 0.0
    cosine_after_warmup: bool = False
    steps: Sequence[float] = ()
    relative_lrs: Sequence[float] = ()

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate at a time, such as 2.5 in the middle of the third epoch."""
        if epoch >= self.warmup_epochs:
            return self._policy_lr_at(epoch) * self.scale

        start = self.warmup_start_lr * self.scale
        end = self._policy_lr_at(self.warmup_epochs) * self.scale
        return start + (end - start) * epoch / self.warmup_epochs

    @property
    def largest_lr(self) -> float:
        """The rate at epoch 0 or after the warm-up, whichever is larger."""
        return max(self.lr_at(0), self.lr_at(self.warmup_epochs))

    def _policy_lr_at(self, epoch: float) -> float:
        if self.policy == "steps_with_relative_lrs":
            num_reached = sum(step <= epoch for step in self.steps)
            return self.base_lr * self.relative_lrs[num_reached - 1]

        start = self.warmup_epochs if self.cosine_after_warmup else 0.0
        progress = 0.0
        if start < self.num_epochs:  # A warm-up as long as the run leaves no time for a cosine.
            progress = (epoch - start) / (self.num_epochs - start)
        half_height = (self.base_lr - self.cosine_end_lr) / 2
        return self.cosine_end_lr + half_height * (math.cos(math.pi * progress) + 1)
