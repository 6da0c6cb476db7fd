"""Config files: the settings of a YAML file and of the files that it inherits from."""

import difflib
import os
from collections.abc import Callable, Iterator

import yaml
from iopath.common.file_io import g_pathmgr

from slowfast.config.shipped import (
    file_at,
    find_config_file,
    find_shipped_file,
    nearest_shipped_files,
)
from slowfast.config.values import as_list, quote_unprintable
from slowfast.config.yaml_tree import DuplicateKeyError, Raw, Scalar, describe, parse

BASE_KEY = "_BASE_"


def read_settings(path: str) -> dict[str, Raw]:
    """Return the settings of a config file and of the files that it inherits from.

    Args:
        path: Local path or address of a YAML file, the folder of an experiment, or the path of a
            file that comes with this package, such as exp/quickstart/config.yaml.

    Returns:
        Settings by full key, such as SOLVER.BASE_LR. An empty mapping counts as a value.

    Raises:
        OSError: If a file is missing or unreadable. The message says which file refers to it.
        ValueError: If a file is not a tree of sections and keys, sets a key twice, or inherits
            from itself.
    """
    return _read_chain(find_config_file(path), role=f"--cfg {path}", chain=[])


def parse_settings(text: str, *, origin: str) -> dict[str, Raw]:
    """Return the settings of a YAML text that inherits from no file.

    Args:
        text: The text, such as the config in a checkpoint.
        origin: Where the text comes from, for messages.

    Raises:
        ValueError: If it is not a tree of sections and keys, or inherits from a file.
    """
    tree = _parse_tree(text.encode(), role=origin)
    if BASE_KEY in tree:
        raise ValueError(f"{origin}: {BASE_KEY} has no meaning here. Give all keys")
    return _flatten(tree, role=origin)


# ---- The chain of bases ----------------------------------------------------------------------


def _read_chain(path: str, *, role: str, chain: list[str]) -> dict[str, Raw]:
    """Return the settings of a file and its bases.

    Args:
        path: Local path or address of a YAML file.
        role: Name of the file for messages, with the option or file that refers to it.
        chain: Files that inherit from this one, in the order of reading.
    """
    identities = [_identity(other) for other in chain]
    if _identity(path) in identities:
        cycle = " -> ".join([*chain[identities.index(_identity(path)) :], path])
        problem = f"the {BASE_KEY} chain leads back to its start, a cycle: {cycle}"
        raise ValueError(f"{chain[-1]}: {problem}")

    tree = _read_tree(path, role=role)
    settings: dict[str, Raw] = {}
    for base in _bases(tree.pop(BASE_KEY, []), role=role):
        base_path = _resolve_base(base, path)
        base_role = f"{quote_unprintable(base_path)} (named by {BASE_KEY} in {path})"
        settings |= _read_chain(base_path, role=base_role, chain=[*chain, path])

    return settings | _flatten(tree, role=role)


def _identity(path: str) -> str:
    if "://" in path or "\0" in path:  # opening the file reports a null character
        return path
    return os.path.realpath(path)


def _bases(value: Raw, *, role: str) -> list[str]:
    bases = []
    for item in as_list(value):
        if not isinstance(item, Scalar) or item.is_null or item.is_binary:
            raise ValueError(f"{role}: {BASE_KEY} takes a file name or a list of file names")
        bases.append(item.text)
    return bases


def _resolve_base(base: str, path: str) -> str:
    if base.startswith("~"):
        base = os.path.expanduser(base)
    if base.startswith(("/", "https://", "http://")):
        return base
    beside = os.path.join(os.path.dirname(path), base)
    if not os.path.exists(beside):
        return find_shipped_file(base) or beside
    return file_at(beside) or beside


def _flatten(tree: dict[str, Raw], *, role: str) -> dict[str, Raw]:
    settings: dict[str, Raw] = {}
    for key, value in _leaves(tree, prefix=""):
        if key in settings:
            problem = f"{key} is set twice, with a dot and in its section. Keep one"
            raise ValueError(f"{role}: {problem}")
        settings[key] = value
    return settings


def _leaves(tree: dict[str, Raw], *, prefix: str) -> Iterator[tuple[str, Raw]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read_tree(path: str, *, role: str) -> dict[str, Raw]:
    return _parse_tree(_read_bytes(path, role=role), role=role)


def _parse_tree(source: bytes, *, role: str) -> dict[str, Raw]:
    try:
        tree = parse(source)
    except DuplicateKeyError as error:
        raise ValueError(f"{role}: {error}. Keep one of them") from error
    except yaml.reader.ReaderError as error:
        reason = f"{error.reason}, at position {error.position}"
        raise ValueError(f"{role}: not a text file in UTF-8 ({reason})") from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{role}: not a YAML file: {describe(error)}") from error
    except RecursionError as error:
        raise ValueError(
            f"{role}: not a config: lists or mappings are nested too deeply"
        ) from error

    if tree is None:
        raise ValueError(f"{role}: the file sets no key. Write {{}} to use the defaults")
    if not isinstance(tree, dict):
        found = "a list" if isinstance(tree, list) else f"the text {tree.text[:40]!r}"
        raise ValueError(f"{role}: not a tree of sections and keys, but {found}")
    return tree


# ---- Reading, and advice for missing files ---------------------------------------------------


def _read_bytes(path: str, *, role: str) -> bytes:
    try:
        with g_pathmgr.open(path, "rb") as file:
            content: bytes = file.read()
        return content
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{role}: no such file{_suggest_files(path)}") from error
    except IsADirectoryError as error:
        raise IsADirectoryError(f"{role}: a folder, not a file{_suggest_file_in(path)}") from error
    except PermissionError as error:
        raise PermissionError(f"{role}: you may not read this file") from error
    except OSError as error:
        raise OSError(f"{role}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a path with a null character
        raise ValueError(f"{role}: cannot be read: {error}") from error


def _suggest_file_in(folder: str) -> str:
    names = [name for name in _names_in(folder) if name.endswith((".yaml", ".yml"))]
    if not names:
        return ""
    return f". Choose a YAML file in it, such as {os.path.join(folder, names[0])}"


def _suggest_files(path: str) -> str:
    """Return advice with names that resemble the first missing name of a path."""
    if "://" in path:
        return ""

    folder = os.path.dirname(path)
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)

    missing, _, below = os.path.relpath(path, folder or ".").partition("/")
    is_kind: Callable[[str], bool] = os.path.isdir if below else os.path.isfile
    names = [name for name in _names_in(folder or ".") if is_kind(os.path.join(folder, name))]
    close = difflib.get_close_matches(missing, names, n=3, cutoff=0.7)
    paths = [os.path.join(folder, name, *below.split("/")).rstrip("/") for name in close]
    existing = [found for found in paths if os.path.exists(found)]

    if nearest := existing or nearest_shipped_files(path):
        return f". The nearest is {' or '.join(nearest)}"
    if below:
        return f". There is no folder {os.path.join(folder, missing)}"
    return ""


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
