"""Exponential moving average (EMA) of the weights of a model."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from slowfast.models.freezing import frozen_tensors


class ModelEma:
    """Moving average of the weights and BatchNorm statistics of a model.

    The average starts at the current weights. What is frozen is no average, but a copy.

    Args:
        model: Model on its device, with everything frozen that is to be frozen.
        decay: Share of the average that a step keeps.

    Source: Tarvainen and Valpola, Mean teachers are better role models, arXiv:1703.01780, sec. 2.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        # Computed in float32, because the rounding of 1 - decay is part of the published results.
        self._weight = (1 - torch.tensor(decay, dtype=torch.float32)).item()
        self._model = deepcopy(model).eval().requires_grad_(False)
        frozen = frozen_tensors(model)
        self._is_averaged = [
            value.is_floating_point() and name not in frozen
            for name, value in model.state_dict().items()
        ]

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights, in evaluation mode."""
        return self._model

    @torch.no_grad()
    def reset(self, model: nn.Module) -> None:
        """Restart the average at the current weights of a model."""
        averages = self._model.state_dict().values()
        for average, value in zip(averages, model.state_dict().values(), strict=True):
            average.copy_(value)

    @torch.no_grad()
    def update(self, model: nn.Module, *, is_skipped: Tensor) -> None:
        """Add the weights after a step to the average, unless the step was skipped.

        A few kernels update all tensors together, and the host does not wait for `is_skipped`.

        Args:
            model: Model after the step. Its numbers are finite, since a skipped step changes none.
            is_skipped: Whether the step was skipped, one bool on the device.
        """
        averages = [*self._model.state_dict().values()]
        values = [*model.state_dict().values()]
        averaged = [index for index, is_averaged in enumerate(self._is_averaged) if is_averaged]
        copied = [index for index, is_averaged in enumerate(self._is_averaged) if not is_averaged]

        float_averages = [averages[index] for index in averaged]
        changes = torch._foreach_sub([values[index] for index in averaged], float_averages)
        torch._foreach_mul_(changes, (~is_skipped).to(torch.float32))  # by 0 or 1
        torch._foreach_add_(float_averages, changes, alpha=self._weight)

        if copied:  # what is frozen, and the batch counters of BatchNorm
            torch._foreach_copy_(
                [averages[index] for index in copied], [values[index] for index in copied]
            )
