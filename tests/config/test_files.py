"""Config files: inheritance with `_BASE_`, all kinds of YAML, and errors that name the file."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from iopath.common.file_io import PathHandler, g_pathmgr

from slowfast.config import CfgNode, load_cfg

Write = Callable[[str, str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Function that writes a file in the folder of the test, and returns its path."""

    def make(name: str, text: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return make


def load(path: str) -> CfgNode:
    return load_cfg(path, checks=[])


# ---- The chain of bases ----------------------------------------------------------------------


def test_bases_are_relative_to_the_file_that_names_them(write: Write) -> None:
    write("a/first.yaml", "OUTPUT_DIR: 1.10\nRNG_SEED: 1")
    write("a/second.yaml", "_BASE_: first.yaml\nRNG_SEED: 2")
    cfg = load(write("b/x.yaml", "_BASE_: ../a/second.yaml\nLOG_PERIOD: 3"))
    assert (cfg.OUTPUT_DIR, cfg.RNG_SEED, cfg.LOG_PERIOD) == ("1.10", 2, 3)


def test_a_base_from_the_home_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("home/base.yaml", "RNG_SEED: 5")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load(write("x.yaml", "_BASE_: ~/base.yaml")).RNG_SEED == 5
    assert load(write("x.yaml", f"_BASE_: {tmp_path}/home/base.yaml")).RNG_SEED == 5


def test_two_bases_may_share_a_base(write: Write) -> None:
    write("root.yaml", "RNG_SEED: 1")
    write("a.yaml", "_BASE_: root.yaml\nLOG_PERIOD: 1")
    write("b.yaml", "_BASE_: root.yaml\nLOG_PERIOD: 2")
    cfg = load(write("x.yaml", "_BASE_: [a.yaml, b.yaml]"))
    assert (cfg.RNG_SEED, cfg.LOG_PERIOD) == (1, 2)


def test_a_key_with_a_dot_wins_over_the_section_of_a_base(write: Write) -> None:
    write("base.yaml", "SOLVER: {MAX_EPOCH: 1, MOMENTUM: 0.5}\nSOLVER.BASE_LR: 0.1")
    cfg = load(write("x.yaml", "_BASE_: base.yaml\nSOLVER.MAX_EPOCH: 2\nSOLVER: {BASE_LR: 0.2}"))
    assert (cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.MOMENTUM, cfg.SOLVER.BASE_LR) == (2, 0.5, 0.2)


def test_a_base_with_a_name_like_a_number(write: Write) -> None:
    write("1.10", "RNG_SEED: 7")
    assert load(write("x.yaml", "_BASE_: 1.10")).RNG_SEED == 7


@pytest.mark.parametrize("value", ["", "~", "{a: b}", "[a.yaml, null]", "[[a.yaml]]"])
def test_a_base_that_is_not_a_name_is_refused(write: Write, value: str) -> None:
    with pytest.raises(
        ValueError, match=r"x\.yaml: _BASE_ takes a file name or a list of file names"
    ):
        load(write("x.yaml", f"_BASE_: {value}"))


def test_a_cycle_of_bases_is_shown(write: Write) -> None:
    write("b.yaml", "_BASE_: ./c.yaml")
    write("c.yaml", "_BASE_: [b.yaml]")
    with pytest.raises(
        ValueError,
        match=r"c\.yaml: the _BASE_ chain .* a cycle: \S+b\.yaml -> \S+c\.yaml -> \S+b\.yaml$",
    ):
        load(write("a.yaml", "_BASE_: b.yaml"))


class Shelf(PathHandler):
    """Serves the files of a folder as shelf://name."""

    folder: Path

    def _get_supported_prefixes(self) -> list[str]:
        return ["shelf://"]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: object) -> object:
        return open(self.folder / path.removeprefix("shelf://top/"), mode)


def test_files_are_opened_by_the_path_manager_of_iopath(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf()
    shelf.folder = tmp_path
    monkeypatch.setattr(
        g_pathmgr, "_path_handlers", {"shelf://": shelf, **g_pathmgr._path_handlers}
    )
    write("base.yaml", "RNG_SEED: 3")
    write("x.yaml", "_BASE_: base.yaml\nOUTPUT_DIR: 1.10")
    cfg = load("shelf://top/x.yaml")
    assert (cfg.RNG_SEED, cfg.OUTPUT_DIR) == (3, "1.10")


# ---- YAML ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfOUTPUT_DIR: 1.10\nRNG_SEED: 3\n",
        b"OUTPUT_DIR: 1.10\r\nRNG_SEED: 3\r\n",
        "OUTPUT_DIR: 1.10\nRNG_SEED: 3".encode("utf-16"),
        b"---\nOUTPUT_DIR: 1.10\nRNG_SEED: 3\n...\n",
        b"%YAML 1.1\n--- {OUTPUT_DIR: 1.10, RNG_SEED: 3}",
        b'{"OUTPUT_DIR": "1.10", "RNG_SEED": 3}',
    ],
)
def test_byte_order_marks_line_ends_and_markers_are_read(write: Write, text: bytes) -> None:
    cfg = load(write("x.yaml", text))
    assert (cfg.OUTPUT_DIR, cfg.RNG_SEED) == ("1.10", 3)


def test_merge_keys_give_way_to_the_keys_of_the_mapping(write: Write) -> None:
    text = (
        "TRAIN: &all {DATASET: 1.10, BATCH_SIZE: 8}\n"
        "TEST: {BATCH_SIZE: 4, <<: [*all, {BATCH_SIZE: 9, EMA: no}]}"
    )
    cfg = load(write("x.yaml", text))
    assert (cfg.TEST.DATASET, cfg.TEST.BATCH_SIZE, cfg.TEST.EMA) == ("1.10", 4, False)


def test_a_value_that_a_later_file_replaces_is_not_checked(write: Write) -> None:
    write("base.yaml", "OUTPUT_DIR: ~\nRNG_SEED: x")
    cfg = load(write("x.yaml", "_BASE_: base.yaml\nOUTPUT_DIR: off\nRNG_SEED: 1"))
    assert (cfg.OUTPUT_DIR, cfg.RNG_SEED) == ("off", 1)


def test_a_key_may_be_set_twice_to_the_same_value(write: Write) -> None:
    # All published files of the light models do this.
    text = "SOLVER:\n  COSINE_AFTER_WARMUP: True\n  BASE_LR: 1\n  COSINE_AFTER_WARMUP: True"
    cfg = load(write("x.yaml", text))
    assert cfg.SOLVER.COSINE_AFTER_WARMUP is True
    lists = "DATA: {MEAN: [0.5, 0.4, 0.3], STD: [1, 1, 1], MEAN: [0.5, 0.4, 0.3]}"
    assert load(write("x.yaml", lists)).DATA.MEAN == [0.5, 0.4, 0.3]
    with pytest.raises(ValueError, match="line 1 sets MEAN again after line 1"):
        load(write("x.yaml", lists.replace("0.3]}", "0.2]}")))
    other = text.replace("WARMUP: True", "WARMUP: 'True'", 1)
    with pytest.raises(ValueError, match="line 4 sets COSINE_AFTER_WARMUP again after line 2"):
        load(write("x.yaml", other))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "SOLVER:\n  BASE_LR: 1\n  MOMENTUM: 1\n  BASE_LR: 2",
            "line 4 sets BASE_LR again after line 2",
        ),
        ("SOLVER: {}\nTRAIN: {}\nSOLVER: {}", "line 3 sets SOLVER again after line 1"),
        ("'on': 1\non: 2", "line 2 sets on again after line 1"),
        ("DATA: {MEAN: [{a: 1,\na: 2}]}", "line 2 sets a again after line 1"),
        ("DATA: &x [*x]\nDATA: &y [*y]", "line 2 sets DATA again after line 1"),
        (
            "SOLVER.BASE_LR: 1\nSOLVER: {BASE_LR: 2}",
            "SOLVER.BASE_LR is set twice, with a dot and in its section",
        ),
    ],
)
def test_a_key_that_is_set_twice_is_named_with_its_lines(
    write: Write, text: str, message: str
) -> None:
    base = write("base.yaml", text)
    with pytest.raises(ValueError, match=re.escape(f"--cfg {base}: {message}")):
        load(base)
    path = write("x.yaml", "_BASE_: base.yaml")
    with pytest.raises(
        ValueError, match=re.escape(f"{base} (named by _BASE_ in {path}): {message}")
    ):
        load(path)


@pytest.mark.parametrize("name", ["1", "on", "~", "1.10", "é"])
def test_a_key_is_named_as_it_is_written(write: Write, name: str) -> None:
    with pytest.raises(ValueError, match=rf"\n  {re.escape(name)} is not a key"):
        load(write("x.yaml", f"{name}: x"))


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{name}'] * 10)}]\n"
    for name, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file sets no key. Write {} to use the defaults"),
        ("# nothing\n\n", "the file sets no key"),
        ("---\n", "the file sets no key"),
        ("3", "not a tree of sections and keys, but the text '3'"),
        ("- a", "not a tree of sections and keys, but a list"),
        (
            "RNG_SEED: 1\n---\nRNG_SEED: 2",
            "not a YAML file: line 2, column 1: expected a single document",
        ),
        ("SOLVER:\n\tBASE_LR: 1", "not a YAML file: line 2, column 1: .*cannot start any token"),
        (
            "[a]: x",
            "not a YAML file: line 1, column 1: expected the name of a key, not a list or",
        ),
        (
            "A: !!python/name:os.system",
            "not a YAML file: .*the tag !!python/name:os.system is not allowed",
        ),
        ("A: !!python/object/apply:os.system [x]", "not a YAML file: .*is not allowed"),
        ("A: !mine x", "not a YAML file: .*the tag !mine is not allowed"),
        ("A: !!set {x}", "not a YAML file: .*the tag !!set is not allowed"),
        (
            "A: &a {B: *a}",
            "not a YAML file: .*an alias refers to a list or mapping that contains it",
        ),
        ("A: &a {B: {<<: *a}}", "not a YAML file: .*an alias refers to"),
        ("A: {<<: 3}", "not a YAML file: .*expected a mapping or list of mappings for merging"),
        ("A: *b", "not a YAML file: .*undefined alias"),
        (BOMB, "not a YAML file: .*the aliases stand for more than 100000 values"),
        ("A: " + "[" * 5000, "not a config: lists or mappings are nested too deeply"),
        (
            "\n".join("  " * depth + "A:" for depth in range(900)),
            "not a config: lists or mappings are nested too deeply",
        ),
        (b"PK\x03\x04\x00", r"not a text file in UTF-8 \("),
        ("OUTPUT_DIR: é".encode("latin-1"), r"not a text file in UTF-8 \("),
    ],
    ids=lambda part: str(part)[:30],
)
def test_a_problem_with_a_file_takes_one_sentence(
    write: Write, text: str | bytes, message: str
) -> None:
    path = write("x.yaml", text)
    with pytest.raises(ValueError, match=rf"^--cfg {re.escape(path)}: {message}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


# ---- Unreadable files ------------------------------------------------------------------------


def test_a_missing_file_is_named_with_the_nearest_files(write: Write, tmp_path: Path) -> None:
    near = write("exp/kinetics_s/config.yaml", "{}")
    missing = f"{tmp_path}/exp/kinetics_s/confg.yaml"
    with pytest.raises(FileNotFoundError) as caught:
        load(missing)
    assert str(caught.value) == f"--cfg {missing}: no such file. The nearest is {near}"

    with pytest.raises(
        FileNotFoundError, match=rf"kinetics_x/config\.yaml: no such file. The nearest is {near}"
    ):
        load(f"{tmp_path}/exp/kinetics_x/config.yaml")
    with pytest.raises(
        FileNotFoundError, match=rf"no such file. There is no folder {tmp_path}/qq$"
    ):
        load(f"{tmp_path}/qq/zz.yaml")
    with pytest.raises(FileNotFoundError, match=r"config\.yaml/x\.yaml: no such file"):
        load(f"{near}/x.yaml")


def test_a_missing_file_of_the_current_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("quick.yaml", "{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"^--cfg quik\.yaml: no such file. The nearest is quick\.yaml$"
    ):
        load("quik.yaml")
    with pytest.raises(
        FileNotFoundError, match=r"^--cfg http://127\.0\.0\.1/x\.yaml: no such file$"
    ):
        load("http://127.0.0.1/x.yaml")


def test_a_missing_base_says_which_file_names_it(write: Write, tmp_path: Path) -> None:
    middle = write("middle.yaml", "_BASE_: basis.yaml")
    near = write("basic.yaml", "{}")
    with pytest.raises(FileNotFoundError) as caught:
        load(write("x.yaml", "_BASE_: middle.yaml"))
    missing = f"{tmp_path}/basis.yaml (named by _BASE_ in {middle})"
    assert str(caught.value) == f"{missing}: no such file. The nearest is {near}"


def test_a_folder_is_not_a_config_file(write: Write, tmp_path: Path) -> None:
    config = write("exp/small.yaml", "{}")
    with pytest.raises(
        IsADirectoryError, match=rf"^--cfg \S+: a folder, not a file. Choose .* such as {config}$"
    ):
        load(f"{tmp_path}/exp")


def test_the_folder_of_an_experiment_means_its_config(write: Write, tmp_path: Path) -> None:
    write("exp/config.yaml", "SOLVER: {BASE_LR: 0.5}")
    assert load(f"{tmp_path}/exp").SOLVER.BASE_LR == 0.5


def test_shipped_experiments_and_recipes_are_found_anywhere(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("exp/quickstart").MODEL.NUM_CLASSES == 8
    assert load("./exp/uniformer_s8x8_k400/config.yaml").MODEL.NUM_CLASSES == 400
    own = write("own/own.yaml", "_BASE_: configs/models/uniformer_s.yaml\nRNG_SEED: 5\n")
    assert load(own).UNIFORMER.DEPTH == [3, 4, 8, 3]

    from_folder = write("own/from_folder.yaml", "_BASE_: exp/quickstart/\n")
    assert load(from_folder).MODEL.NUM_CLASSES == 8

    # A file of your own comes first.
    write("exp/quickstart/config.yaml", "MODEL: {NUM_CLASSES: 3}")
    write("own/configs/models/uniformer_s.yaml", "UNIFORMER: {DEPTH: [1, 1, 1, 1]}")
    assert load("exp/quickstart").MODEL.NUM_CLASSES == 3
    assert load(own).UNIFORMER.DEPTH == [1, 1, 1, 1]
    write("own/exp/quickstart/config.yaml", "MODEL: {NUM_CLASSES: 4}")
    assert load(from_folder).MODEL.NUM_CLASSES == 4


def test_the_nearest_shipped_experiment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("exp/quickstrat", "exp/quickstrat/config.yaml"):
        with pytest.raises(
            FileNotFoundError, match=r"no such file. The nearest is exp/quickstart$"
        ):
            load(path)


@pytest.mark.parametrize("path", ["exp/none", "exp/../setup.py", "configs", "exp", "\0"])
def test_nothing_else_is_found_among_the_shipped_files(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError if path != "\0" else ValueError, match=r"^--cfg "):
        load(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_named(write: Write) -> None:
    path = write("x.yaml", "{}")
    os.chmod(path, 0)
    with pytest.raises(PermissionError, match=r"^--cfg \S+x\.yaml: you may not read this file"):
        load(path)
