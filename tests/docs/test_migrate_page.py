"""docs/migrate.md: old names are those of the other code bases, new ones are ours and are valid."""

import argparse
import json
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from slowfast.commands.main import COMMANDS
from slowfast.config import default_cfg, load_cfg
from slowfast.config.retired import RETIRED
from slowfast.config.tree import leaf_keys
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/migrate.md").read_text()
SLOWFAST = json.loads((ROOT / "tests/reference/slowfast_config_keys.json").read_text())
KEY = r"[A-Z][A-Z_0-9]*(?:\.[A-Z][A-Z_0-9]*)+"

Row = list[str]


def tables() -> list[list[Row]]:
    """Return the rows of each table, without its head."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", PAGE, re.MULTILINE)
    found = []
    for block in blocks:
        rows = [line.strip("|").split("|") for line in block.splitlines()]
        found.append([[cell.strip() for cell in row] for row in rows[2:]])
    return found


(
    UNIFORMER_COMMANDS,
    NO_EFFECT,
    SLOWFAST_COMMANDS,
    DEFAULTS,
    REPLACED,
    GONE,
    MM_COMMANDS,
    MM_KEYS,
) = tables()


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def value_of(key: str) -> Any:
    node: Any = default_cfg()
    for name in key.split("."):
        node = node[name]
    return node


OUR_CODE = [
    text
    for row in [*UNIFORMER_COMMANDS, *SLOWFAST_COMMANDS, *GONE, *MM_COMMANDS, *MM_KEYS]
    for text in code(row[1])
]
OUR_COMMANDS = [text for text in OUR_CODE if text.startswith("slowfast ")]
OUR_SETTINGS = [text for text in OUR_CODE if re.match(rf"{KEY}|[A-Z_]+\b", text)]


class _Parsed(Exception):  # noqa: N818, it is no error
    """The command line is valid."""


@pytest.mark.parametrize("text", dict.fromkeys(OUR_COMMANDS))
def test_the_commands_here_are_valid(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(text)[1:]
    assert words[0] in COMMANDS
    if len(words) == 1:
        return

    if words[0] == "submit" and "--cfg" not in words:
        words += ["--cfg", "exp/uniformer_s16x4_k400"]
    parse_known = argparse.ArgumentParser.parse_known_args

    def stop(*args: Any, **kwargs: Any) -> None:
        _, rest = parse_known(*args, **kwargs)
        raise SystemExit(f"unknown: {rest}") if rest else _Parsed

    for name in ("parse_args", "parse_intermixed_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    command = COMMANDS[words[0]]
    with pytest.raises(_Parsed):
        import_module(f"slowfast.commands.{command.module}").main([*command.arguments, *words[1:]])


@pytest.mark.parametrize("text", dict.fromkeys(OUR_SETTINGS))
def test_the_keys_here_exist_and_take_their_values(text: str) -> None:
    key, _, value = text.partition(" ")
    assert key in leaf_keys(default_cfg())
    if value:
        load_cfg(str(ROOT / "configs/kinetics.yaml"), [key, value], checks=[])


def test_recipes_on_the_page_exist() -> None:
    paths = {word for text in OUR_COMMANDS for word in text.split() if word.startswith("exp/")}
    assert paths
    assert [path for path in paths if not (ROOT / path / "config.yaml").is_file()] == []


def test_keys_without_effect_are_the_retired_ones() -> None:
    rows = [*NO_EFFECT, *REPLACED]
    assert {key: reason for cell, reason in rows for key in code(cell)} == RETIRED


def test_changed_defaults_are_those_of_both_trees() -> None:
    ours = set(leaf_keys(default_cfg()))
    changed = {
        key: default
        for key, default in SLOWFAST["defaults"].items()
        if key in ours and value_of(key) != default
    }

    assert [code(key)[0] for key, _, _ in DEFAULTS] == sorted(changed)
    for cell, there, here in DEFAULTS:
        key = code(cell)[0]
        assert there == {" ": "a space"}.get(str(changed[key]), str(changed[key]))
        shown = here.partition(" (")[0].strip('"')
        assert load_cfg(str(ROOT / "configs/kinetics.yaml"), [key, shown], checks=[])
        assert type(value_of(key))(shown) == value_of(key)


def test_every_key_of_slowfast_is_accounted_for() -> None:
    ours = set(leaf_keys(default_cfg()))
    theirs = [*SLOWFAST["defaults"], *SLOWFAST["later"]]
    unknown = [key for key in theirs if key not in ours and key not in RETIRED]
    named = [key for row in GONE for key in code(row[0])]

    assert sorted(named) == sorted(unknown)
    text = PAGE.partition("The sections RESNET")[2]
    assert [name for name in SLOWFAST["sections"] if name not in f"RESNET{text}"] == []


@pytest.mark.parametrize("key", ["TRAIN.MIXED_PRECISION", "RESNET.DEPTH", "DATA.MULTI_LABEL"])
def test_a_key_that_is_gone_is_an_error_that_names_it(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is not a key"):
        load_cfg(str(ROOT / "configs/kinetics.yaml"), [key, "1"], checks=[])


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


def test_tensorboard_and_demo_sections_of_slowfast_load_with_advice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    defaults = SLOWFAST["defaults"]
    settings = {key: defaults[key] for key in defaults if key.startswith(("TENSORBOARD.", "DEMO."))}
    switches = [key for key in settings if key.endswith(".ENABLE")]
    settings |= dict.fromkeys(switches, True) | {"DEMO.INPUT_VIDEO": "in.mp4"}
    (tmp_path / "slowfast.yaml").write_text(yaml.safe_dump(nested(settings)))
    cfg = load_cfg(str(tmp_path / "slowfast.yaml"))

    for key in settings:
        if key in RETIRED:
            assert f"{key} has no effect: {RETIRED[key]}" in caplog.text
        else:
            assert value_of(key) is not None
    assert len(caplog.records) == len(settings.keys() & RETIRED.keys())
    assert cfg.TENSORBOARD.MODEL_VIS.ENABLE


ADVICE = [reason for reason in dict.fromkeys(RETIRED.values()) if reason.startswith("slowfast ")]


@pytest.mark.parametrize("reason", ADVICE)
def test_advice_names_commands_that_exist(reason: str) -> None:
    assert reason.split()[1] in COMMANDS
