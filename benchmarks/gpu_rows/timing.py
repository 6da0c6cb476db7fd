"""Times of variants that are compared: taken in turns, after a warm-up, as medians."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

FEWEST_ROUNDS, MOST_ROUNDS = 3, 50


def median_seconds(
    device: torch.device,
    variants: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    calls: int = 1,
    warm_up: int = 2,
    hides_host: bool = False,
) -> dict[str, float]:
    """Return the median time of one call of each variant.

    Variants take turns, so that a change of the clock rate meets all of them. On a GPU its own
    events measure the time.

    Args:
        device: The device they run on.
        variants: Functions by name.
        seconds: The time that each of them gets, at least three rounds; 0 for one round without a warm-up.
        calls: The number of calls that are measured together.
        warm_up: The number of calls before.
        hides_host: Whether a GPU first waits until the host has started all calls, so that the time of the host
            is left out.
    """
    for variant in variants.values():
        for _ in range(warm_up if seconds else 0):
            variant()

    times: dict[str, list[float]] = {name: [] for name in variants}
    start = time.perf_counter()
    for number in range(MOST_ROUNDS):
        is_over = time.perf_counter() - start >= seconds * len(variants)
        if is_over and number >= (FEWEST_ROUNDS if seconds else 1):
            break
        for name, variant in variants.items():
            times[name].append(_seconds(device, variant, calls=calls, hides_host=hides_host))
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(
    device: torch.device, variant: Callable[[], object], *, calls: int, hides_host: bool
) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            variant()
        return (time.perf_counter() - start) / calls

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    if hides_host:
        torch.cuda._sleep(5_000_000)  # cycles, about 3 ms
    begin.record()
    for _ in range(calls):
        variant()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / calls


def shown(times: Mapping[str, float]) -> str:
    """Return times in milliseconds, each but the first with its ratio to the first."""
    names = list(times)
    first = times[names[0]]
    parts = [f"{names[0]} {first * 1000:.3g} ms"]
    parts += [
        f"{name} {times[name] * 1000:.3g} ms ({times[name] / first:.2f}x)" for name in names[1:]
    ]
    return ", ".join(parts)
