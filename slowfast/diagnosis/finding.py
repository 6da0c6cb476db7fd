"""Findings: what a check of this machine found, what it means, and how to mend it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

OK = "ok"
WARNING = "warning"  # Training works, but something is slow, scarce or missing.
FAILED = "failed"  # Training does not work, or not as it should.

CHECK_SECONDS = 15.0


class Finding(NamedTuple):
    """What a check found."""

    status: str  # OK, WARNING or FAILED
    text: str  # What is there and what it means, in a line.
    remedy: str = ""  # What to do about a warning or a failure.
    details: Mapping[str, Any] = {}  # Plain data for a bug report.


class Check(NamedTuple):
    """A check of this machine."""

    name: str
    function: Callable[[], Finding]
    seconds: float = CHECK_SECONDS  # Time limit.
    needs: str = ""  # Name of an earlier check without which this one makes no sense.


def ok(text: str, **details: Any) -> Finding:
    """Return a finding that needs no attention."""
    return Finding(OK, text, details=details)


def warning(text: str, remedy: str, **details: Any) -> Finding:
    """Return the finding that something is slow, scarce or missing."""
    return Finding(WARNING, text, remedy, details)


def failed(text: str, remedy: str, **details: Any) -> Finding:
    """Return the finding that training does not work here."""
    return Finding(FAILED, text, remedy, details)
