"""What all tools share: the package of their own checkout, their exit statuses and their errors.

Each tool imports this module before the package, so that `python B/tools/run_net.py` runs the code
of checkout B, also where checkout A is installed (`pip install --editable`) or on PYTHONPATH.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

FAILED = 1  # exit status: the work failed
WRONG_USAGE = 2  # exit status: the arguments are wrong, as of argparse
INTERRUPTED = 130  # exit status: Ctrl-C

Number = TypeVar("Number", int, float)


class UsageError(ValueError):
    """An argument is wrong in a way that argparse cannot see."""


def report(error: Exception) -> int:
    """Print an error that the user can mend, and return the exit status of the tool."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename and not error.filename2:
        message = f"{os.fsdecode(error.filename)}: {error.strerror}"  # not "[Errno 2] ...: 'name'"
    print(f"error: {printable(message or type(error).__name__)}", file=sys.stderr)
    return WRONG_USAGE if isinstance(error, UsageError) else FAILED


def path(text: str) -> Path:
    """Return a path for argparse, with `~` expanded: the shell leaves it in `--out=~/views.png`."""
    return Path(text).expanduser()


def number(
    kind: Callable[[str], Number],
    *,
    least: float,
    most: float = math.inf,
) -> Callable[[str], Number]:
    """Return a type for argparse: a number from `least` to `most`."""

    def parse(text: str) -> Number:
        value = kind(text)
        if not least <= value <= most:
            bounds = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is out of range; use {bounds}")
        return value

    parse.__name__ = "number" if kind is float else "whole number"  # in argparse's own messages
    return parse


def repeat_option(
    arguments: Sequence[str] | None, option: str, values: Collection[str]
) -> list[str]:
    """Return a command line in which an option stands before each of its values.

    So `--splits train val KEY VALUE` becomes `--splits train --splits val KEY VALUE`: argparse
    would take all four words as values of the option.

    Args:
        arguments: Command line, without the name of the tool; None for that of this process.
        option: Name of an option with `action="append"`.
        values: Words that are its values.
    """
    words: list[str] = []
    is_after_value = False
    for word in sys.argv[1:] if arguments is None else arguments:
        if is_after_value and word in values:
            words.append(option)
        is_after_value = (bool(words) and words[-1] == option) or word.startswith(f"{option}=")
        words.append(word)
    return words


def _use_own_package() -> None:
    """Put the root of this checkout before all other folders that Python looks into."""
    root = Path(__file__).resolve().parents[1]
    own = root / "slowfast/__init__.py"
    if not own.is_file():
        return

    if sys.path[:1] != [str(root)]:
        sys.path.insert(0, str(root))
    # For processes that do not inherit sys.path, such as the server that workers are forked from.
    inherited = os.environ.get("PYTHONPATH")
    if (inherited or "").split(os.pathsep)[0] != str(root):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), inherited]))

    imported = getattr(sys.modules.get("slowfast"), "__file__", None)
    if imported and Path(imported).resolve() != own:
        running = Path(imported).parent
        note = f"note: {running} was imported before this tool and runs in place of {own.parent}"
        print(note, file=sys.stderr)


_use_own_package()

from slowfast.utils.text import printable  # noqa: E402, from this checkout
