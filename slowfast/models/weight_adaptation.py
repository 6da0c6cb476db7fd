"""Weights of a file adapted to the frames of a model: inflated over time, with other channels."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from slowfast.models.weight_files import strip_prefixes


class Adapted(NamedTuple):
    """Weights by name, and the names of those that were changed."""

    weights: dict[str, Tensor]
    inflated: list[str]  # over time
    with_other_channels: list[str]


def adapt_to_input(weights: dict[str, Tensor], model: nn.Module) -> Adapted:
    """Return the weights of a file with the names of a model, for the frames of the model.

    2-D convolutions are inflated over time. If the model has an attribute `first_conv`, the name of
    its first convolution, that one is adapted to the number of channels.

    Args:
        weights: Tensors of the file by name, with or without prefixes.
        model: Model, on any device.
    """
    target = model.state_dict()
    weights = strip_prefixes(weights, known=target.keys())
    inflated = [name for name in target if _is_image_weight(name, weights, target)]
    weights |= {name: inflate(weights[name], target[name].shape[2]) for name in inflated}

    name = f"{getattr(model, 'first_conv', '')}.weight"
    adapted = [name] if _has_other_channels(name, weights, target) else []
    weights |= {name: adapt_channels(weights[name], target[name].shape[1]) for name in adapted}
    return Adapted(weights, inflated, adapted)


def _has_other_channels(
    name: str, weights: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> bool:
    if name not in weights or name not in target:
        return False
    found, wanted = list(weights[name].shape), list(target[name].shape)
    is_rgb = found[1:2] == [3] != wanted[1:2]
    return is_rgb and found[:1] + found[2:] == wanted[:1] + wanted[2:]


def _is_image_weight(
    name: str, weights: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> bool:
    return name in weights and weights[name].dim() == 4 and target[name].dim() == 5


def adapt_channels(weight: Tensor, in_chans: int) -> Tensor:
    """Adapt a convolution over RGB to another number of input channels, as timm does.

    For one channel, the weights of the three are summed: a gray frame gives the output of the same
    frame in RGB. For others, they are repeated in turn and scaled by 3 / in_chans.

    Args:
        weight: Shape (O, 3, T, H, W).
        in_chans: Number of channels.

    Returns:
        Shape (O, in_chans, T, H, W).
    """
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    channels = [channel % 3 for channel in range(in_chans)]
    return weight[:, channels] * (3 / in_chans)


def inflate(weight: Tensor, num_frames: int) -> Tensor:
    """Inflate a 2-D convolution: repeat its weight over time and divide by the number of frames.

    A video of one repeated image then gives the output of the image.

    Args:
        weight: Shape (O, I, H, W).
        num_frames: Number of frames the inflated kernel spans.

    Returns:
        Shape (O, I, num_frames, H, W).

    Source: Carreira and Zisserman, Quo Vadis, Action Recognition?, arXiv:1705.07750, sec. 2.4.
    """
    return weight[:, :, None].repeat(1, 1, num_frames, 1, 1) / num_frames
