"""Measures a row: its variants in turns, their memory and the cost of a forward pass."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.cpu_rows.peak_memory import find_memory_problem, measure_memory, run_alone
from benchmarks.cpu_rows.timing import Peak, Times, take_turns
from benchmarks.cpu_rows.workload import (
    PLAIN,
    STEP,
    Row,
    Sizes,
    build,
    clip_of,
    find_problem,
    make_work,
)
from slowfast.models.build import count_multiply_adds

STEP_FORWARDS = 3  # A backward pass has twice the products of a forward pass.


class Line(NamedTuple):
    """One variant of a row in the table.

    Attributes:
        row: Name of the row.
        variant: Name of the model.
        times: Seconds of each round, or None if the variant did not run.
        ratio: Time over that of the plain formulation, both in the fastest round.
        frames_per_second: Frames of all clips per second, in the fastest round.
        multiply_adds: Multiply-adds of the work.
        peak_share: Multiply-adds per second over those of a large matrix product.
        memory: Growth of a process of its own in bytes.
        reason: Why the variant did not run.
        has_failed: Whether an unexpected error is the reason.
    """

    row: str
    variant: str
    times: Times | None = None
    ratio: float = float("nan")
    frames_per_second: float = float("nan")
    multiply_adds: float = float("nan")
    peak_share: float = float("nan")
    memory: float = float("nan")
    reason: str = ""
    has_failed: bool = False


def measure_row(row: Row, sizes: Sizes, *, rounds: int) -> Iterator[Line]:
    """Measure the variants of a row. The others run if one cannot.

    Args:
        row: Row to measure.
        sizes: Sizes of models and clips.
        rounds: Number of times that each variant does the work.
    """
    torch.set_num_threads(row.num_threads)
    memory: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for variant in row.variants:
        reasons[variant] = _find_problem(variant, row, sizes)
        if not reasons[variant]:
            try:
                memory[variant] = run_alone(measure_memory, variant, row, sizes).peak
            except MemoryError as error:
                reasons[variant] = str(error)

    peak = Peak(side=sizes.peak_side, dtype=row.amp or torch.float32)
    works: dict[str, Callable[[], None]] = {name: make_work(name, row, sizes) for name in memory}
    times = take_turns({"peak": peak, **works}, rounds=rounds)

    plain = times[PLAIN].fastest if PLAIN in times else float("nan")
    for variant in row.variants:
        if variant not in works:
            yield Line(row.name, variant, reason=reasons[variant])
            continue
        fastest, multiply_adds = times[variant].fastest, _count(variant, row, sizes)
        yield Line(
            row.name,
            variant,
            times[variant],
            ratio=fastest / plain,
            frames_per_second=row.num_clips * clip_of(variant, row, sizes)[0] / fastest,
            multiply_adds=multiply_adds,
            peak_share=multiply_adds / fastest / peak.multiply_adds_per_second,
            memory=memory[variant],
        )


def _find_problem(variant: str, row: Row, sizes: Sizes) -> str:
    """Return why a variant of a row cannot run on this machine, or nothing."""
    problem = find_problem(variant, row, sizes)
    if not problem and row.work == STEP:
        problem = find_memory_problem(variant, row, sizes)
    return problem


def _count(variant: str, row: Row, sizes: Sizes) -> int:
    """Return the multiply-adds of the work of a row."""
    make: Callable[[], nn.Module] = partial(build, variant, row, sizes)
    num_frames, side = clip_of(variant, row, sizes)
    forward = row.num_clips * count_multiply_adds(make, num_frames=num_frames, size=side)
    return forward * (STEP_FORWARDS if row.work == STEP else 1)
