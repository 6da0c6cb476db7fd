"""Files of class names: a reader of the layouts that circulate, and the writer whose files it reads as written.

Where a file could be of two layouts, reading it is an error, never a guess.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from slowfast.datasets.annotations import open_text

_SPACES = r"\s+"
_SEPARATORS = (r"\t+", r"\s*,\s*", r"\s*;\s*", _SPACES)  # the surest first
_NUMBER = r"[\"']?(?P<number>\d{1,9})[\"']?"
_HEADER = {
    "action",
    "category",
    "class",
    "classname",
    "id",
    "idx",
    "index",
    "label",
    "name",
    "number",
}
_REMEDY = "write one name per line in the order of the labels, or a JSON list of names"


def read_class_names(names_path: str) -> list[str]:
    """Return the class names of a file in the order of their labels.

    The layouts are: one name per line; lines of a number and a name, either first, with tabs, a comma, a semicolon or
    spaces between, maybe below a header; and in JSON a list of names, an object name -> number, or number -> name.
    Numbers count from 0 or from 1 and come in any order. Quotes around a name are no part of it, except in a JSON list,
    which holds the names as they are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: numbers are missing or there twice, or the file can be read in more than one way.
    """
    with open_text(names_path, key="DATA.CLASS_NAMES") as file:
        text = file.read()
    try:
        return _parse(text)
    except ValueError as error:
        raise ValueError(f"{names_path}: {error}; {_REMEDY}") from error


def format_class_names(names: Sequence[str]) -> str:
    """Return the text of a file that `read_class_names` reads as these names, in their order.

    It has one name per line. Where the reader would take such lines for something else, such as
    for numbered ones, it is a JSON list.
    """
    text = "".join(f"{name}\n" for name in names)
    try:
        is_read_as_written = _parse(text.removeprefix("\ufeff")) == [
            *names
        ]  # a byte order mark is dropped
    except ValueError:
        is_read_as_written = False
    return text if is_read_as_written else json.dumps([*names], indent=0) + "\n"


def _parse(text: str) -> list[str]:
    if text.lstrip()[:1] in ("{", "["):
        return _read_json(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = lines[1:] if lines and _is_header(lines[0]) else lines
    for separator in _SEPARATORS:
        if names := _read_numbered(rows, separator=separator):
            return names
    return [_unquote(line) for line in lines]


def _read_numbered(lines: Sequence[str], *, separator: str) -> list[str]:
    """The names of numbered lines in the order of the numbers; [] if the lines are not numbered in this way."""
    readings, problems = [], []
    for pattern in (rf"{_NUMBER}{separator}(?P<name>.+)", rf"(?P<name>.+?){separator}{_NUMBER}"):
        rows = [re.fullmatch(pattern, line) for line in lines]
        numbers = [int(row["number"]) for row in rows if row]
        names = [_unquote(row["name"]) for row in rows if row]
        is_part_of_name = separator == _SPACES and len({*names}) < len(
            names
        )  # it tells "step 1" from "step 2"
        if 2 * len(numbers) <= len(lines) or is_part_of_name:
            continue
        if None in rows:
            problems.append(f"has no number in {lines[rows.index(None)][:60]!r}, unlike most lines")
        elif problem := _find_problem(numbers):
            problems.append(problem)
        else:
            readings.append(_in_order(names, numbers))
    if not readings and problems:
        raise ValueError(problems[0])
    if len(readings) == 2 and readings[0] != readings[1]:
        raise ValueError(f"the first or the last number of {lines[0][:60]!r} could be the label")
    return readings[0] if readings else []


def _read_json(text: str) -> list[str]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if isinstance(content, list):
        if not all(isinstance(name, str) for name in content):
            raise ValueError("the JSON list holds more than names")
        return content
    keys, values = list(content), list(content.values())
    by_name, by_number = all(map(_is_number, values)), all(map(_is_number, keys))
    if by_name == by_number:
        found = (
            "both keys and values are numbers"
            if by_name
            else "neither keys nor values are all numbers"
        )
        raise ValueError(f"of the JSON object, {found}")
    names, numbers = (keys, values) if by_name else (values, keys)
    if not all(isinstance(name, str) for name in names):
        raise ValueError("the JSON object has values that are neither numbers nor names")
    if problem := _find_problem([*map(int, numbers)]):
        raise ValueError(problem)
    return _in_order([*map(_unquote, names)], [*map(int, numbers)])


def _find_problem(numbers: Sequence[int]) -> str:
    """What is wrong with the numbers of all classes, in any order; "" if nothing is."""
    first = min(numbers)
    expected = range(min(first, 1), min(first, 1) + len(numbers))
    if {*numbers} == {*expected}:
        return ""
    if len({*numbers}) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        return f"the number {twice} is there twice"
    missing = next(number for number in expected if number not in numbers)
    return f"has {len(numbers)} numbers up to {max(numbers)}, but not {missing}"


def _in_order(names: Sequence[str], numbers: Sequence[int]) -> list[str]:
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def _is_header(line: str) -> bool:
    """Whether a line names two columns, as `id,name` and `class_name  label_id` do."""
    words = [word for word in re.split(r"[\W]+", line.lower()) if word]
    return len(words) == 2 and all(
        {*word.split("_")} <= _HEADER or word.rstrip("s") in _HEADER for word in words
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\d{1,9}", value) is not None
    return isinstance(value, int) and not isinstance(value, bool)


def _unquote(name: str) -> str:
    name = name.strip()
    return name[1:-1].strip() if len(name) > 2 and name[0] == name[-1] in "\"'" else name
