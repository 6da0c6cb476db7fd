"""Values: text for string keys, types for the others, KEY=VALUE, and dumped trees."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slowfast.config import CfgNode, Config, add_section, default_cfg, defaults, load_cfg
from slowfast.config.tree import leaf_keys, value_at

Load = Callable[..., CfgNode]

# Texts that YAML or Python read as something other than text.
TEXTS = [
    "off",
    "no",
    "Yes",
    "1.10",
    "1_000",
    "0x10",
    "012",
    "1e3",
    "+1",
    ".5",
    ".nan",
    ".inf",
    "2024-11-25",
    "2024-13-45",
    "2024_11_25",
    "12:30:00",
    "0x_",
    "=",
    "<<",
]
TEXTS.append("2024-11-25 10:00:00Z")


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Function that loads a config from text and overrides, without checks."""

    def make(text: str | bytes, *overrides: str) -> CfgNode:
        path = tmp_path / "x.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_cfg(str(path), overrides, checks=[])

    return make


@pytest.fixture
def temporary_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test add sections to a copy of the default tree."""
    monkeypatch.setattr(defaults, "_C", default_cfg())


def keys_of_kind(*kinds: str) -> list[str]:
    """Return the keys of the default tree that declare one of some kinds."""
    tree = default_cfg()
    return [key for key in leaf_keys(tree) if kind_of(tree, key) in kinds]


def kind_of(tree: Config, key: str) -> str:
    section, _, name = key.rpartition(".")
    return (value_at(tree, section) if section else tree).kinds.get(name, "")


# ---- String keys: text in, text out ----------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_an_unquoted_scalar_keeps_its_source_text(load: Load, text: str) -> None:
    cfg = load(f"OUTPUT_DIR: {text}\nTEST: {{CHECKPOINT_FILE_PATH: {text}}}")
    folder, file = cfg.OUTPUT_DIR, cfg.TEST.CHECKPOINT_FILE_PATH
    assert (folder, file) == (text, text)


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS,
        "",
        " a ",
        "null",
        "a~",
        "True",
        "'a'",
        '"a"',
        "[1, 2]",
        "(1)",
        "a=b",
        "a\nb",
        "é",
        "{}",
    ],
)
def test_a_word_of_the_command_line_keeps_its_text(load: Load, text: str) -> None:
    for overrides in (["OUTPUT_DIR", text], [f"OUTPUT_DIR={text}"]):
        folder = load("{}", *overrides).OUTPUT_DIR
        assert folder == text


def test_runs_named_1_1_and_1_10_have_their_own_folders(load: Load) -> None:
    assert load("{}", "OUTPUT_DIR", "1.1").OUTPUT_DIR != load("{}", "OUTPUT_DIR", "1.10").OUTPUT_DIR
    assert load("OUTPUT_DIR: '1.10'").OUTPUT_DIR == "1.10"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'1.10'", "1.10"),
        ('"null"', "null"),
        ("''", ""),
        ('"a\\tb"', "a\tb"),
        ("|\n  1\n  2\n", "1\n2\n"),
        ("!!str 0x10", "0x10"),
        ("!!int 010", "010"),
        ("&here 1.10", "1.10"),
        ("1.10  # the tenth", "1.10"),
    ],
)
def test_quotes_blocks_tags_and_anchors_are_yaml(load: Load, text: str, value: str) -> None:
    folder = load(f"OUTPUT_DIR: {text}").OUTPUT_DIR
    assert folder == value


def test_an_alias_of_a_string_key_keeps_the_text(load: Load) -> None:
    cfg = load("OUTPUT_DIR: &a 1.10\nDATA: {PATH_PREFIX: *a}\nSOLVER: {BASE_LR: *a}")
    assert (cfg.DATA.PATH_PREFIX, cfg.SOLVER.BASE_LR) == ("1.10", 1.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "OUTPUT_DIR is null. Expected text: quote it, or write '' for empty text"),
        ("~", "OUTPUT_DIR is null. Expected text: quote it, as '~', or write '' for empty text"),
        ("null", "OUTPUT_DIR is null. Expected text: quote it, as 'null', or write ''"),
        ("NULL", "OUTPUT_DIR is null. Expected text: quote it, as 'NULL', or write ''"),
        ("[1.10, b]", "OUTPUT_DIR is [1.10, 'b']. Expected text, not a list"),
        ("{}", "OUTPUT_DIR is {}. Expected text, not a mapping"),
        ("{A: 1}", "OUTPUT_DIR.A is not a key. OUTPUT_DIR is a key, not a section"),
        ("!!binary aGk=", "OUTPUT_DIR is aGk=. Expected text, not binary data"),
    ],
)
def test_other_values_are_refused_for_a_string_key(load: Load, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load(f"OUTPUT_DIR: {text}")


# ---- Lists of strings ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[1.10, off, 2024-11-25, '*.bias']", ["1.10", "off", "2024-11-25", "*.bias"]),
        ("['1.10', \"a b\"]", ["1.10", "a b"]),
        ("[head.*, 0x10]", ["head.*", "0x10"]),
        ("[]", []),
    ],
)
def test_elements_of_a_list_of_strings_keep_their_text(
    load: Load, text: str, items: list[str]
) -> None:
    of_file = load(f"MODEL: {{ALLOWED_MISMATCH: {text}}}").MODEL.ALLOWED_MISMATCH
    of_command_line = load("{}", "MODEL.ALLOWED_MISMATCH", text).MODEL.ALLOWED_MISMATCH
    assert (of_file, of_command_line) == (items, items)


def test_tuples_of_the_command_line_are_lists_of_strings(load: Load) -> None:
    for text, items in (("('a',)", ["a"]), ("(1.10, b)", ["1.10", "b"])):
        patterns = load("{}", "MODEL.ALLOWED_MISMATCH", text).MODEL.ALLOWED_MISMATCH
        assert patterns == items


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head.*", "is 'head.*'. Expected a list of text, such as ['*.bias', 'head.*']"),
        ("[a, null]", "Expected text: quote it, as 'null'"),
        ("[[a]]", "Expected text, not a list"),
        ("", "Expected a list of text"),
        ("{A: 1}", "MODEL.ALLOWED_MISMATCH"),
    ],
)
def test_what_is_no_list_of_strings_is_refused(load: Load, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load(f"MODEL:\n  ALLOWED_MISMATCH: {text}")
    with pytest.raises(ValueError, match=r"MODEL\.ALLOWED_MISMATCH is"):
        load("{}", f"MODEL.ALLOWED_MISMATCH={text}")


def test_every_empty_default_list_declares_what_it_holds() -> None:
    tree = default_cfg()
    empty = [key for key in leaf_keys(tree) if value_at(tree, key) == []]
    assert keys_of_kind("strings", "numbers") == empty


@pytest.mark.usefixtures("temporary_sections")
def test_keys_of_a_plugin_keep_their_text_as_well(load: Load) -> None:
    add_section(
        "NET", {"NAME": "a", "PARTS": ["a"], "MORE": [], "SIZES": []}, lists_of_strings=["MORE"]
    )
    cfg = load("NET: {NAME: 1.10, PARTS: [off, 012], MORE: [1e3, 1_0], SIZES: [012, 1.10]}")
    assert cfg.NET == {
        "NAME": "1.10",
        "PARTS": ["off", "012"],
        "MORE": ["1e3", "1_0"],
        "SIZES": [10, 1.1],
    }
    assert load("{}", "NET.NAME", "0x10", "NET.MORE=[1.10]").NET.MORE == ["1.10"]


@pytest.mark.usefixtures("temporary_sections")
def test_a_plugin_may_not_add_unloadable_defaults() -> None:
    with pytest.raises(
        ValueError, match=r"NET\.LIMIT is inf by default. Use a finite number or None"
    ):
        add_section("NET", {"LIMIT": float("inf")})
    with pytest.raises(ValueError, match=r"lists_of_strings names NET\.WIDTH, which is not a list"):
        add_section("NET", {"WIDTH": 1}, lists_of_strings=["WIDTH"])


# ---- Numbers, bools, lists and null ----------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.BASE_LR", "'1e-4'", 1e-4),
        ("SOLVER.BASE_LR", "1e-4", 1e-4),
        ("SOLVER.MAX_EPOCH", "1_000", 1000),
        ("SOLVER.MAX_EPOCH", "7.0", 7),
        ("SOLVER.MAX_EPOCH", "'7'", 7),
        ("SOLVER.NESTEROV", "off", False),
        ("SOLVER.NESTEROV", "'True'", True),
        ("SOLVER.LRS", "[1, 1e-1, '1e-2']", [1, 0.1, 0.01]),
        ("SOLVER.LRS", "'[1, 0.1]'", [1, 0.1]),
        ("UNIFORMER.QKV_SCALE", "", None),
        ("UNIFORMER.QKV_SCALE", "'null'", None),
        ("UNIFORMER.MLP_RATIO", "[4, '3']", [4.0, 3.0]),
    ],
)
def test_other_keys_are_read_as_yaml_and_python_do(
    load: Load, key: str, text: str, value: Any
) -> None:
    section, name = key.split(".")
    result = load(f"{section}:\n  {name}: {text}")[section][name]
    assert result == value
    assert type(result) is type(value)


def test_an_override_may_return_to_the_type_of_the_default(load: Load) -> None:
    cfg = load(
        "UNIFORMER: {QKV_SCALE: 0.125, MLP_RATIO: [4, 4, 4, 4]}",
        "UNIFORMER.QKV_SCALE=null",
        "UNIFORMER.MLP_RATIO=3",
    )
    assert cfg.UNIFORMER.QKV_SCALE is None
    assert cfg.UNIFORMER.MLP_RATIO == 3.0


@pytest.mark.parametrize(
    "key", ["SOLVER.BASE_LR", "SOLVER.MAX_EPOCH", "UNIFORMER.QKV_SCALE", "UNIFORMER.MLP_RATIO"]
)
@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", ".nan", ".inf", "-.inf", "NaN", "1e999", "'nan'"]
)
def test_non_finite_numbers_are_refused_by_name(load: Load, key: str, text: str) -> None:
    section, name = key.split(".")
    shown = re.escape(text.strip("'"))
    with pytest.raises(
        ValueError, match=rf"{key} is '?{shown}'?. Expected a (finite|whole) number, such as"
    ):
        load(f"{section}: {{{name}: {text}}}")
    with pytest.raises(
        ValueError, match=rf"{key} is .*{shown}.*. Expected a (finite|whole)? ?number, such as"
    ):
        load("{}", f"{key}={text}")


@pytest.mark.parametrize(
    ("key", "text"),
    [("DATA.MEAN", "[.nan, 0, 0]"), ("SOLVER.LRS", "[1, inf]"), ("DATA.STD", "[1, 1, 1e999]")],
)
def test_non_finite_numbers_in_lists_are_refused(load: Load, key: str, text: str) -> None:
    section, name = key.split(".")
    with pytest.raises(ValueError, match=rf"{key} is .*. Expected a finite number"):
        load(f"{section}: {{{name}: {text}}}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("SOLVER.MAX_EPOCH=1.5", "SOLVER.MAX_EPOCH is 1.5. Expected a whole number, such as 100"),
        ("SOLVER.MAX_EPOCH=True", "SOLVER.MAX_EPOCH is True. Expected a whole number, such as 100"),
        ("SOLVER.MAX_EPOCH=", "SOLVER.MAX_EPOCH is ''. Expected a whole number"),
        ("SOLVER.MAX_EPOCH=[8]", "SOLVER.MAX_EPOCH is [8]. Expected a whole number"),
        ("SOLVER.MOMENTUM=much", "SOLVER.MOMENTUM is 'much'. Expected a number, such as 0.9"),
        (f"SOLVER.MOMENTUM=1{'0' * 400}", "Expected a finite number"),
        (f"SOLVER.MOMENTUM={'(' * 999}", ".... Expected a number, such as 0.9"),
        ("TRAIN.ENABLE=1", "TRAIN.ENABLE is 1. Expected True or False"),
        ("TRAIN.ENABLE=None", "TRAIN.ENABLE is None. Expected True or False"),
        ("DATA.MEAN=1", "DATA.MEAN is 1. Expected a list, such as [0.45, 0.45, 0.45]"),
        ("SOLVER.STEPS=1", "SOLVER.STEPS is 1. Expected a list, such as [1, 2]"),
        ("DATA.MEAN=['a', True]", "Expected a list of numbers, such as [0.45, 0.45, 0.45]"),
        (
            "UNIFORMER.QKV_SCALE=a",
            "UNIFORMER.QKV_SCALE is 'a'. Expected a number, such as 0.1, or null",
        ),
        ("UNIFORMER.MLP_RATIO=a", "Expected a number, such as 4.0, or a list of numbers"),
    ],
)
def test_a_wrong_type_is_explained_without_class_names(
    load: Load, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load("{}", override)
    assert not re.search(r"\b(int|float|str|bool|dict|NoneType)\b", str(caught.value))


def test_a_date_for_a_number_is_shown_as_it_is_written(load: Load) -> None:
    with pytest.raises(
        ValueError, match=r"SOLVER\.MAX_EPOCH is 2024-11-25. Expected a whole number"
    ):
        load("SOLVER: {MAX_EPOCH: 2024-11-25}")


# ---- KEY=VALUE beside KEY VALUE --------------------------------------------------------------


def test_both_forms_of_overrides_mix_and_the_last_wins(load: Load) -> None:
    overrides = "NUM_GPUS=0 SOLVER.MAX_EPOCH 3 RNG_SEED=4 SOLVER.MAX_EPOCH=5 LOG_PERIOD 6"
    cfg = load("{}", *overrides.split())
    assert (cfg.NUM_GPUS, cfg.SOLVER.MAX_EPOCH, cfg.RNG_SEED, cfg.LOG_PERIOD) == (0, 5, 4, 6)


def test_a_value_is_never_split_and_may_hold_equal_signs(load: Load) -> None:
    cfg = load("{}", "OUTPUT_DIR", "NUM_GPUS=0", "DATA.PATH_PREFIX=a=b=", "TENSORBOARD.LOG_DIR=")
    assert (cfg.OUTPUT_DIR, cfg.NUM_GPUS) == ("NUM_GPUS=0", 1)
    assert (cfg.DATA.PATH_PREFIX, cfg.TENSORBOARD.LOG_DIR) == ("a=b=", "")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["SOLVER.BASE_LR"], "SOLVER.BASE_LR"),
        (["NUM_GPUS=0", "OUTPUT_DIR"], "OUTPUT_DIR"),
        (["OUTPUT_DIR", "NUM_GPUS=0", "RNG_SEED"], "RNG_SEED"),
        (["SOLVER.BASE_LR", "NUM_GPUS", "2"], "SOLVER.BASE_LR"),  # and not 2
        (["num_gpus=0"], "num_gpus=0"),
    ],
)
def test_a_key_without_a_value_is_named(load: Load, overrides: list[str], key: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"'{key}' has no value. Write KEY VALUE or KEY=VALUE")
    ):
        load("{}", *overrides)


def test_an_unknown_key_with_an_equal_sign_is_named(load: Load) -> None:
    with pytest.raises(
        ValueError, match=r"SOLVER\.BASE_LRR is not a key. The nearest is SOLVER\.BASE_LR"
    ):
        load("{}", "SOLVER.BASE_LRR=1")
    with pytest.raises(ValueError, match=r"SOLVER is a section. Set one of its keys"):
        load("{}", "SOLVER=1")


# ---- A dumped tree is the same tree ----------------------------------------------------------


YAML_SYNTAX = [
    "null",
    "a~",
    "",
    " ",
    " a ",
    "#x",
    "a #x",
    "a: b",
    "- a",
    "---",
    "...",
    "'",
    '"',
    "\\",
    "{a}",
    "[a]",
    "*a",
    "&a",
]
OTHER_TEXTS = [
    "é",
    "日本",
    "😀",
    "a\nb",
    "a\n",
    "\n a",
    "  a\n b\n",
    "a\tb",
    "\r\n",
    "\x00\x1b\x85\u2028\ufeff",
    "\udcff",
    "w " * 99,
]


@pytest.mark.parametrize("text", TEXTS + YAML_SYNTAX + OTHER_TEXTS)
def test_a_dumped_tree_loads_with_the_same_text(load: Load, text: str) -> None:
    patterns = repr([text, "a"])
    cfg = load("{}", f"OUTPUT_DIR={text}", "MODEL.ALLOWED_MISMATCH", patterns)
    folder, loaded = cfg.OUTPUT_DIR, cfg.MODEL.ALLOWED_MISMATCH
    assert (folder, loaded) == (text, [text, "a"])
    assert load(cfg.dump()) == cfg


@pytest.mark.parametrize("key", keys_of_kind("path"))
def test_a_tilde_stands_for_the_home_folder(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    *sections, name = key.split(".")
    setting = f"{name}: ~/a"
    for section in reversed(sections):
        setting = f"{section}: {{{setting}}}"
    (tmp_path / "x.yaml").write_text(setting)
    for overrides in ([], [key, "~/a"], [f"{key}=~/a"]):
        cfg = load_cfg(str(tmp_path / "x.yaml"), overrides)
        assert value_at(cfg, key) == str(tmp_path / "home/a")
    assert load_cfg(str(tmp_path / "x.yaml"), [key, "a~/~"]) != cfg
    with pytest.raises(
        ValueError, match=rf"{key} is '~nobody2/a'. There is no user 'nobody2'. Write"
    ):
        load_cfg(str(tmp_path / "x.yaml"), [key, "~nobody2/a"])


def test_every_key_that_holds_a_path_declares_it() -> None:
    named = re.compile("PATH|DIR|MANIFEST|CLASS_NAMES")
    keys = {key for key in leaf_keys(default_cfg()) if named.search(key)}
    assert keys - {"DATA.PATH_LABEL_SEPARATOR"} <= {*keys_of_kind("path")}
