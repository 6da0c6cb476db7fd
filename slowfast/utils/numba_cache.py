"""Compilation by numba, with the result in numba's cache on disk where one can be written."""

from collections.abc import Callable
from functools import partial
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

    return _cached(partial(njit, signatures, nogil=True), function)


def compile_callback(function: Callable[..., None], signature: Any) -> Any:
    """Return a function compiled by numba that C can call, see `numba.cfunc`.

    Args:
        function: Function to compile.
        signature: Its types, such as `numba.types.void(numba.types.voidptr)`.
    """
    from numba import cfunc

    return _cached(partial(cfunc, signature), function)


def _cached(compiler: Callable[..., Callable[..., Any]], function: Callable[..., None]) -> Any:
    try:
        return compiler(cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder is writable
        return compiler(error_model="numpy")(function)
