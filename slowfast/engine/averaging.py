"""The exponential moving average of the weights of a model (EMA), which is what is validated and tested."""

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn


class Average:
    """The moving average of the weights and the BatchNorm statistics of a model, which begins at what they are now.

    Args:
        model: on its device.
        decay: share of the average that a step keeps.

    Source: Tarvainen and Valpola, Mean teachers are better role models, arXiv:1703.01780, sec. 2.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._decay = decay
        # Not by torch's functions over lists of tensors: they take a number, which the host would have to wait for.
        self._ema = ModelEmaV3(model, decay=decay, foreach=False).requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """The model with the averaged weights, in evaluation mode."""
        return self._ema.module

    def begin_at(self, model: nn.Module) -> None:
        """Forget the average, and begin again at what the weights are now."""
        self._ema.set(model)

    def update(self, model: nn.Module, *, is_bad: Tensor) -> None:
        """Bring a step into the average, unless it was bad: one bool on the device, which no host waits for."""
        self._ema.decay = torch.where(is_bad, 1.0, self._decay)  # type: ignore[assignment]  # a number on the device
        self._ema.update(model)
