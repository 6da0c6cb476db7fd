"""Median times of variants that take turns after a warm-up."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

MIN_ROUNDS, MAX_ROUNDS = 3, 50


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

    Variants take turns, so that a change of the clock rate affects all of them. On a GPU, CUDA
    events measure the time.

    Args:
        device: Device the variants run on.
        variants: Functions by name.
        seconds: Measuring time of each variant, for three rounds or more. 0 for one round without
            a warm-up.
        calls: Number of calls measured together.
        warm_up: Number of calls before the first measurement.
        hides_host: Whether a GPU first waits until the host has launched all calls, so that the
            time of the host is excluded.
    """
    for variant in variants.values():
        for _ in range(warm_up if seconds else 0):
            variant()

    times: dict[str, list[float]] = {name: [] for name in variants}
    start = time.perf_counter()
    for number in range(MAX_ROUNDS):
        is_over = time.perf_counter() - start >= seconds * len(variants)
        if is_over and number >= (MIN_ROUNDS if seconds else 1):
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
        torch.cuda._sleep(5_000_000)  # Cycles, about 3 ms.
    begin.record()
    for _ in range(calls):
        variant()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / calls


def format_times(times: Mapping[str, float]) -> str:
    """Return times in milliseconds, each except the first with its ratio to the first."""
    baseline, *others = times
    texts = [f"{baseline} {times[baseline] * 1000:.3g} ms"]
    for name in others:
        ratio = times[name] / times[baseline]
        texts.append(f"{name} {times[name] * 1000:.3g} ms ({ratio:.2f}x)")
    return ", ".join(texts)
