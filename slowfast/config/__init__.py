"""From a YAML file and overrides to one frozen, checked config tree.

Nothing else under `slowfast` imports this package: a cfg arrives as an argument.
"""

import difflib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from slowfast.config.defaults import RETIRED, add_section, default_cfg
from slowfast.config.files import Raw, Scalar, read_settings
from slowfast.config.rules import find_problems
from slowfast.config.values import cut_middle, shorten, show, to_value

__all__ = ["CfgNode", "add_section", "default_cfg", "find_problems", "load_cfg"]

logger = logging.getLogger(__name__)

_KEY_AND_EQUALS = re.compile(r"^([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)=")


def load_cfg(
    path: str,
    overrides: Sequence[str] = (),
    *,
    checks: Sequence[Callable[[CfgNode], list[str]]] = (find_problems,),
) -> CfgNode:
    """Return the frozen config: defaults, the `_BASE_` chain, the file, and the overrides, in turn.

    A key whose default is a string gets its text as it is written: in YAML, `OUTPUT_DIR: 1.10` is
    the text 1.10, and so is it on the command line.

    Args:
        path: YAML file, local or remote.
        overrides: KEY VALUE or KEY=VALUE, in any order. Values are written as in YAML or Python.
        checks: Functions from the merged tree to the problems they find in it, one sentence each.

    Raises:
        OSError: If the file, or a file that it inherits from, is missing or unreadable.
        ValueError: If a file is not a config, or with the list of all problems: unknown keys,
            values of a wrong type, and what the checks found.
    """
    cfg, defaults = default_cfg(), default_cfg()
    problems: list[str] = []
    retired: list[str] = []
    for key, raw in [*read_settings(path).items(), *_settings_of_overrides(overrides)]:
        if key in RETIRED:
            retired.append(f"{key} has no effect: {RETIRED[key]}")
        elif problem := _set(cfg, key=key, raw=raw, defaults=defaults):
            problems.append(problem)
    for warning in dict.fromkeys(retired):
        logger.warning("%s: %s", path, warning)

    if not problems:  # the checks may read any key, so the tree must be whole
        problems = [cut_middle(problem) for check in checks for problem in check(cfg)]
    if problems:
        raise ValueError("\n  ".join([f"{path}:", *map(_cut, problems)]))

    cfg.freeze()
    return cfg


def _cut(problem: str) -> str:
    """Leave out the middle of a problem that a value has made too long to read."""
    return problem if len(problem) <= 600 else f"{problem[:400]} ... {problem[-150:]}"


def _settings_of_overrides(overrides: Sequence[str]) -> Iterator[tuple[str, Raw]]:
    words = iter(map(str, overrides))
    settings: list[tuple[str, Raw]] = []
    for word in words:
        if pair := _KEY_AND_EQUALS.match(word):
            settings.append((pair[1], Scalar(word[pair.end() :])))
            continue

        value = next(words, None)
        if value is None:
            raise ValueError(_missing_value(word, settings))
        settings.append((word, Scalar(value)))
    yield from settings


def _missing_value(last: str, settings: list[tuple[str, Raw]]) -> str:
    """Return which key of the command line has no value, as far as that can be told."""
    known = _keys(default_cfg())
    # If a key stands where a value belongs, the value of the key before it is missing.
    swallowed = (key for key, raw in settings if isinstance(raw, Scalar) and raw.text in known)
    key = last if last in known else next(swallowed, last)
    return f"{shorten(repr(key))} has no value; write KEY VALUE or KEY=VALUE, with the key in upper case"


def _keys(cfg: CfgNode, *, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        key = f"{prefix}{name}"
        keys += _keys(value, prefix=f"{key}.") if isinstance(value, CfgNode) else [key]
    return keys


def _set(cfg: CfgNode, *, key: str, raw: Raw, defaults: CfgNode) -> str | None:
    """Set one key; return what is wrong with it, if anything."""
    names = key.split(".")
    default: Any = defaults
    for number, name in enumerate(names):
        if not isinstance(default, CfgNode):
            section = ".".join(names[:number])
            return f"{shorten(key)} is not a key; {section} is a key, not a section"
        if name not in default:
            return f"{shorten(key or repr(key))} is not a key; {_nearest(defaults, key)}"
        default = default[name]

    if isinstance(default, CfgNode):
        if raw == {}:
            return None
        return f"{key} is a section; set one of its keys: {', '.join(default)}"
    try:
        value = to_value(raw, key=key, default=default)
    except ValueError as error:
        return f"{key} is {show(raw)}; {error}"

    node = cfg
    for name in names[:-1]:
        node = node[name]
    node[names[-1]] = value
    return None


def _nearest(defaults: CfgNode, key: str) -> str:
    known = [*_keys(defaults), *RETIRED]
    # The section is often right and the name misspelt, or the name right and the section wrong.
    last = key.rsplit(".", 1)[-1]
    close = [name for name in known if name.rsplit(".", 1)[-1] == last]
    close = close or difflib.get_close_matches(key.upper(), known, 1, 0.5)
    return f"the nearest is {close[0]}" if close else "tools/run_net.py --print-config lists them"
