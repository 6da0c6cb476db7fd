"""Conversion of config values: from the text of a file or command line to the type of the key."""

import ast
import math
import os
from typing import Any

import yaml

from slowfast.config.tree import Kind
from slowfast.config.yaml_tree import DuplicateKeyError, Raw, Scalar, parse

_NON_FINITE = {"nan", "inf", "infinity"}


def to_value(raw: Raw, *, default: Any, kind: Kind) -> Any:
    """Return a value in the type of the default of its key.

    If the default is a string or a list of strings, the text stays as it is written, except for a
    `~` at the start of a path.

    Args:
        raw: Value as it stands in a file or on the command line.
        default: Default of the key.
        kind: Kind that the key declares.

    Raises:
        ValueError: If the value has another type. The message is the rule, without key and value.
    """
    if isinstance(default, str):
        return _path(raw) if kind == "path" else _text(raw)
    if kind == "strings" or (isinstance(default, list) and _are(default, str)):
        return _texts(raw, default=default)

    value = decode(raw)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError("expected True or False")
        return value
    if kind == "number_or_list":
        return _number_or_list(value, example=default)
    if isinstance(default, list):
        return _list(value, default=default, has_numbers=kind == "numbers")
    if isinstance(default, int):
        return _whole_number(value, example=default)
    if isinstance(default, float):
        return float(_number(value, example=default))

    # The default is None.
    return None if value is None else _number(value, example=0.1, alternative=", or null")


def decode(raw: Raw) -> Any:
    """Return the value that YAML reads, or the Python literal in a string that YAML reads."""
    if isinstance(raw, dict):
        return {name: _yaml_value(value) for name, value in raw.items()}
    if isinstance(raw, list):
        return [_yaml_value(item) for item in raw]

    value = raw.value()
    if not isinstance(value, str):
        return value
    value = _literal(value)  # YAML 1.1 reads 1e-4 as a string
    if not isinstance(value, str):
        return value
    names = {"true": True, "false": False, "null": None}
    return names.get(value.lower(), value)


def as_list(value: Any) -> list[Any]:
    """Return the items of a list or tuple, or a list with a single value."""
    return list(value) if isinstance(value, list | tuple) else [value]


def show(raw: Raw) -> str:
    """Return a value as it is written, cut to 200 characters, for a message."""
    if isinstance(raw, list):
        text = f"[{', '.join(map(show, raw))}]"
    elif isinstance(raw, dict):
        pairs = (f"{name}: {show(value)}" for name, value in raw.items())
        text = f"{{{', '.join(pairs)}}}"
    elif raw.is_null:
        text = "null"
    else:
        text = repr(raw.text) if isinstance(decode(raw), str) else raw.text
    return shorten(text)


def shorten(text: str) -> str:
    """Return a text cut to 200 characters, for a message."""
    text = quote_unprintable(text)
    return text if len(text) <= 200 else f"{text[:200]}..."


def quote_unprintable(text: str) -> str:
    """Return a text for a message, quoted if it has line breaks or control characters."""
    return text if text.isprintable() else repr(text)


def _text(raw: Raw) -> str:
    if isinstance(raw, list | dict):
        kind = "a list" if isinstance(raw, list) else "a mapping"
        raise ValueError(f"expected text, not {kind}. Quote it if it is meant as text")
    if raw.is_binary:
        raise ValueError("expected text, not binary data. Remove the tag !!binary")
    if raw.is_null:
        quoted = f"quote it, as '{raw.text}'" if raw.text else "quote it"
        raise ValueError(f"expected text: {quoted}, or write '' for empty text")
    return raw.text


def _path(raw: Raw) -> str:
    text = _text(raw)
    path = os.path.expanduser(text)
    if path.startswith("~"):
        user = path.split("/")[0]
        remedy = f"Write ./{user} for a file or folder of this name"
        raise ValueError(f"there is no user {user[1:]!r}. {remedy}")
    return path


def _texts(raw: Raw, *, default: list[str]) -> list[str]:
    items = _items(raw.text) if isinstance(raw, Scalar) else raw
    if not isinstance(items, list):
        raise ValueError(f"expected a list of text, such as {default or ['*.bias', 'head.*']}")
    return [_text(item) for item in items]


def _items(text: str) -> Raw | None:
    """Return the elements of a list in the notation of Python or YAML, each with its text."""
    value = _literal(text)
    if isinstance(value, list | tuple) and _are(value, str):
        return [Scalar(item) for item in value]

    text = text.strip()
    if text.startswith("(") and text.endswith(")"):  # a tuple with elements such as 1.10
        text = f"[{text[1:-1]}]"
    try:
        return parse(text)
    except (yaml.YAMLError, DuplicateKeyError, RecursionError):
        return None


def _yaml_value(raw: Raw) -> Any:
    if isinstance(raw, dict):
        return {name: _yaml_value(value) for name, value in raw.items()}
    if isinstance(raw, list):
        return [_yaml_value(item) for item in raw]
    return raw.value()


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _list(value: Any, *, default: list[Any], has_numbers: bool) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list, such as {default or [1, 2]}")
    if not (has_numbers or _are(default, int | float)):
        _refuse_non_finite(value)
        return list(value)

    try:
        numbers = [_number(_decode_item(item), example=0.1) for item in value]
    except _NotANumberError as error:
        raise ValueError(f"expected a list of numbers, such as {default or [1, 2]}") from error

    if not _are(default, int):
        return numbers
    if any(number != int(number) for number in numbers):
        raise ValueError(f"expected a list of whole numbers, such as {default}")
    return [int(number) for number in numbers]


def _number_or_list(value: Any, *, example: float) -> float | list[float]:
    rule = f"expected a number, such as {example}, or a list of numbers"
    items = as_list(value)
    try:
        numbers = [float(_number(_decode_item(item), example=example)) for item in items]
    except _NotANumberError as error:
        raise ValueError(rule) from error
    return numbers if isinstance(value, list | tuple) else numbers[0]


def _decode_item(item: Any) -> Any:
    return _literal(item) if isinstance(item, str) else item


def _refuse_non_finite(value: Any) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_non_finite(item)
    elif isinstance(value, dict):
        _refuse_non_finite(list(value.values()))
    elif isinstance(value, float):
        _number(value, example=0.1)


class _NotANumberError(ValueError):
    """A value is not a number."""


def _whole_number(value: Any, *, example: int) -> int:
    rule = f"expected a whole number, such as {example}"
    try:
        number = _number(value, example=example)
    except ValueError as error:
        raise ValueError(rule) from error
    if number != int(number):
        raise ValueError(rule)
    return int(number)


def _number(value: Any, *, example: float, alternative: str = "") -> int | float:
    if isinstance(value, str) and value.strip().lower().lstrip("+-.") in _NON_FINITE:
        value = math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NotANumberError(f"expected a number, such as {example}{alternative}")

    try:
        is_finite = math.isfinite(value)
    except OverflowError:  # an int too large for a float
        is_finite = False
    if not is_finite:
        raise ValueError(f"expected a finite number, such as {example}{alternative}")
    return value


def _are(values: Any, kind: Any) -> bool:
    """Whether values is a non-empty list with elements of one kind. A bool is not a number."""
    return bool(values) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)
