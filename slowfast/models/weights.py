"""From a weight file to a model: find the tensors, inflate 2-D ones, bring the head into the order of the classes.

All that a file has for a model is loaded, but for what may differ, or nothing is; a report says what became of what.
"""

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slowfast.utils.class_names import describe_difference, find_order
from slowfast.utils.text import count, some

logger = logging.getLogger(__name__)

# Where the files that circulate keep the tensors, the surest first; a bare dict of tensors has none of them.
_WRAPPERS = ("model_state", "model", "state_dict", "module", "net", "network", "weights", "params")
# What saving one model inside another puts before its names.
_PREFIX = re.compile(r"(?:module|model|net|network|backbone|encoder|_orig_mod)\.")
_VARIANCE = "running_var"  # of BatchNorm
_COUNTER = "num_batches_tracked"  # of BatchNorm: older files lack it, and nothing depends on it
_MOST_NAMES = 5  # in a message
# Weights and running statistics of trained networks stay far below 1e6, even without normalized inputs. One wrong bit
# in the exponent of a number often makes it larger than 1e30. The limit leaves room on both sides.
LARGEST_WEIGHT = 1e8


class Report(NamedTuple):
    """What became of the weights: by name, the share that each has in the numbers of the model."""

    loaded: Mapping[str, float]
    inflated: Mapping[str, float]  # those of `loaded` that were 2-D
    dropped: Mapping[
        str, float
    ]  # of another size, or a head for other classes: the model keeps its own
    missing: Mapping[str, float]  # from the file: the model keeps its own
    unexpected: Mapping[str, float]  # unknown to the model; the shares are of the file
    class_order: Sequence[
        int
    ] = ()  # rows of the file's head in the order of the model's; () where it is the same

    @property
    def is_whole(self) -> bool:
        """Whether all weights of the model are those of the file, as they are there, and the file has no others."""
        return not (
            self.inflated or self.dropped or self.missing or self.unexpected or self.class_order
        )

    def __str__(self) -> str:
        counts = {"loaded": self.loaded, "of them inflated over time": self.inflated}
        names = {"dropped": self.dropped, "missing": self.missing, "unexpected": self.unexpected}
        return ", ".join(
            [
                *(f"{len(shares)} {title}{_percent(shares)}" for title, shares in counts.items()),
                *(
                    f"{len(shares)} {title}{_percent(shares)}{_some([*shares])}"
                    for title, shares in names.items()
                ),
            ]
        )


def load_weights(
    model: nn.Module,
    path: str,
    *,
    averaged: bool = True,
    may_replace_head: bool = False,
    allowed: Sequence[str] = (),
    class_names: Sequence[str] = (),
) -> Report:
    """Load a file of weights into a model, and log what was done; otherwise as `fill_weights`.

    Args:
        model: As there, like all that is not described here.
        path: Path or address of the file.
        averaged: Whether to take the averaged weights of a checkpoint that has them (TRAIN.EMA_DECAY).
        may_replace_head: As there.
        allowed: As there.
        class_names: As there.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `fill_weights`, or the file is damaged: by its checksums, or by `<name>.sha256` beside it.
    """
    # Only here, so that a model can be filled from memory without the libraries that read files.
    from slowfast.models.zoo import published_class_names
    from slowfast.utils.checkpoint import load_checkpoint

    state = load_checkpoint(path)
    if averaged and "ema_state" in state:
        logger.info("%s holds averaged weights, which are taken", path)
        state["model_state"] = state["ema_state"]
    if "class_names" not in state:
        state["class_names"] = published_class_names(path)
    if state["class_names"] and not class_names:
        logger.warning(
            "%s was trained on named classes, but the data has no names to compare them with; unless its labels are in "
            "the same order, set DATA.CLASS_NAMES",
            path,
        )
    report = _fill(
        model,
        state,
        path=path,
        may_replace_head=may_replace_head,
        allowed=allowed,
        class_names=class_names,
    )
    _log(report, path=path)
    return report


def fill_weights(
    model: nn.Module,
    state: Mapping[str, Any],
    *,
    path: str,
    may_replace_head: bool = False,
    allowed: Sequence[str] = (),
    class_names: Sequence[str] = (),
) -> Report:
    """Fill a model with the weights in the content of a file, and log what was not loaded as it is, if anything.

    Args:
        model: The model, filled in place, and not touched at all if this raises.
        state: Our checkpoint, or published weights: tensors by name, or such a dict inside others, with or without
            `module.` and the like before the names. 2-D convolutions are inflated over time.
        path: Path of the file, for messages.
        may_replace_head: Whether the model keeps its random head where the file has one of another size or for other
            classes, or none.
        allowed: Shell patterns of names of weights that may be missing, unexpected, or of another size.
        class_names: Names of the data's classes, in the order of the labels. A file with the same ones in another
            order has the rows of its head reordered; one without names, or for data without names, is taken as it is.

    Raises:
        ValueError: There are no weights, or they are not all of this model and of its sizes, or for other classes, or
            some are numbers that no weights are: not finite, above LARGEST_WEIGHT, a negative variance.
    """
    report = _fill(
        model,
        state,
        path=path,
        may_replace_head=may_replace_head,
        allowed=allowed,
        class_names=class_names,
    )
    if not report.is_whole:
        _log(report, path=path)
    return report


def _log(report: Report, *, path: str) -> None:
    num_weights = len({*report.loaded, *report.dropped, *report.missing})
    logger.info("%s: of %d weights, %s", path, num_weights, report)


def _fill(
    model: nn.Module,
    state: Mapping[str, Any],
    *,
    path: str,
    may_replace_head: bool,
    allowed: Sequence[str],
    class_names: Sequence[str],
) -> Report:
    target = model.state_dict()
    weights = _strip_prefixes(tensors_in(state), known=target.keys())
    if not weights:
        raise ValueError(
            f"{path}: holds no weights; found {', '.join(map(str, state))[:200] or 'nothing'}"
        )
    inflated = [
        name
        for name in target
        if name in weights and weights[name].dim() == 4 == target[name].dim() - 1
    ]
    weights |= {name: inflate(weights[name], target[name].shape[2]) for name in inflated}

    missing = [name for name in target if name not in weights and not name.endswith(_COUNTER)]
    unexpected = [name for name in weights if name not in target]
    resized = [
        name for name in target if name in weights and weights[name].shape != target[name].shape
    ]

    order, difference = _compare_classes(state.get("class_names"), class_names)
    head = head_names(model)
    own_head = head if may_replace_head and (difference or {*head} & {*missing, *resized}) else []
    if difference and not own_head:
        raise ValueError(f"{path} {difference}; check DATA.CLASS_NAMES")
    may_differ = {
        *own_head,
        *(name for name in (*target, *weights) if any(fnmatchcase(name, p) for p in allowed)),
    }
    if not may_differ.issuperset([*missing, *unexpected, *resized]):
        raise ValueError(
            _describe_mismatch(
                path,
                missing=[name for name in missing if name not in may_differ],
                unexpected=[name for name in unexpected if name not in may_differ],
                sizes={
                    name: (weights[name], target[name])
                    for name in resized
                    if name not in may_differ
                },
                num_weights=len(target),
                head=head,
            )
        )

    dropped = [name for name in target if name in weights and name in {*resized, *own_head}]
    loaded = {name: weights[name] for name in target if name in weights and name not in dropped}
    if damage := _find_damage(loaded, known=target):
        raise ValueError(
            f"{path}: holds numbers that no weights are: {some(damage, most=_MOST_NAMES)}; the file is damaged, or its "
            "training diverged: copy or download it again, or take an earlier checkpoint"
        )
    if order and not own_head:
        loaded |= {name: loaded[name][order] for name in head if name in loaded}
        logger.info(
            "%s has the data's classes in another order: the rows of its head are reordered", path
        )
    if own_head:
        reason = difference or "has a head of another size, or none"
        logger.info("%s %s; the head keeps its random weights", path, reason)
    model.load_state_dict(loaded, strict=False)
    return Report(
        loaded=_shares(loaded, target),
        inflated=_shares([name for name in inflated if name in loaded], target),
        dropped=_shares(dropped, target),
        missing=_shares(missing, target),
        unexpected=_shares(unexpected, weights),
        class_order=[] if own_head else order,
    )


def head_names(model: nn.Module) -> list[str]:
    """Return the names of the weight and the bias of the last layer, whose rows stand for the classes."""
    names = [name for name, _ in model.named_parameters()]
    layer = names[-1].rpartition(".")[0]
    return [name for name in names if name.rpartition(".")[0] == layer]


def inflate(weight: Tensor, num_frames: int) -> Tensor:
    """Return (O, I, num_frames, H, W) of (O, I, H, W): repeated over time and divided by num_frames.

    A video of one repeated image then gives what the image gave.

    Source: Carreira and Zisserman, Quo Vadis, Action Recognition?, arXiv:1705.07750, sec. 2.4.
    """
    return weight[:, :, None].repeat(1, 1, num_frames, 1, 1) / num_frames


def tensors_in(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors in the first dict that a wrapper leads to, at any depth, or in this one."""
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), Mapping) and (tensors := tensors_in(state[wrapper])):
            return tensors
    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _find_damage(weights: Mapping[str, Tensor], *, known: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that cannot be weights, with what is wrong; those that the model itself has are right."""
    damage = []
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
            continue
        problem = _describe_damage(tensor, is_variance=name.endswith(_VARIANCE))
        if problem and not torch.equal(tensor, known[name].to(tensor)):  # such as a mask of -inf
            damage.append(f"{name} ({problem})")
    return damage


def _describe_damage(tensor: Tensor, *, is_variance: bool) -> str:
    numbers = tensor.detach().to_dense().float()
    low, high = (float(bound) for bound in numbers.aminmax())
    if not (isfinite(low) and isfinite(high)):  # aminmax passes NaN on
        num_wrong = int((~numbers.isfinite()).sum())
        return f"{count(num_wrong, 'number')} not finite"
    if max(-low, high) > LARGEST_WEIGHT:
        return f"up to {max(-low, high):.1e}"
    return f"a variance of {low:.1e}" if is_variance and low < 0 else ""


def _strip_prefixes(weights: dict[str, Tensor], *, known: Collection[str]) -> dict[str, Tensor]:
    """The weights, less as many prefixes of wrappers as makes most of their names known."""
    best = weights
    while any(map(_PREFIX.match, weights)):
        weights = {
            _PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name: weights[name]
            for name in weights
        }
        if len(weights) == len(best) and len(weights.keys() & known) > len(best.keys() & known):
            best = weights
    return dict(best)


def _compare_classes(names: Any, wanted: Sequence[str]) -> tuple[list[int], str]:
    """The order in which a file's classes are the data's, [] if it is theirs or unknown; and how they differ, or ""."""
    if (
        not wanted
        or not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) for name in names)
    ):
        return [], ""
    order = find_order(names, wanted)
    if order is None:
        return [], f"was trained on other classes: {describe_difference(names, wanted)}"
    return [] if order == sorted(order) else order, ""


def _shares(names: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, float]:
    total = sum(tensor.numel() for tensor in tensors.values())
    return {name: tensors[name].numel() / total for name in names}


def _describe_mismatch(
    path: str,
    *,
    missing: list[str],
    unexpected: list[str],
    sizes: dict[str, tuple[Tensor, Tensor]],
    num_weights: int,
    head: list[str],
) -> str:
    """What is wrong with a file; sizes: its tensor and the model's of each name."""
    if sizes.keys() <= {*head} and not missing and not unexpected:
        (ours, theirs), *_ = sizes.values()
        return (
            f"{path} has a head for {count(len(ours), 'class')}, but the model has one for {len(theirs)}; "
            "check MODEL.NUM_CLASSES"
        )
    resized = [
        f"{name} {tuple(ours.shape)} for {tuple(theirs.shape)}"
        for name, (ours, theirs) in sizes.items()
    ]
    return (
        f"{path} is not of this model: {len(missing)} of {num_weights} weights are missing{_some(missing)}, "
        f"{len(unexpected)} are unknown{_some(unexpected)}, {len(resized)} have another size{_some(resized)}; "
        "check MODEL and UNIFORMER keys, or allow it with MODEL.ALLOWED_MISMATCH"
    )


def _percent(shares: Mapping[str, float]) -> str:
    return f", {100 * sum(shares.values()):.2f}%" if shares else ""


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _MOST_NAMES else ""
    return f" ({', '.join(names[:_MOST_NAMES])}{more})" if names else ""
