"""Ends a process of the tests when its parent dies, however the parent dies."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # See prctl(2). A forked child does not inherit it.


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies.

    Args:
        parent: Process id of the parent, in case it has died already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
