"""Weights of an ensemble that minimize the NLL on a list, such as that of the validation."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slowfast.evaluation.ensemble import weights_checksum
from slowfast.evaluation.fusion import log_softmax
from slowfast.evaluation.members import MemberScores, read_members
from slowfast.evaluation.result import Result, require_labels
from slowfast.evaluation.same_list import check_same_classes, check_same_list
from slowfast.utils.text import count

_MAX_GAP = 1e-10  # of the NLL to its minimum
_MAX_STEPS = 50
_MAX_HALVINGS = 30
_MAX_EXCHANGES = 10_000
_DIGITS = 6  # of a weight. The NLL is flat at its minimum


class TunedWeights(NamedTuple):
    """Weights of the members, and what they were chosen on."""

    weights: tuple[float, ...]  # their sum is 1
    nll: float  # of the ensemble with these weights
    equal_nll: float  # of the ensemble with equal weights
    num_videos: int  # videos that all members scored


class _Curve(NamedTuple):
    """The NLL at some weights, and its derivatives with respect to them."""

    value: float
    slope: NDArray[np.float64]  # (M,)
    curvature: NDArray[np.float64]  # (M, M)
    num_videos: int


def check_same_members(members: Sequence[Result], tuning: Sequence[Result]) -> None:
    """Check that results to choose weights on are of the same members, on another list.

    Args:
        members: Members of the ensemble.
        tuning: A result of each member in the same order.

    Raises:
        ValueError: If a result is of other weights or classes, or the list is that of the ensemble.
    """
    if len(tuning) != len(members):
        raise ValueError(
            f"cannot choose weights on {count(len(tuning), 'result')} for "
            f"{count(len(members), 'member')}. Name one result per member, in the same order"
        )
    for number, (member, other) in enumerate(zip(members, tuning, strict=True), 1):
        here, there = weights_checksum(member), weights_checksum(other)
        if here != there:
            raise ValueError(
                f"member {number} is {member.folder}, but {other.folder} is a result of other "
                f"weights: their SHA-256 is {there[:16]}..., and not {here[:16]}... Name results "
                "of the same weights, in the same order"
            )
    check_same_classes([members[0], *tuning])

    lists = [result.record.identity.get("paths_sha256") for result in (members[0], tuning[0])]
    if lists[0] is not None and lists[0] == lists[1]:
        raise ValueError(
            f"{members[0].folder} and {tuning[0].folder} are results of the same videos. Weights "
            "that are chosen on the videos of the ensemble overstate it. Name results of another "
            "list, such as that of the validation"
        )


def choose_weights(results: Sequence[Result], *, combine: str) -> TunedWeights:
    """Return the weights that minimize the NLL of an ensemble, over the videos all members scored.

    The NLL is a convex function of the weights. Newton's method on the simplex of the weights reads
    the scores about ten times and holds one block of them at a time.

    Args:
        results: A result of each member, of the same list.
        combine: What the ensemble averages, one of `members.COMBINATIONS`.

    Raises:
        ShardError: If a shard is damaged.
        ValueError: If the results are of different lists or classes, the list has no labels, or no
            video was scored by all members.
    """
    require_labels(results, purpose="choose the weights")
    check_same_list(results)
    labels = results[0].predictions("label")["label"].to_numpy()

    def curve_at(weights: NDArray[np.float64]) -> _Curve:
        return _measure(read_members(results, combine=combine), labels, weights, combine=combine)

    weights = np.full(len(results), 1 / len(results))
    curve = first = curve_at(weights)
    for _ in range(_MAX_STEPS):
        if weights @ curve.slope - curve.slope.min() < _MAX_GAP:
            break
        step = _newton_step(weights, curve)
        found = None
        for halving in range(_MAX_HALVINGS):
            candidate = weights + step / 2**halving
            found = curve_at(candidate)
            if found.value <= curve.value + 1e-4 * (curve.slope @ step) / 2**halving:
                break
        else:
            break  # the NLL cannot be computed more precisely
        weights, curve = candidate, found

    rounded = np.round(weights, _DIGITS)
    rounded /= rounded.sum()
    return TunedWeights(tuple(rounded.tolist()), curve.value, first.value, curve.num_videos)


def _measure(
    blocks: Iterator[MemberScores],
    labels: NDArray[np.int32],
    weights: NDArray[np.float64],
    *,
    combine: str,
) -> _Curve:
    """Return the NLL of an ensemble and its derivatives, in one pass over the scores."""
    measure = _measure_logits if combine == "logits" else _measure_probabilities
    num_members, num_videos, value = len(weights), 0, 0.0
    slope, curvature = np.zeros(num_members), np.zeros((num_members, num_members))
    for block in blocks:
        block_labels = labels[block.videos[block.is_scored]]
        if not len(block_labels):
            continue
        nll, first, second = measure(block.scores, block_labels, weights)
        num_videos += len(block_labels)
        value += nll
        slope += first
        curvature += second

    if not num_videos:
        raise ValueError("no video was scored by all results to choose the weights on")
    return _Curve(value / num_videos, slope / num_videos, curvature / num_videos, num_videos)


_Sums = tuple[float, NDArray[np.float64], NDArray[np.float64]]


def _measure_logits(
    scores: NDArray[np.float64], labels: NDArray[np.int32], weights: NDArray[np.float64]
) -> _Sums:
    """Return the sums of the NLL, its gradient and its Hessian, for logits (M, N, K)."""
    rows = np.arange(len(labels))
    relative = scores - scores[:, rows, labels][:, :, None]  # to the logit of the label
    log_probabilities = log_softmax(np.tensordot(weights, relative, axes=1))  # (N, K)
    weighted = np.exp(log_probabilities) * relative  # (M, N, K)

    # NLL = log(sum(exp(w . relative))), a function with mean and covariance as derivatives.
    means = weighted.sum(axis=2)  # (M, N)
    squares = weighted.reshape(len(weights), -1) @ relative.reshape(len(weights), -1).T
    nll = -float(log_probabilities[rows, labels].sum())
    return nll, means.sum(axis=1), squares - means @ means.T


def _measure_probabilities(
    scores: NDArray[np.float64], labels: NDArray[np.int32], weights: NDArray[np.float64]
) -> _Sums:
    """Return the sums of the NLL, its gradient and its Hessian, for log-probabilities (M, N, K)."""
    of_labels = scores[:, np.arange(len(labels)), labels]  # (M, N)
    highest = of_labels.max(axis=0)
    relative = np.exp(of_labels - highest)
    mixed = weights @ relative
    if not mixed.all():  # a step gave all weight to members that exclude a label
        return np.inf, np.zeros(len(weights)), np.zeros((len(weights), len(weights)))

    ratios = relative / mixed
    return -float((highest + np.log(mixed)).sum()), -ratios.sum(axis=1), ratios @ ratios.T


def _newton_step(weights: NDArray[np.float64], curve: _Curve) -> NDArray[np.float64]:
    """Return the step to the minimum of the quadratic model of the NLL on the simplex.

    It moves weight from one member to another, each time between the two that gain most.
    """
    target = weights.copy()
    for _ in range(_MAX_EXCHANGES):
        slope = curve.slope + curve.curvature @ (target - weights)
        gains, loses = int(slope.argmin()), int(np.where(target > 0, slope, -np.inf).argmax())
        gap = float(slope[loses] - slope[gains])
        if gap < _MAX_GAP / 10:
            break

        bend = curve.curvature[gains, gains] + curve.curvature[loses, loses]
        bend -= 2 * curve.curvature[gains, loses]
        is_all = bend * target[loses] <= gap
        amount = target[loses] if is_all else gap / bend
        target[gains] += amount
        target[loses] -= amount
    return target - weights
