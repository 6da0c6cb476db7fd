"""Threads that wait in a library, where nothing can interrupt them, and the end of a process."""

import os
import sys
import threading
from typing import NoReturn


class WaitingThread(threading.Thread):
    """A thread that waits in a library, such as for data of a stream.

    Python waits for it at the end of a process, since ending while the library works in it can
    crash the process. A command does not wait, see `leave`.
    """


def leave(status: int) -> NoReturn:
    """End the process of a command, without waiting for a `WaitingThread`."""
    if any(isinstance(thread, WaitingThread) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
