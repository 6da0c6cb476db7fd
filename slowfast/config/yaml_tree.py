"""YAML documents as trees of mappings, lists and scalars that keep their source text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

MAX_NODES = 100_000  # limit for a file with its aliases expanded (a config has a few hundred)
MAX_DEPTH = 100  # limit for nested lists and mappings (a config has three levels)

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
    tag: str = _TAG + "str"  # type that YAML sees in the text (a quoted scalar is a str)

    @property
    def is_null(self) -> bool:
        """Whether YAML reads null here: nothing, `~` or `null`, without quotes."""
        return self.tag == _TAG + "null"

    @property
    def is_binary(self) -> bool:
        """Whether the tag `!!binary` declares the text as base64."""
        return self.tag == _TAG + "binary"

    def value(self) -> Any:
        """Return the value that YAML reads: a number, a bool, None, a date or the text itself."""
        if self.tag in (_TAG + "value", _TAG + "merge"):  # a lone `=` or `<<`
            return self.text

        constructor = yaml.constructor.SafeConstructor()
        try:
            return constructor.construct_object(yaml.ScalarNode(self.tag, self.text))
        except (ValueError, LookupError, AttributeError, OverflowError, yaml.YAMLError):
            return self.text  # 2024-13-45 looks like a date, and 0x_ like a number


Raw: TypeAlias = Scalar | list["Raw"] | dict[str, "Raw"]


class DuplicateKeyError(ValueError):
    """A mapping of a YAML file sets a key twice."""


def parse(source: str | bytes) -> Raw | None:
    """Return the tree of a YAML document: mappings, lists and scalars, or None if it is empty.

    Raises:
        yaml.YAMLError: If the source is not one YAML document of plain data.
        DuplicateKeyError: If a mapping sets a key to two values.
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


def describe(error: yaml.MarkedYAMLError) -> str:
    """Return the problem of a YAML document with its line and column."""
    problem = ", ".join(filter(None, [error.context, error.problem]))
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


class _Loader(yaml.SafeLoader):
    """Builds trees of `Scalar` and never calls the constructor of a tag."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self._depth == MAX_DEPTH:
            raise RecursionError
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level == MAX_DEPTH:  # the scanner takes quadratic time
            raise RecursionError
        super().fetch_flow_collection_start(token)

    def raw(self, node: yaml.Node) -> Raw:
        if isinstance(node, yaml.ScalarNode):
            return Scalar(node.value, node.tag)
        if isinstance(node, yaml.SequenceNode):
            return [self.raw(item) for item in node.value]

        assert isinstance(node, yaml.MappingNode)
        # Merged entries (`<<`) come first, so that the mapping's own keys win.
        self.flatten_mapping(node)
        return {name.value: self.raw(value) for name, value in node.value}


def _check(node: yaml.Node, *, sizes: dict[int, int | None]) -> int:
    """Check that a tree is plain data, and return its number of nodes with aliases expanded."""
    size = sizes.setdefault(id(node), None)
    if size is not None:
        return size

    if node.tag not in _TAGS[type(node)]:
        tag = node.tag.replace(_TAG, "!!")
        raise _error(node, f"the tag {tag} is not allowed, since a config holds plain data")

    size = 1
    if isinstance(node, yaml.MappingNode):
        _check_names(node)
    for child in _children(node):
        if sizes.get(id(child), 0) is None:
            raise _error(child, "an alias refers to a list or mapping that contains it")
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
    found: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise _error(name, "expected the name of a key, not a list or a mapping")

        first, first_value = found.setdefault(name.value, (name, value))
        if first is not name and not _are_equal(first_value, value):
            lines = [mark.start_mark.line + 1 for mark in (first, name)]
            raise DuplicateKeyError(
                f"line {lines[1]} sets {name.value} again after line {lines[0]}"
            )


def _are_equal(first: yaml.Node, second: yaml.Node) -> bool:
    """Whether two values are the same scalar or flat list, as published files set some keys twice.

    A section that comes twice is a mistake even if it says the same.
    """
    if isinstance(first, yaml.SequenceNode) and isinstance(second, yaml.SequenceNode):
        pairs = zip(first.value, second.value, strict=False)
        is_equal = all(_are_equal_scalars(*pair) for pair in pairs)
        return is_equal and len(first.value) == len(second.value)
    return _are_equal_scalars(first, second)


def _are_equal_scalars(first: yaml.Node, second: yaml.Node) -> bool:
    if not (isinstance(first, yaml.ScalarNode) and isinstance(second, yaml.ScalarNode)):
        return False
    return (first.tag, first.value) == (second.tag, second.value)


def _error(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
