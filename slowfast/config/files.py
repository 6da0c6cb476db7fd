"""Config files: YAML that keeps the source text of every scalar, and the `_BASE_` chain."""

import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml
from iopath.common.file_io import g_pathmgr

BASE_KEY = "_BASE_"
MAX_NODES = 100_000  # of a file with its aliases written out; a config has a few hundred
MAX_DEPTH = 100  # of lists and mappings within each other; a config has three

_TAG = "tag:yaml.org,2002:"
_SCALAR_NAMES = ("str", "bool", "int", "float", "null", "timestamp", "binary", "value", "merge")
_TAGS = {
    yaml.ScalarNode: {_TAG + name for name in _SCALAR_NAMES},
    yaml.SequenceNode: {_TAG + "seq"},
    yaml.MappingNode: {_TAG + "map"},
}


@dataclass(frozen=True)
class Scalar:
    """A scalar of a YAML file, or a word of the command line, before it has a type."""

    text: str
    tag: str = _TAG + "str"  # what YAML takes the text for; a quoted scalar is a str

    @property
    def is_null(self) -> bool:
        """Whether YAML reads no value here: nothing, `~` or `null`, without quotes."""
        return self.tag == _TAG + "null"

    @property
    def is_binary(self) -> bool:
        """Whether the text is base64, by the tag `!!binary`."""
        return self.tag == _TAG + "binary"

    def value(self) -> Any:
        """Return what YAML makes of the text: a number, a bool, None, a date or the text itself."""
        if self.tag in (_TAG + "value", _TAG + "merge"):  # a lone `=` or `<<`
            return self.text

        constructor = yaml.constructor.SafeConstructor()
        try:
            return constructor.construct_object(yaml.ScalarNode(self.tag, self.text))
        except (ValueError, LookupError, AttributeError, OverflowError, yaml.YAMLError):
            return self.text  # 2024-13-45 looks like a date, and 0x_ like a number


Raw: TypeAlias = Scalar | list["Raw"] | dict[str, "Raw"]


def read_settings(path: str) -> dict[str, Raw]:
    """Return the value that a config file and the files it inherits from give to each key.

    Args:
        path: Local path or address of a YAML file.

    Returns:
        Settings by full key, such as SOLVER.BASE_LR. Empty mappings are values.

    Raises:
        OSError: If a file is missing or unreadable. The message says which file names it.
        ValueError: If a file is not a tree of sections and keys, sets a key twice, or inherits
            from itself.
    """
    return _read_chain(path, role=f"--cfg {path}", chain=[])


def parse(source: str | bytes) -> Raw | None:
    """Return the tree of a YAML document: mappings, lists and scalars; None if it is empty.

    Raises:
        yaml.YAMLError: If the source is not one YAML document of plain data.
        DuplicateKeyError: If a mapping sets a key twice.
    """
    loader = _Loader(source)
    try:
        root = loader.get_single_node()
        if root is None or (root.tag == _TAG + "null" and not root.value):
            return None

        _check(root, sizes={})
        return loader.raw(root)
    finally:
        loader.dispose()


def printable(text: str) -> str:
    """Return a text for a message: as it is, or quoted if it would break a line or change a terminal."""
    return text if text.isprintable() else repr(text)


class DuplicateKeyError(ValueError):
    """A mapping of a YAML file sets a key twice."""


class _Loader(yaml.SafeLoader):
    """Makes trees of `Scalar`, and never calls a constructor of a tag."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self._depth == MAX_DEPTH:
            raise RecursionError
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level == MAX_DEPTH:  # reading ahead takes time with the square of the depth
            raise RecursionError
        super().fetch_flow_collection_start(token)

    def raw(self, node: yaml.Node) -> Raw:
        if isinstance(node, yaml.ScalarNode):
            return Scalar(node.value, node.tag)
        if isinstance(node, yaml.SequenceNode):
            return [self.raw(item) for item in node.value]

        assert isinstance(node, yaml.MappingNode)
        # What `<<` merges comes first, so that the mapping's own keys win.
        self.flatten_mapping(node)
        return {name.value: self.raw(value) for name, value in node.value}


def _check(node: yaml.Node, *, sizes: dict[int, int | None]) -> int:
    """Return the number of nodes of a tree with its aliases written out, if it may be read."""
    size = sizes.setdefault(id(node), None)
    if size is not None:
        return size
    if node.tag not in _TAGS[type(node)]:
        tag = node.tag.replace(_TAG, "!!")
        raise _error(node, f"the tag {tag} is not allowed, as a config holds plain data")

    size = 1
    if isinstance(node, yaml.MappingNode):
        _check_names(node)
    for child in _children(node):
        if sizes.get(id(child), 0) is None:
            raise _error(child, "an alias refers to a list or mapping that it is part of")
        size += _check(child, sizes=sizes)
        if size > MAX_NODES:
            raise _error(child, f"the aliases stand for more than {MAX_NODES} values")

    sizes[id(node)] = size
    return size


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        yield from (value for _, value in node.value)


def _check_names(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for name, _ in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise _error(name, "a list or a mapping stands where the name of a key belongs")

        line = name.start_mark.line + 1
        if name.value in lines:
            first = lines[name.value]
            raise DuplicateKeyError(f"line {line} sets {name.value} again, after line {first}")
        lines[name.value] = line


def _error(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _read_chain(path: str, *, role: str, chain: list[str]) -> dict[str, Raw]:
    """Read a file and its bases.

    Args:
        path: Local path or address of a YAML file.
        role: Name of the file in messages, with what made us read it.
        chain: Files that inherit from this one, the first one first.
    """
    identities = [_identity(other) for other in chain]
    if _identity(path) in identities:
        cycle = " -> ".join([*chain[identities.index(_identity(path)) :], path])
        problem = f"the {BASE_KEY} chain leads back to its start, a cycle: {cycle}"
        raise ValueError(f"{chain[-1]}: {problem}")

    tree = _read_tree(path, role=role)
    settings: dict[str, Raw] = {}
    for base in _bases(tree.pop(BASE_KEY, []), role=role):
        base_path = _path_of_base(base, path)
        base_role = f"{printable(base_path)} (named by {BASE_KEY} in {path})"
        settings |= _read_chain(base_path, role=base_role, chain=[*chain, path])

    return settings | _flatten(tree, role=role)


def _identity(path: str) -> str:
    if "://" in path or "\0" in path:  # a null character is reported when the file is opened
        return path
    return os.path.realpath(path)


def _bases(value: Raw, *, role: str) -> list[str]:
    bases = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, Scalar) or item.is_null or item.is_binary:
            raise ValueError(f"{role}: {BASE_KEY} takes the name of a file, or a list of names")
        bases.append(item.text)
    return bases


def _path_of_base(base: str, path: str) -> str:
    if base.startswith("~"):
        base = os.path.expanduser(base)
    if base.startswith(("/", "https://", "http://")):
        return base
    return os.path.join(os.path.dirname(path), base)


def _flatten(tree: dict[str, Raw], *, role: str) -> dict[str, Raw]:
    settings: dict[str, Raw] = {}
    for key, value in _leaves(tree, prefix=""):
        if key in settings:
            raise ValueError(f"{role}: {key} is set twice, with a dot and in its section; keep one")
        settings[key] = value
    return settings


def _leaves(tree: dict[str, Raw], *, prefix: str) -> Iterator[tuple[str, Raw]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read_tree(path: str, *, role: str) -> dict[str, Raw]:
    source = _read_bytes(path, role=role)
    try:
        tree = parse(source)
    except DuplicateKeyError as error:
        raise ValueError(f"{role}: {error}; keep one of them") from error
    except yaml.reader.ReaderError as error:
        reason = f"{error.reason}, at position {error.position}"
        raise ValueError(f"{role}: not a text file in UTF-8 ({reason})") from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{role}: not a YAML file: {_explain(error)}") from error
    except RecursionError as error:
        raise ValueError(f"{role}: not a config: lists or mappings are nested too deep") from error

    if tree is None:
        raise ValueError(f"{role}: the file sets no key; write {{}} to use the defaults")
    if not isinstance(tree, dict):
        found = "a list" if isinstance(tree, list) else f"the text {tree.text[:40]!r}"
        raise ValueError(f"{role}: not a tree of sections and keys, but {found}")
    return tree


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = ", ".join(filter(None, [error.context, error.problem]))
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _read_bytes(path: str, *, role: str) -> bytes:
    try:
        with g_pathmgr.open(path, "rb") as file:
            content: bytes = file.read()
        return content
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{role}: no such file{_nearest_files(path)}") from error
    except IsADirectoryError as error:
        raise IsADirectoryError(f"{role}: a folder, not a file{_files_in(path)}") from error
    except PermissionError as error:
        raise PermissionError(f"{role}: you may not read this file") from error
    except OSError as error:
        raise OSError(f"{role}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a path with a null character
        raise ValueError(f"{role}: cannot be read: {error}") from error


def _files_in(folder: str) -> str:
    names = [name for name in _names_in(folder) if name.endswith((".yaml", ".yml"))]
    if not names:
        return ""
    return f"; choose a YAML file in it, such as {os.path.join(folder, names[0])}"


def _nearest_files(path: str) -> str:
    """Return advice with names like the first part of a path that does not exist."""
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

    if existing:
        return f"; the nearest is {' or '.join(existing)}"
    if below:
        return f"; there is no folder {os.path.join(folder, missing)}"
    return ""


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
