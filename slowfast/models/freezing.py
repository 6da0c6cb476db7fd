"""Freezing: parts of a model that a training leaves alone, chosen by patterns of their names."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from slowfast.models.build import build_model
from slowfast.utils.text import some

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the modules and parameters of a model whose names match.

    A frozen parameter gets no gradient. A frozen module also stays in evaluation mode, whoever
    calls `train()` on it or on a module that contains it: its BatchNorm statistics stay as they
    are, and its dropout and drop path are off. A module is frozen if its name or the name of a
    module that contains it matches, or if all of its parameters are frozen.

    Call it before you make an optimizer, wrap the model in DDP or compile it. Copies of the model,
    by `copy.deepcopy` or pickle, are frozen too. Weights still load.

    Args:
        model: Model, changed in place.
        patterns: Shell patterns of names as `named_modules` and `named_parameters` give them, such
            as `patch_embed*`, `blocks[12]`, `blocks3.0` or `*.bias`. `*` also matches dots.

    Raises:
        ValueError: If a pattern matches nothing. Then nothing is frozen.
        TypeError: If `patterns` is a string.
    """
    selection = _select(model, patterns)
    for parameter in selection.parameters:
        parameter.requires_grad_(False)

    modules = set(selection.modules)
    for module in model.modules():
        inside = set(module.parameters())
        if inside & selection.parameters and not any(p.requires_grad for p in inside):
            modules |= set(module.modules())
    for module in modules:
        module.eval()
        vars(module)["train"] = _StayInEvaluation(module)


def unfreeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Undo `freeze` for the modules and parameters of a model whose names match.

    They take the mode of the model, training or evaluation. An optimizer that exists already does
    not know the parameters: call its `add_param_group`.

    Args:
        model: Model, changed in place.
        patterns: Shell patterns, see `freeze`. `["*"]` unfreezes everything.

    Raises:
        ValueError: If a pattern matches nothing.
        TypeError: If `patterns` is a string.
    """
    selection = _select(model, patterns)
    for parameter in selection.parameters:
        parameter.requires_grad_(True)

    for module in filter(is_frozen, [*model.modules()]):
        is_trainable = any(parameter.requires_grad for parameter in module.parameters())
        if is_trainable or module in selection.modules:
            del vars(module)["train"]
            module.training = model.training


def is_frozen(module: nn.Module) -> bool:
    """Whether a module is frozen as a whole, so that it stays in evaluation mode."""
    return isinstance(vars(module).get("train"), _StayInEvaluation)


def frozen_parameters(model: nn.Module) -> list[str]:
    """Return the names of the parameters that get no gradient."""
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def frozen_tensors(model: nn.Module) -> set[str]:
    """Return the names of frozen parameters, and of the buffers in frozen modules."""
    names = {*frozen_parameters(model)}
    for prefix, module in model.named_modules():
        if is_frozen(module):
            buffers = module.named_buffers(prefix=prefix, recurse=False)
            names |= {name for name, _ in buffers}
    return names


class _StayInEvaluation:
    """The method `train` of a frozen module. It stays in evaluation mode.

    A module that was unfrozen or added inside a frozen one changes its mode as usual.

    Args:
        module: The frozen module. A copy of the module has a copy of this, which knows the copy.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        for child in self._module.children():
            child.train(mode)
        return self._module


# ---- Patterns --------------------------------------------------------------------------------


class _Selection(NamedTuple):
    """What patterns select in a model."""

    parameters: set[nn.Parameter]
    modules: set[nn.Module]  # with all modules inside them


def _select(model: nn.Module, patterns: Sequence[str]) -> _Selection:
    if isinstance(patterns, str):
        raise TypeError(f"the patterns are {patterns!r}. Use a list, such as [{patterns!r}]")
    problems = find_unmatched(model, patterns)
    if problems:
        raise ValueError("; ".join(problems))

    def is_selected(name: str) -> bool:
        return any(_matches(name, pattern) for pattern in patterns)

    parameters, modules = set(), set()
    for name, module in model.named_modules(remove_duplicate=False):
        if is_selected(name):
            modules |= set(module.modules())
            parameters |= set(module.parameters())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if is_selected(name):
            parameters.add(parameter)
    return _Selection(parameters, modules)


def _matches(name: str, pattern: str) -> bool:
    return name != "" and fnmatchcase(name, pattern)  # The model itself has the name "".


def find_unmatched(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return one sentence for each pattern that matches nothing, with the names that are near."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    names += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    parts = [name for name, _ in model.named_children()]

    problems = []
    for pattern in dict.fromkeys(patterns):
        if any(_matches(name, pattern) for name in names):
            continue

        near = difflib.get_close_matches(pattern.rstrip(".*"), names, n=3)
        remedy = f"Its parts are {some(parts, most=15)}"
        if near:
            remedy = f"The nearest names are {some(near)}"
        problems.append(
            f"{pattern!r} matches no module or parameter of {type(model).__name__}. {remedy}"
        )
    return problems


def find_pattern_problems(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return one sentence for each reason why a training cannot freeze what MODEL.FREEZE names.

    Args:
        model: Model, on any device. It stays as it is.
        patterns: The value of MODEL.FREEZE.
    """
    unmatched = find_unmatched(model, patterns)
    if unmatched:
        return [f"MODEL.FREEZE: {problem}" for problem in unmatched]

    trainable = {parameter for parameter in model.parameters() if parameter.requires_grad}
    if not patterns or trainable - _select(model, patterns).parameters:
        return []
    *_, (last, _) = model.named_parameters()
    layer = last.rpartition(".")[0] or last
    return [
        f"MODEL.FREEZE is {[*patterns]}, which leaves nothing to train. Leave out at least the "
        f"last layer, {layer}"
    ]


def find_problems(cfg: "CfgNode") -> list[str]:
    """Return one sentence for each reason why a training cannot freeze what its config names.

    The model is built on the meta device, so the config must have no other problem.
    """
    if not (cfg.TRAIN.ENABLE and cfg.MODEL.FREEZE):
        return []
    with torch.device("meta"):
        model = build_model(cfg)
    return find_pattern_problems(model, cfg.MODEL.FREEZE)
