"""Numbers, lists and names as a message shows them."""

import re
from collections.abc import Sequence

# Control characters except tab and line feed, marks that reverse the direction of writing, and
# lone surrogates, which stand for the bytes of a file name that is not UTF-8.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def count(number: int, noun: str, *, plural: str = "") -> str:
    """Return a number with its noun: `1 process`, `3 processes`, `0 videos`.

    Args:
        number: The number.
        noun: The singular.
        plural: The plural. "" stands for the regular one.
    """
    regular = f"{noun}es" if noun.endswith(("s", "sh", "tch", "x")) else f"{noun}s"
    return f"{number} {noun if number == 1 else plural or regular}"


def some(names: Sequence[str], *, most: int = 5) -> str:
    """Return the first names of a list, and how many follow: `a, b and 3 more`."""
    shown = printable(", ".join(names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def printable(text: str) -> str:
    """Return a text that is safe to print on a terminal: `\\x1b` stands for an escape, and so on.

    Names of files and classes can hold sequences that clear the screen or imitate other output.
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)
