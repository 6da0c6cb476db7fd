"""Files of class names: a reader of the layouts in circulation, and a writer.

A file that fits two layouts raises an error. The reader never guesses.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from slowfast.datasets.text_files import open_text

_SPACES = r"\s+"
_SEPARATORS = (r"\t+", r"\s*,\s*", r"\s*;\s*", _SPACES)  # from the most to the least reliable
_NUMBER = r"[\"']?(?P<number>\d{1,9})[\"']?"
_HEADER = {"action", "category", "class", "classname", "id", "idx", "index"}
_HEADER |= {"label", "name", "number"}
_REMEDY = "Write one name per line in the order of the labels, or a JSON list of names"


def read_class_names(names_path: str) -> list[str]:
    """Return the class names of a file in the order of their labels.

    The file has one of these layouts:

    - One name per line.
    - Lines of a number and a name in either order, separated by tabs, a comma, a semicolon or
      spaces. They may have a header.
    - JSON: a list of names, an object of numbers by name, or an object of names by number.

    Numbers count from 0 or 1 and may come in any order. Quotes around a name are removed, except in
    a JSON list.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a number is missing or repeated, or the file fits two layouts.
    """
    with open_text(names_path, key="DATA.CLASS_NAMES") as file:
        text = file.read()
    try:
        return _parse(text)
    except ValueError as error:
        raise ValueError(f"{names_path}: {error}. {_REMEDY}") from error


def format_class_names(names: Sequence[str]) -> str:
    """Return the text of a file that `read_class_names` reads as these names.

    The text has one name per line. It is a JSON list if the reader would take such lines for
    another layout.
    """
    text = "".join(f"{name}\n" for name in names)
    try:
        parsed = _parse(text.removeprefix("\ufeff"))  # the reader drops a byte order mark
        is_read_back = parsed == [*names]
    except ValueError:
        is_read_back = False
    return text if is_read_back else json.dumps([*names], indent=0) + "\n"


def _parse(text: str) -> list[str]:
    if text.lstrip()[:1] in ("{", "["):
        return _parse_json(text)

    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = lines[1:] if lines and _is_header(lines[0]) else lines
    for separator in _SEPARATORS:
        if names := _parse_numbered(rows, separator=separator):
            return names
    return [_unquote(line) for line in lines]


def _parse_numbered(lines: Sequence[str], *, separator: str) -> list[str]:
    """Return the names of numbered lines in the order of the numbers, [] for other lines."""
    readings, problems = [], []
    for pattern in (rf"{_NUMBER}{separator}(?P<name>.+)", rf"(?P<name>.+?){separator}{_NUMBER}"):
        rows = [re.fullmatch(pattern, line) for line in lines]
        numbers = [int(row["number"]) for row in rows if row]
        names = [_unquote(row["name"]) for row in rows if row]

        # In "step 1" and "step 2", the number is a part of the name.
        is_part_of_name = separator == _SPACES and len({*names}) < len(names)
        if 2 * len(numbers) <= len(lines) or is_part_of_name:
            continue

        if None in rows:
            problems.append(f"has no number in {lines[rows.index(None)][:60]!r}, unlike most lines")
        elif problem := _find_problem(numbers):
            problems.append(problem)
        else:
            readings.append(_sort_by_number(names, numbers))

    if not readings and problems:
        raise ValueError(problems[0])
    if len(readings) == 2 and readings[0] != readings[1]:
        raise ValueError(f"the first or the last number of {lines[0][:60]!r} could be the label")
    return readings[0] if readings else []


def _parse_json(text: str) -> list[str]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error

    if isinstance(content, list):
        if not all(isinstance(name, str) for name in content):
            raise ValueError("the JSON list holds more than names")
        return content
    return _parse_json_object(content)


def _parse_json_object(content: dict[str, Any]) -> list[str]:
    keys, values = list(content), list(content.values())
    by_name, by_number = all(map(_is_number, values)), all(map(_is_number, keys))
    if by_name and by_number:
        raise ValueError("both keys and values of the JSON object are numbers")
    if not by_name and not by_number:
        raise ValueError("neither the keys nor the values of the JSON object are all numbers")

    names, numbers = (keys, values) if by_name else (values, keys)
    if not all(isinstance(name, str) for name in names):
        raise ValueError("the JSON object has values that are neither numbers nor names")
    if problem := _find_problem([*map(int, numbers)]):
        raise ValueError(problem)
    return _sort_by_number([*map(_unquote, names)], [*map(int, numbers)])


def _find_problem(numbers: Sequence[int]) -> str:
    """Return why the numbers of all classes are inconsistent, "" if they are consistent."""
    first = min(numbers)
    expected = range(min(first, 1), min(first, 1) + len(numbers))
    if {*numbers} == {*expected}:
        return ""

    if len({*numbers}) < len(numbers):
        repeated = next(number for number in numbers if numbers.count(number) > 1)
        return f"the number {repeated} occurs more than once"
    missing = next(number for number in expected if number not in numbers)
    return f"has {len(numbers)} numbers up to {max(numbers)}, but not {missing}"


def _sort_by_number(names: Sequence[str], numbers: Sequence[int]) -> list[str]:
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def _is_header(line: str) -> bool:
    """Return whether a line names two columns, such as `id,name` or `class_name  label_id`."""
    words = [word for word in re.split(r"[\W]+", line.lower()) if word]
    return len(words) == 2 and all(map(_is_column_name, words))


def _is_column_name(word: str) -> bool:
    return {*word.split("_")} <= _HEADER or word.rstrip("s") in _HEADER


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\d{1,9}", value) is not None
    return isinstance(value, int) and not isinstance(value, bool)


def _unquote(name: str) -> str:
    name = name.strip()
    if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'":
        return name[1:-1].strip()
    return name
