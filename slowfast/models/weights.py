"""Weights of a model from a file: matched by name, adapted to its input, with the head reordered.

Either all weights of the file are loaded, apart from those that may differ, or none are. A report
says what happened to each of them.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slowfast.models.weight_adaptation import adapt_to_input
from slowfast.models.weight_files import find_damage, tensors_in
from slowfast.utils.class_names import describe_difference, find_order
from slowfast.utils.text import count, some

logger = logging.getLogger(__name__)

_COUNTER = "num_batches_tracked"  # BatchNorm counter, absent from older files and never used.


class Report(NamedTuple):
    """What happened to the weights, with the share of each in the values of the model, by name."""

    loaded: Mapping[str, float]
    inflated: Mapping[str, float]  # The weights in `loaded` that were 2-D.
    dropped: Mapping[str, float]  # Another size or other classes: the model keeps its own.
    missing: Mapping[str, float]  # Absent from the file: the model keeps its own.
    unexpected: Mapping[str, float]  # Unknown to the model. Their shares are of the file.
    class_order: Sequence[int] = ()  # Row of the file's head for each row of the model's.
    adapted: Mapping[str, float] = {}  # The weights in `loaded` with other input channels.

    @property
    def is_whole(self) -> bool:
        """Whether the file and the model have the same weights and all were loaded unchanged."""
        changed = self.inflated, self.adapted, self.dropped, self.missing, self.unexpected
        return not any(changed) and not self.class_order

    def __str__(self) -> str:
        counts = {"loaded": self.loaded, "of them inflated over time": self.inflated}
        if self.adapted:
            counts["adapted to the channels of the frames"] = self.adapted
        named = {"dropped": self.dropped, "missing": self.missing, "unexpected": self.unexpected}

        texts = [f"{len(shares)} {kind}{_percent(shares)}" for kind, shares in counts.items()]
        for kind, shares in named.items():
            texts.append(f"{len(shares)} {kind}{_percent(shares)}{_in_brackets([*shares])}")
        return ", ".join(texts)


def load_weights(
    model: nn.Module,
    path: str,
    *,
    use_ema: bool = True,
    may_replace_head: bool = False,
    allowed: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
) -> Report:
    """Load a file of weights into a model and log the report. See `fill_weights` for the rules.

    Args:
        model: Model, filled in place.
        path: Path or address of the file.
        use_ema: Whether to load the EMA weights of a checkpoint that has them (TRAIN.EMA_DECAY).
        may_replace_head: Whether the model may keep its random head.
        allowed: Shell patterns of weights that may differ.
        class_names: Class names of the data in the order of the labels, [] if they are unknown,
            which is a warning. None if there is no data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `fill_weights` raises it, or if the file is damaged according to its own
            checksums or to `<name>.sha256` beside it.
    """
    state = read_weights(path, use_ema=use_ema)
    if state["class_names"] and class_names is not None and not class_names:
        logger.warning(
            "%s names its classes, but the data has no class names to compare them with. Unless "
            "the labels are in the same order, set DATA.CLASS_NAMES.",
            path,
        )

    report = fill_weights(
        model,
        state,
        path=path,
        may_replace_head=may_replace_head,
        allowed=allowed,
        class_names=class_names or (),
    )
    if report.is_whole:  # `fill_weights` logs all other reports.
        _log(report, path=path)
    return report


def read_weights(path: str, *, use_ema: bool = True) -> dict[str, Any]:
    """Return the content of a file of weights: `model_state` to load, and `class_names`.

    Args:
        path: Path or address of the file.
        use_ema: Whether `model_state` holds the EMA weights of a checkpoint that has them.

    Raises:
        FileNotFoundError, ValueError: As in `load_weights`.
    """
    # Filling a model from memory must not require the libraries that read files.
    from slowfast.models.zoo import published_class_names
    from slowfast.utils.checkpoint import load_checkpoint
    from slowfast.utils.exported_folder import exported_at

    state = load_checkpoint(path)
    if exported := exported_at(path):
        state |= exported.entries()
    if use_ema and "ema_state" in state:
        logger.info("%s: loading the EMA weights", path)
        state["model_state"] = state["ema_state"]
    if "class_names" not in state:
        state["class_names"] = published_class_names(path)
    return state


def read_class_names(path: str) -> list[str]:
    """Return the class names of a file of weights in the order of its head, [] if it has none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, see `load_weights`.
    """
    from slowfast.models.zoo import published_class_names
    from slowfast.utils.checkpoint import read_header

    header = read_header(path)
    return list(header["class_names"] if "class_names" in header else published_class_names(path))


def fill_weights(
    model: nn.Module,
    state: Mapping[str, Any],
    *,
    path: str,
    may_replace_head: bool = False,
    allowed: Sequence[str] = (),
    class_names: Sequence[str] = (),
) -> Report:
    """Fill a model with the weights of a checkpoint in memory. Log the report if anything differs.

    Args:
        model: Model, filled in place. If this raises, it stays as it is.
        state: Content of a checkpoint of this package or of published weights: tensors by name, or
            such a dict inside others. Prefixes such as `module.` are stripped from the names, and
            2-D convolutions are inflated over time.
        path: Path of the file, for messages.
        may_replace_head: Whether the model keeps its random head if the one in the file is missing,
            is of another kind or size, or is for other classes. Weights that the model declares as
            `fresh_weights`, such as layer scale, may then be missing too.
        allowed: Shell patterns of the names of weights that may be missing, be unexpected or have
            another size.
        class_names: Class names of the data in the order of the labels. If the file has the same
            classes in another order, the rows of its head are reordered. If either has no names,
            the head is loaded as it is.

    Raises:
        ValueError: If there are no weights, if they do not fit the model or its classes, or if
            some cannot be weights: not finite, above MAX_WEIGHT or a negative variance.
    """
    target = model.state_dict()
    weights, inflated, adapted = adapt_to_input(tensors_in(state), model)
    if not weights:
        found = ", ".join(map(str, state))[:200] or "nothing"
        raise ValueError(f"{path}: holds no weights. Found: {found}.")

    head = head_names(model)
    mismatch = _compare(weights, target)
    heads = _compare_heads(weights, model)
    order, difference = _compare_classes(state.get("class_names"), class_names if head else ())
    has_other_head = difference or heads.differ or {*head} & {*mismatch.missing, *mismatch.resized}

    kept_head: set[str] = set()
    if may_replace_head and has_other_head:
        kept_head = heads.of_model if heads.differ else {*head}
    if difference and not kept_head:
        raise ValueError(f"{path} {difference}. Check DATA.CLASS_NAMES.")
    unused = heads.of_file - heads.of_model if kept_head or not heads.has_classifier else set()
    allowed = [*allowed, *kept_head, *unused]
    if may_replace_head:
        patterns = getattr(model, "fresh_weights", ())
        allowed += {*mismatch.missing} - {*_drop_matches(mismatch.missing, patterns)}
    _refuse_mismatch(path, weights, target, head=head, allowed=allowed)

    kept = kept_head | {*mismatch.resized}
    loaded = {name: weights[name] for name in target if name in weights and name not in kept}
    _refuse_damage(path, loaded, target)

    if kept_head:
        other = "has another kind of head" if heads.differ and heads.of_file else ""
        reason = difference or other or "has a head of another size, or none"
        logger.info("%s %s, so the head keeps its random weights", path, reason)
        order = []
    if order:
        logger.info(
            "%s orders the classes differently from the data, so its head is reordered", path
        )
        loaded |= {name: loaded[name][order] for name in head if name in loaded}

    model.load_state_dict(loaded, strict=False)
    report = Report(
        loaded=_shares(loaded, target),
        inflated=_shares([name for name in inflated if name in loaded], target),
        dropped=_shares([name for name in target if name in weights and name in kept], target),
        missing=_shares(mismatch.missing, target),
        unexpected=_shares(mismatch.unexpected, weights),
        class_order=order,
        adapted=_shares([name for name in adapted if name in loaded], target),
    )
    if not report.is_whole:
        _log(report, path=path)
    return report


def fills(state: Mapping[str, Any], model: nn.Module) -> bool:
    """Return whether a checkpoint has every weight of a model, which may be on the meta device.

    BatchNorm counters do not count, see `allocate`.
    """
    target = model.state_dict()
    weights = adapt_to_input(tensors_in(state), model).weights
    mismatch = _compare(weights, target)
    buffers = {name for name, _ in model.named_buffers()}
    return not (mismatch.missing or mismatch.resized or buffers - target.keys())


def allocate(model: nn.Module) -> None:
    """Move a model from the meta device to the CPU, for weights that fill it.

    Only the counters of BatchNorm, which older files do not have, get a value. `to_empty` would
    import torch's compiler, which takes seconds.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            values = nn.Parameter(_empty(parameter), requires_grad=parameter.requires_grad)
            setattr(module, name, values)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, _empty(buffer).zero_() if name == _COUNTER else _empty(buffer))


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


# ---- The head --------------------------------------------------------------------------------


def head_names(model: nn.Module) -> list[str]:
    """Return the names of the weights and biases of the last layers, with a row for each class.

    The layer that a test uses comes first. A model without classes has none.
    """
    if getattr(model, "num_classes", None) == 0:
        return []
    names = [name for name, _ in model.named_parameters()]
    heads = []
    for classifier in getattr(model, "classifiers", ("",)):
        inside = [name for name in names if name.startswith(classifier and f"{classifier}.")]
        layer = inside[-1].rpartition(".")[0]
        heads += [name for name in inside if name.rpartition(".")[0] == layer]
    return heads


class _Heads(NamedTuple):
    """Names of the weights in the heads of a file and a model. Empty for a model of another kind.

    A head may have a pooling and several layers. The head of the model has no classifier if it
    returns features.
    """

    of_file: set[str]
    of_model: set[str]
    has_classifier: bool

    @property
    def differ(self) -> bool:
        """Whether the heads are of different kinds, whatever their sizes."""
        if self.has_classifier:
            return self.of_file != self.of_model
        return not self.of_model <= self.of_file


def _compare_heads(weights: Mapping[str, Tensor], model: nn.Module) -> _Heads:
    modules: tuple[str, ...] = getattr(model, "head_modules", ())
    prefixes = tuple(f"{module}." for module in modules)
    return _Heads(
        of_file={name for name in weights if name.startswith(prefixes)},
        of_model={name for name in model.state_dict() if name.startswith(prefixes)},
        has_classifier=getattr(model, "num_classes", None) != 0,
    )


# ---- Differences between a file and a model --------------------------------------------------


class _Mismatch(NamedTuple):
    """Names of the weights that differ between a file and a model."""

    missing: list[str]
    unexpected: list[str]
    resized: list[str]


def _compare(
    weights: Mapping[str, Tensor], target: Mapping[str, Tensor], *, allowed: Sequence[str] = ()
) -> _Mismatch:
    """Return how the weights of a file differ from those of a model, except where allowed."""
    shared = [name for name in target if name in weights]
    mismatch = _Mismatch(
        missing=[name for name in target if name not in weights and not name.endswith(_COUNTER)],
        unexpected=[name for name in weights if name not in target],
        resized=[name for name in shared if weights[name].shape != target[name].shape],
    )
    return _Mismatch._make(_drop_matches(names, allowed) for names in mismatch)


def _drop_matches(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if not any(fnmatchcase(name, p) for p in patterns)]


def _refuse_mismatch(
    path: str,
    weights: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    *,
    head: Sequence[str],
    allowed: Sequence[str],
) -> None:
    """Raise ValueError if the weights of a file differ from those of a model and may not."""
    missing, unexpected, resized = _compare(weights, target, allowed=allowed)
    if not (missing or unexpected or resized):
        return

    if {*resized} <= {*head} and not missing and not unexpected:
        name = resized[0]
        raise ValueError(
            f"{path} has a head for {count(len(weights[name]), 'class')}, but the model has one "
            f"for {len(target[name])}. Check MODEL.NUM_CLASSES."
        )
    sizes = [
        f"{name} {tuple(weights[name].shape)} for {tuple(target[name].shape)}" for name in resized
    ]
    raise ValueError(
        f"{path} does not fit this model: {len(missing)} of {len(target)} weights are "
        f"missing{_in_brackets(missing)}, {len(unexpected)} are "
        f"unexpected{_in_brackets(unexpected)}, {len(sizes)} have another "
        f"size{_in_brackets(sizes)}. Check the MODEL and UNIFORMER keys, or allow the differences "
        "with MODEL.ALLOWED_MISMATCH."
    )


def _refuse_damage(path: str, weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    damage = find_damage(weights, known=target)
    if damage:
        raise ValueError(
            f"{path}: holds values that cannot be weights: {some(damage)}. The "
            "file is damaged or its training diverged. Copy or download it again, or use an "
            "earlier checkpoint."
        )


def _compare_classes(names: Any, wanted: Sequence[str]) -> tuple[list[int], str]:
    """Compare the class names of a file with those of the data.

    Returns:
        Index in the file of each class of the data, and how the classes differ. The indices are
        empty if the order is the same or unknown, the difference if there is none.
    """
    is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not (wanted and names and is_named):
        return [], ""

    order = find_order(names, wanted)
    if order is None:
        return [], f"was trained on other classes: {describe_difference(names, wanted)}"
    return [] if order == sorted(order) else order, ""


# ---- Report ----------------------------------------------------------------------------------


def _log(report: Report, *, path: str) -> None:
    num_weights = len({*report.loaded, *report.dropped, *report.missing})
    logger.info("%s: of %d weights, %s", path, num_weights, report)


def _shares(names: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, float]:
    total = sum(tensor.numel() for tensor in tensors.values())
    return {name: tensors[name].numel() / total for name in names}


def _percent(shares: Mapping[str, float]) -> str:
    return f", {100 * sum(shares.values()):.2f}%" if shares else ""


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({some(names)})" if names else ""
