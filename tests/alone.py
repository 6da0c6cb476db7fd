"""Running a test in a process of its own."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def run_alone(function: Callable[..., Any], *arguments: object) -> Any:
    """Return the result of a function of a module in a new process, or raise what it raised."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
