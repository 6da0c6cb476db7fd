"""Cleanup that also happens when a signal stops the process."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_actions: list[Callable[[], None]] = []  # actions of the open blocks, the innermost last


@contextmanager
def cleaned_up(action: Callable[[], None]) -> Iterator[None]:
    """Run an action when the block ends, however it ends.

    If a signal stops the process within the block, `run_cleanups` runs the action. It can then run
    twice, so it must not fail on what is already gone.
    """
    _actions.append(action)
    try:
        yield
    finally:
        try:
            action()
        finally:
            _actions.remove(action)


def run_cleanups() -> None:
    """Run the actions of all blocks that are still open, the innermost first."""
    for action in reversed(_actions):
        with contextlib.suppress(OSError):
            action()
