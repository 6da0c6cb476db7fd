"""From a weight file to a model: find the tensors, inflate 2-D ones, and load all of them or raise."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from slowfast.utils.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)

# Where the files that circulate keep the tensors; a bare dict of tensors has none of them.
_WRAPPERS = ("model_state", "model", "state_dict")
_HEAD = ("head.weight", "head.bias")
_MOST_NAMES = 5  # in an error message


def load_weights(model: nn.Module, path: str, *, may_replace_head: bool = False) -> None:
    """Load a file of weights into a model; otherwise as `fill_weights`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `fill_weights`, or the file is damaged.
    """
    fill_weights(model, load_checkpoint(path), path=path, may_replace_head=may_replace_head)


def fill_weights(model: nn.Module, state: dict[str, Any], *, path: str, may_replace_head: bool = False) -> None:
    """Fill a model with the weights in the content of a file, and log what was done.

    Args:
        model: filled in place, and not touched at all if this raises.
        state: our checkpoint, or published weights: a bare dict of tensors, or one under model_state, model or
            state_dict, names with or without `module.` before them. 2-D convolutions are inflated over time.
        path: of the file, for messages.
        may_replace_head: keep the random head of the model where the file has one of another size, or none.

    Raises:
        ValueError: there are no weights, or they are not all of this model's and of its sizes.
    """
    weights = _find_tensors(state, path=path)
    target = model.state_dict()
    inflated = []
    for name in weights.keys() & target.keys():
        if weights[name].dim() == 4 and target[name].dim() == 5:
            weights[name] = inflate(weights[name], target[name].shape[2])
            inflated.append(name)
    # A count of training steps that older files lack; nothing in evaluation or training depends on it.
    missing = [name for name in target if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in target]
    resized = [name for name in weights if name in target and weights[name].shape != target[name].shape]
    if may_replace_head and (replaced := [name for name in _HEAD if name in {*missing, *resized}]):
        logger.info("%s: the head keeps its random weights: that of the file does not fit", path)
        for name in replaced:
            weights[name] = target[name]
        missing, resized = ([name for name in names if name not in _HEAD] for names in (missing, resized))
    if missing or unexpected or resized:
        sizes = [f"{name} {tuple(weights[name].shape)} for {tuple(target[name].shape)}" for name in resized]
        raise ValueError(
            f"{path} is not of this model: {len(missing)} of {len(target)} weights are missing{_some(missing)}, "
            f"{len(unexpected)} are unknown{_some(unexpected)}, {len(resized)} have another size{_some(sizes)}; "
            "check MODEL and UNIFORMER keys"
        )
    model.load_state_dict({name: weights.get(name, tensor) for name, tensor in target.items()})
    logger.info("%s: loaded %d weights, %d of them inflated over time", path, len(weights), len(inflated))


def inflate(weight: Tensor, num_frames: int) -> Tensor:
    """Return (O, I, num_frames, H, W) of (O, I, H, W): repeated over time and divided by num_frames.

    A video of one repeated image then gives what the image gave.

    Source: Carreira and Zisserman, Quo Vadis, Action Recognition?, arXiv:1705.07750, sec. 2.4.
    """
    return weight[:, :, None].repeat(1, 1, num_frames, 1, 1) / num_frames


def _find_tensors(state: dict[str, Any], *, path: str) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    tensors = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError(f"{path}: holds no weights; found {', '.join(map(str, state))[:200] or 'nothing'}")
    return tensors


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > _MOST_NAMES else ""
    return f" ({', '.join(names[:_MOST_NAMES])}{more})" if names else ""
