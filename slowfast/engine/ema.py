"""The exponential moving average of the weights of a model (EMA), which is what is validated and tested."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class ModelEma:
    """The moving average of the weights and the BatchNorm statistics of a model, which begins at what they are now.

    Args:
        model: on its device.
        decay: share of the average that a step keeps.

    Source: Tarvainen and Valpola, Mean teachers are better role models, arXiv:1703.01780, sec. 2.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        # As float32 has it: the rounding of 1 - decay is part of the results.
        self._weight = (1 - torch.tensor(decay, dtype=torch.float32)).item()
        self._model = deepcopy(model).eval().requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights, in evaluation mode."""
        return self._model

    @torch.no_grad()
    def begin_at(self, model: nn.Module) -> None:
        """Forget the average, and begin again at what the weights are now."""
        for average, value in zip(
            self._model.state_dict().values(), model.state_dict().values(), strict=True
        ):
            average.copy_(value)

    @torch.no_grad()
    def update(self, model: nn.Module, *, is_bad: Tensor) -> None:
        """Bring a step into the average, unless it was bad.

        A few kernels do it for all tensors together, and the host does not wait for `is_bad`.

        Args:
            model: The model, finite numbers throughout: a bad step has left its weights alone.
            is_bad: Whether the step was bad, one bool on the device.
        """
        averages, values = ([*module.state_dict().values()] for module in (self._model, model))
        floats = [number for number, value in enumerate(values) if value.is_floating_point()]
        others = [number for number, value in enumerate(values) if not value.is_floating_point()]

        changes = torch._foreach_sub(
            [values[number] for number in floats], [averages[number] for number in floats]
        )
        torch._foreach_mul_(changes, (~is_bad).to(torch.float32))  # by 0 or 1
        torch._foreach_add_([averages[number] for number in floats], changes, alpha=self._weight)
        if others:  # counters of batches
            torch._foreach_copy_(
                [averages[number] for number in others], [values[number] for number in others]
            )
