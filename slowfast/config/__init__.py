"""From a YAML file and overrides to one frozen, checked config tree.

Nothing else under `slowfast` imports this package: a cfg arrives as an argument.
"""

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from slowfast.config.defaults import NUMBER_OR_LIST, RETIRED, add_section, default_cfg
from slowfast.config.rules import find_problems

__all__ = ["CfgNode", "add_section", "default_cfg", "find_problems", "load_cfg"]

logger = logging.getLogger(__name__)


def load_cfg(
    path: str,
    overrides: Sequence[str] = (),
    *,
    checks: Sequence[Callable[[CfgNode], list[str]]] = (find_problems,),
) -> CfgNode:
    """Return the frozen config: defaults, then the `_BASE_` chain, then the file, then the overrides.

    Args:
        path: a YAML file, local or remote.
        overrides: KEY VALUE KEY VALUE ..., values as in YAML.
        checks: functions from the merged tree to the problems they find in it, one sentence each.

    Raises:
        FileNotFoundError: the file, or a file that it inherits from, does not exist.
        ValueError: lists all that is wrong: unknown keys, values of a wrong type, and what the checks found.
    """
    cfg = default_cfg()
    problems: list[str] = []
    retired: list[str] = []
    for key, value in [*_settings_of_file(path), *_settings_of_overrides(overrides)]:
        if key in RETIRED:
            retired.append(f"{key} has no effect: {RETIRED[key]}")
        elif problem := _set(cfg, key=key, value=value):
            problems.append(problem)
    for warning in dict.fromkeys(retired):
        logger.warning("%s: %s", path, warning)
    if not problems:  # the checks may read any key, so the tree must be whole
        problems = [problem for check in checks for problem in check(cfg)]
    if problems:
        raise ValueError("\n  ".join([f"{path}:", *problems]))
    cfg.freeze()
    return cfg


def _settings_of_file(path: str) -> Iterator[tuple[str, Any]]:
    try:
        tree = CfgNode.load_yaml_with_base(path)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: the _BASE_ chain leads back to its start") from error
    except (AssertionError, TypeError, AttributeError) as error:  # fvcore on a scalar where a section is expected
        raise ValueError(f"{path}: not a tree of sections and keys: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: not a tree of sections and keys, but {str(tree)[:40]!r}")
    yield from _flatten(tree, prefix="")


def _flatten(tree: dict[str, Any], *, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _settings_of_overrides(overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
    if len(overrides) % 2:
        raise ValueError(f"overrides come as KEY VALUE pairs; {overrides[-1]!r} has no value")
    yield from zip(overrides[0::2], overrides[1::2], strict=True)


def _set(cfg: CfgNode, *, key: str, value: Any) -> str | None:
    """Set one key; returns what is wrong with it, if anything."""
    node, *names = cfg, *key.split(".")
    for name in names[:-1]:
        node = node.get(name) if isinstance(node, CfgNode) else None
    if not isinstance(node, CfgNode) or names[-1] not in node:
        return f"{key} is not a key; {_nearest(cfg, key)}"
    default = node[names[-1]]
    if isinstance(default, CfgNode):
        return f"{key} is a section; set one of its keys: {', '.join(default)}"
    try:
        # YAML 1.1 reads 1e-4 as a string, and overrides are strings: both are decoded here.
        value = CfgNode._decode_cfg_value(value)
        if isinstance(value, str) and value.lower() in ("true", "false", "null") and not isinstance(default, str):
            value = yaml.safe_load(value)
        if key in NUMBER_OR_LIST:
            is_list = isinstance(value, list | tuple)
            node[names[-1]] = [_coerce(number, 0.0) for number in value] if is_list else _coerce(value, 0.0)
        else:
            node[names[-1]] = _coerce(value, default)
    except (TypeError, SyntaxError) as error:
        return f"{key} is {value!r}; {error}"
    return None


def _coerce(value: Any, default: Any) -> Any:
    """The value in the type of the default; raises TypeError with the rule where it has another."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if default is None and (value is None or is_number):
        return value
    if isinstance(default, float) and is_number:
        return float(value)
    if isinstance(default, int) and not isinstance(default, bool) and is_number and value == int(value):
        return int(value)
    if isinstance(default, list) and isinstance(value, list | tuple):
        return list(value)
    if isinstance(default, str) and is_number:  # a folder may be called 2024
        return str(value)
    if type(value) is type(default):
        return value
    expected = "a number or null" if default is None else f"{type(default).__name__}, like {default!r}"
    raise TypeError(f"expected {expected}")


def _nearest(cfg: CfgNode, key: str) -> str:
    known = [*dict(_flatten(cfg, prefix="")), *RETIRED]
    # The section is often right and the name misspelt, or the name right and the section wrong.
    last = key.rsplit(".", 1)[-1]
    close = [name for name in known if name.rsplit(".", 1)[-1] == last] or difflib.get_close_matches(key, known, 1, 0.5)
    return f"the nearest is {close[0]}" if close else "tools/run_net.py --print-config lists them"
