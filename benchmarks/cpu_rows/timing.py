"""Times of variants that take turns, and the peak of a matrix product."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

PEAK_CALLS = 3  # In each round.


class Times(NamedTuple):
    """Seconds of one variant in each round.

    Attributes:
        wall: Elapsed seconds.
        cpu: Seconds of all threads of this process. Other processes hardly change them.
    """

    wall: list[float]
    cpu: list[float]

    @property
    def fastest(self) -> float:
        """Elapsed seconds of the fastest round."""
        return min(self.wall)

    @property
    def median(self) -> float:
        """Median of the elapsed seconds."""
        return statistics.median(self.wall)

    @property
    def least_cpu(self) -> float:
        """Seconds of all threads in the round that took least."""
        return min(self.cpu)


def take_turns(works: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, Times]:
    """Return the times of each piece of work by name.

    There is no warm-up, because the fastest call of each counts.

    Args:
        works: Functions by name.
        rounds: Number of calls of each function.
    """
    times = {name: Times([], []) for name in works}
    gc.collect()
    gc.disable()  # A collection would count against the variant in whose turn it falls.
    try:
        for _ in range(rounds):
            for name, work in works.items():
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    finally:
        gc.enable()
    return times


class Peak:
    """A matrix product whose fastest call is the peak of this machine.

    Args:
        side: Side of the square matrices.
        dtype: Dtype of the matrices.
    """

    def __init__(self, *, side: int, dtype: torch.dtype) -> None:
        self._side = side
        self._matrices = torch.randn(2, side, side).to(dtype)
        self._seconds = float("inf")

    def __call__(self) -> None:
        """Time some products."""
        for _ in range(PEAK_CALLS):
            start = time.perf_counter()
            torch.mm(*self._matrices)
            self._seconds = min(self._seconds, time.perf_counter() - start)

    @property
    def multiply_adds_per_second(self) -> float:
        """Multiply-adds per second of the fastest product."""
        return self._side**3 / self._seconds
