"""Garbage collection around imports."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def postponed_collection() -> Iterator[None]:
    """Import modules in this block without garbage collection, and never collect them later.

    The imports of a training create hundreds of thousands of objects that live as long as the
    process. Walking through them again and again takes a sixth of the time of the imports, and more
    of it later. Workers that are forked afterward also share more memory.

    Anything else that is alive is never collected either, so a block that imports nothing new
    leaves the garbage collector as it is.
    """
    num_modules = len(sys.modules)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > num_modules:
            gc.freeze()
        if was_enabled:
            gc.enable()
