"""Numbers and lists as a reader expects them in a message."""

from collections.abc import Sequence


def count(number: int, noun: str, *, plural: str = "") -> str:
    """Return a number with its noun: `1 process`, `3 processes`, `0 videos`.

    Args:
        number: How many.
        noun: The singular.
        plural: The plural, unless it is regular.
    """
    regular = f"{noun}es" if noun.endswith(("s", "sh", "tch", "x")) else f"{noun}s"
    return f"{number} {noun if number == 1 else plural or regular}"


def some(names: Sequence[str], *, most: int = 5) -> str:
    """Return names as a list that stays short: `a, b and 3 more`."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
