"""Tensors in the content of weight files: finding them, their names in the model, and damage."""

import re
from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor

from slowfast.utils.text import count

# Weights and running statistics of trained networks stay far below 1e6, even for inputs that are
# not normalized. One flipped exponent bit often gives a value above 1e30. The limit leaves room on
# both sides.
MAX_WEIGHT = 1e8

# Keys that hold the tensors in published files, the most specific first.
_WRAPPERS = (
    "model_state",
    "model",
    "state_dict",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "model_ema",
    "state_dict_ema",
)
# Prefixes that names get when one model is saved inside another.
_PREFIX = re.compile(r"(?:module|model|net|network|backbone|encoder|_orig_mod)\.")
# Last layer in the names of mmaction2, and its name in UniFormer.
_MMACTION_HEAD, _HEAD = "cls_head.fc_cls.", "head."
_VARIANCE = "running_var"  # Suffix of the name in BatchNorm.
# Names in the models of this package.
_LAST_LAYERS = (
    "head.weight",
    "head.fc2.weight",
    "head.1.weight",
    "fc.weight",
    "classifier.1.weight",
)
_FIRST_CONVOLUTIONS = (
    "patch_embed1.proj.weight",
    "patch_embed1.proj.0.weight",
    "patch_embed.proj.weight",
    "conv_proj.weight",
    "stem.0.weight",
    "features.0.0.0.weight",
)


def tensors_in(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the first dict under a wrapper key at any depth, or of `state`."""
    for key in _WRAPPERS:
        if isinstance(state.get(key), Mapping):
            tensors = tensors_in(state[key])
            if tensors:
                return tensors
    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def strip_prefixes(weights: dict[str, Tensor], *, known: Collection[str]) -> dict[str, Tensor]:
    """Return weights without the prefixes that keep most of their names from being known.

    The last layer of a model of mmaction2 gets its name in UniFormer, if that is known.

    Args:
        weights: Tensors by name.
        known: Names of the weights of the model.
    """
    if f"{_HEAD}weight" in known:
        weights = {_rename_head(name): tensor for name, tensor in weights.items()}
    best = weights
    while any(_PREFIX.match(name) for name in weights):
        stripped = {}
        for name, tensor in weights.items():
            stripped[_PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name] = tensor
        weights = stripped

        is_collision = len(weights) < len(best)
        if not is_collision and len(weights.keys() & known) > len(best.keys() & known):
            best = weights
    return dict(best)


def _rename_head(name: str) -> str:
    prefix, is_head, parameter = name.partition(_MMACTION_HEAD)
    return f"{prefix}{_HEAD}{parameter}" if is_head else name


class FileShape(NamedTuple):
    """What the weights of a file say about the model that they belong to.

    Attributes:
        num_classes: Number of classes of its head, 0 if it has none that is known.
        in_chans: Number of channels of its frames, 0 if its first convolution is unknown.
        head: Kind of its head, a value of MODEL.HEAD.
    """

    num_classes: int
    in_chans: int
    head: str


def shape_of_file(state: Mapping[str, Any]) -> FileShape:
    """Return what the weights of a file say about the models of this package."""
    sizes = {
        _bare(_rename_head(name)): tuple(tensor.shape) for name, tensor in tensors_in(state).items()
    }
    num_classes = next((sizes[name][0] for name in _LAST_LAYERS if name in sizes), 0)
    stems = (sizes[name] for name in _FIRST_CONVOLUTIONS if name in sizes)
    stem = next((size for size in stems if len(size) > 1), (0, 0))

    head = "mlp" if "head.fc2.weight" in sizes else "linear"
    return FileShape(num_classes, stem[1], "attentive" if "pool.query" in sizes else head)


def _bare(name: str) -> str:
    while _PREFIX.match(name):
        name = _PREFIX.sub("", name, count=1)
    return name


def find_damage(weights: Mapping[str, Tensor], *, known: Mapping[str, Tensor]) -> list[str]:
    """Return each tensor that cannot be a weight, with its name and the reason.

    Args:
        weights: Tensors of the file by name.
        known: Tensors of the model by name. A value that the model itself has, such as -inf in an
            attention mask, is valid.
    """
    damage = []
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
            continue
        problem = _describe_damage(tensor, is_variance=name.endswith(_VARIANCE))
        if problem and not torch.equal(tensor, known[name].to(tensor)):
            damage.append(f"{name} ({problem})")
    return damage


def _describe_damage(tensor: Tensor, *, is_variance: bool) -> str:
    values = tensor.detach().to_dense().float()
    low, high = (float(bound) for bound in values.aminmax())
    if not (isfinite(low) and isfinite(high)):  # aminmax propagates NaN.
        num_non_finite = int((~values.isfinite()).sum())
        return count(num_non_finite, "non-finite value")
    if max(-low, high) > MAX_WEIGHT:
        return f"up to {max(-low, high):.1e}"
    return f"a variance of {low:.1e}" if is_variance and low < 0 else ""
