"""Whether two lists of class names say the same, however they are spelled, and where each name of one is in the other."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

_MOST_NAMES = 3  # of each list, in a message


def find_order(names: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Return the place in `names` of each of `wanted`, or None if they are not the same names.

    Case, spaces and punctuation play no part where each list can be told apart without them.
    """
    spell = _spelling(names, wanted)
    places = {spell(name): place for place, name in enumerate(names)}
    order = [places[spell(name)] for name in wanted if spell(name) in places]
    return order if len(set(order)) == len(wanted) == len(names) else None


def describe_difference(names: Sequence[str], wanted: Sequence[str]) -> str:
    """Return how many names, and the first ones, are in one list alone, as the end of a sentence about a file."""
    spell = _spelling(names, wanted)
    known, expected = {*map(spell, names)}, {*map(spell, wanted)}
    only_names = [name for name in names if spell(name) not in expected]
    only_wanted = [name for name in wanted if spell(name) not in known]
    return (
        f"{len(only_names)} of its {len(names)} are not among those of the data{_some(only_names)}, "
        f"{len(only_wanted)} of the data's {len(wanted)} are not among its{_some(only_wanted)}"
    )


@lru_cache(maxsize=1 << 12)
def letters(name: str) -> str:
    """Return the letters and digits of a class name in lower case: data sets differ in how they spell the rest."""
    return re.sub(r"[\W_]+", "", name).casefold()


def _spelling(*lists: Sequence[str]) -> Callable[[str], str]:
    is_enough = all(len({*map(letters, names)}) == len(names) for names in lists)
    return letters if is_enough else str


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_MOST_NAMES])) + (
        ", ..." if len(names) > _MOST_NAMES else ""
    )
    return f" ({shown})" if names else ""
