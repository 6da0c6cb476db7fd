"""Config loading: from a YAML file, its bases and overrides to one frozen, checked tree."""

import difflib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from slowfast.config.defaults import default_cfg
from slowfast.config.files import parse_settings, read_settings
from slowfast.config.retired import ONLY_VALUES, RETIRED
from slowfast.config.rules import find_problems
from slowfast.config.tree import Config, leaf_keys
from slowfast.config.values import as_list, decode, shorten, show, to_value
from slowfast.config.yaml_tree import Raw, Scalar
from slowfast.utils.command_names import command_name

logger = logging.getLogger(__name__)

_KEY_AND_EQUALS = re.compile(r"^([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)=")


def load_cfg(
    path: str,
    overrides: Sequence[str] = (),
    *,
    checks: Sequence[Callable[[CfgNode], list[str]]] = (find_problems,),
    final_checks: Sequence[Callable[[CfgNode], list[str]]] = (),
) -> Config:
    """Return the frozen config: the defaults, then the `_BASE_` chain, the file and the overrides.

    A key with a string as its default keeps its text as it is written: `OUTPUT_DIR: 1.10` in YAML
    and `OUTPUT_DIR 1.10` on the command line both mean the text 1.10.

    Args:
        path: YAML file, local or remote.
        overrides: KEY VALUE or KEY=VALUE, in any order, with values as in YAML or Python.
        checks: Functions from the merged tree to the problems that they find in it, one sentence
            each.
        final_checks: Further ones, which run only if no other check finds a problem. They may build
            what the config describes.

    Raises:
        OSError: If the file, or a file that it inherits from, is missing or unreadable.
        ValueError: If a file is not a config, or with the list of all problems: unknown keys,
            values of a wrong type, and what the checks found.
    """
    settings = [*read_settings(path).items(), *_parse_overrides(overrides)]
    return _merge(settings, origin=path, checks=(checks, final_checks))


def parse_cfg(
    text: str,
    overrides: Sequence[str] = (),
    *,
    origin: str,
    checks: Sequence[Callable[[CfgNode], list[str]]] = (),
) -> Config:
    """Return the frozen config of a YAML text, such as the one in a checkpoint.

    Args:
        text: Keys and values. All other keys have their defaults.
        overrides: See `load_cfg`.
        origin: Where the text comes from, for messages.
        checks: Functions from the merged tree to the problems that they find in it.

    Raises:
        ValueError: With the list of all problems, as in `load_cfg`.
    """
    settings = [*parse_settings(text, origin=origin).items(), *_parse_overrides(overrides)]
    return _merge(settings, origin=origin, checks=(checks,))


def _merge(
    settings: Sequence[tuple[str, Raw]],
    *,
    origin: str,
    checks: Sequence[Sequence[Callable[[CfgNode], list[str]]]],
) -> Config:
    """Return the defaults with some settings, frozen and checked group by group."""
    cfg, defaults = default_cfg(), default_cfg()
    problems: list[str] = []
    retired: list[str] = []

    for key, raw in settings:
        if key in RETIRED and (problem := _find_lost_meaning(key, raw)):
            problems.append(problem)
        elif key in RETIRED:
            retired.append(f"{key} has no effect: {RETIRED[key]}")
        elif problem := _set(cfg, key=key, raw=raw, defaults=defaults):
            problems.append(problem)
    for warning in dict.fromkeys(retired):
        logger.warning("%s: %s", origin, warning)

    for group in checks:
        if not problems:  # the checks may read any key, so the tree must be valid
            for check in group:
                problems += check(cfg)
    if problems:
        raise ValueError("\n  ".join([f"{origin}:", *map(_cut, problems)]))

    cfg.freeze()
    return cfg


def _cut(problem: str) -> str:
    """Cut the middle out of a problem that quotes a long value."""
    return problem if len(problem) <= 600 else f"{problem[:400]} ... {problem[-150:]}"


def _parse_overrides(overrides: Sequence[str]) -> Iterator[tuple[str, Raw]]:
    words = iter(map(str, overrides))
    settings: list[tuple[str, Raw]] = []
    for word in words:
        if pair := _KEY_AND_EQUALS.match(word):
            settings.append((pair[1], Scalar(word[pair.end() :])))
            continue

        value = next(words, None)
        if value is None:
            raise ValueError(_describe_missing_value(word, settings))
        settings.append((word, Scalar(value)))

    yield from settings


def _describe_missing_value(last: str, settings: list[tuple[str, Raw]]) -> str:
    known = leaf_keys(default_cfg())
    # If a key stands where a value belongs, the value of the key before it is missing.
    swallowed = (key for key, raw in settings if isinstance(raw, Scalar) and raw.text in known)
    key = last if last in known else next(swallowed, last)

    remedy = "Write KEY VALUE or KEY=VALUE, with the key in upper case"
    return f"{shorten(repr(key))} has no value. {remedy}"


def _set(cfg: Config, *, key: str, raw: Raw, defaults: Config) -> str | None:
    """Set one key and return the problem with it, if there is one."""
    *sections, name = key.split(".")
    node, section = cfg, defaults
    for number, section_name in enumerate(sections):
        if section_name not in section:
            return _describe_unknown_key(key, defaults=defaults)
        if not isinstance(section[section_name], Config):
            prefix = ".".join(sections[: number + 1])
            return f"{shorten(key)} is not a key. {prefix} is a key, not a section"
        node, section = node[section_name], section[section_name]

    if name not in section:
        return _describe_unknown_key(key, defaults=defaults)

    default: Any = section[name]
    if isinstance(default, Config):
        if raw == {}:
            return None
        return f"{key} is a section. Set one of its keys: {', '.join(default)}"

    try:
        node[name] = to_value(raw, default=default, kind=section.kinds.get(name, ""))
    except ValueError as error:
        expected = str(error)
        return f"{key} is {show(raw)}. {expected[0].upper()}{expected[1:]}"
    return None


def _find_lost_meaning(key: str, raw: Raw) -> str | None:
    """Return the problem with a retired key whose value would have to change something."""
    if key not in ONLY_VALUES:
        return None
    value, remedy = ONLY_VALUES[key]
    return None if as_list(decode(raw)) == [value] else f"{key} is {show(raw)}, but {remedy}"


def _describe_unknown_key(key: str, *, defaults: Config) -> str:
    known = [*leaf_keys(defaults), *RETIRED]
    # The section is often right and the name misspelled, or the name right and the section wrong.
    last = key.rsplit(".", 1)[-1]
    close = [name for name in known if name.rsplit(".", 1)[-1] == last]
    close = close or difflib.get_close_matches(key.upper(), known, 1, 0.5)

    advice = f"Run {command_name('run_net')} --print-config to list all keys"
    if close:
        advice = f"The nearest is {close[0]}"
    return f"{shorten(key or repr(key))} is not a key. {advice}"
