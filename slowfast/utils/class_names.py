"""Comparison of two lists of class names that may differ in spelling and order."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from slowfast.utils.text import some

_MAX_SHOWN = 3  # names of each list in a message


def find_order(names: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Return the index in `names` of each name in `wanted`, or None if the names are not the same.

    Case, spaces and punctuation do not count, unless names of one list differ in nothing else.
    """
    spell = _choose_spelling(names, wanted)
    index = {spell(name): number for number, name in enumerate(names)}
    order = [index[spell(name)] for name in wanted if spell(name) in index]
    return order if len(set(order)) == len(wanted) == len(names) else None


def describe_difference(names: Sequence[str], wanted: Sequence[str]) -> str:
    """Return which names are in only one list, to end a sentence about a file.

    Args:
        names: Class names of the file.
        wanted: Class names of the data.
    """
    spell = _choose_spelling(names, wanted)
    known, expected = {*map(spell, names)}, {*map(spell, wanted)}
    only_names = [name for name in names if spell(name) not in expected]
    only_wanted = [name for name in wanted if spell(name) not in known]

    return (
        f"{len(only_names)} of its {len(names)} are not among those of the data"
        f"{_examples(only_names)}, {len(only_wanted)} of the data's {len(wanted)} are not among its"
        f"{_examples(only_wanted)}"
    )


@lru_cache(maxsize=1 << 12)
def letters(name: str) -> str:
    """Return the letters and digits of a class name in lower case.

    Datasets spell the rest of a name in different ways.
    """
    return re.sub(r"[\W_]+", "", name).casefold()


def _choose_spelling(*lists: Sequence[str]) -> Callable[[str], str]:
    is_enough = all(len({*map(letters, names)}) == len(names) for names in lists)
    return letters if is_enough else str


def _examples(names: Sequence[str]) -> str:
    shown = some([repr(name) for name in names], most=_MAX_SHOWN)
    return f" ({shown})" if names else ""
