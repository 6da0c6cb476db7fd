"""Graph of a model for TensorBoard."""

import warnings
from typing import Any

from torch import Tensor, nn
from torch.utils.tensorboard._pytorch_graph import graph


def trace_graph(model: nn.Module, frames: Tensor) -> Any:
    """Return the graph of a model and the profile that TensorBoard wants with it.

    The random state is the same afterward.

    Args:
        model: Model in evaluation mode.
        frames: An input of shape (1, 3, T, H, W), on the device of the model.

    Raises:
        RuntimeError: If the model cannot be traced.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The traced graph is for the eye alone.
        return graph(model, frames)
