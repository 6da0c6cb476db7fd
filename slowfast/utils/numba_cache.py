"""Compilation by numba, with the result in numba's cache on disk where one can be written."""

from collections.abc import Callable
from typing import Any


def compile_cached(function: Callable[..., None], signatures: list[Any]) -> Callable[..., None]:
    """Return a function compiled by numba for some signatures. It runs without the GIL.

    numba's cache is a folder beside the source file of the function, or in the cache of the user.
    If neither is writable, every process compiles the function.

    Args:
        function: Function to compile.
        signatures: Its types, such as `numba.types.void(numba.types.float32[::1])`.
    """
    from numba import njit

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(signatures, cache=True, **options)(function)
    except RuntimeError:  # no folder is writable
        return njit(signatures, **options)(function)
