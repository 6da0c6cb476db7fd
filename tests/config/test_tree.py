"""Declarations of keys: which ones belong to the identity of a run, and what they hold."""

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slowfast.config import CfgNode, Config, add_section, default_cfg, defaults, load_cfg
from slowfast.config.tree import free, identity, leaf_keys, value_at

COPIES: dict[str, Callable[[Config], Config]] = {
    "clone": lambda cfg: cfg.clone(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda cfg: pickle.loads(pickle.dumps(cfg)),
}


@pytest.fixture
def temporary_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test add sections to a copy of the default tree."""
    monkeypatch.setattr(defaults, "_C", default_cfg())


def sections(tree: Config) -> Iterator[Config]:
    yield tree
    for value in tree.values():
        if isinstance(value, CfgNode):
            assert isinstance(value, Config)
            yield from sections(value)


def small_tree() -> Config:
    tree = Config()
    tree.RNG_SEED = identity(0)
    tree.SOLVER = Config()
    tree.SOLVER.LR = free(0.1, "another entry stands for it")
    tree.SOLVER.DECAY = identity(0.05)
    return tree


@pytest.mark.parametrize("key", leaf_keys(default_cfg()))
def test_every_key_declares_identity_or_why_it_is_free(key: str) -> None:
    *path, name = key.split(".")
    section = value_at(default_cfg(), ".".join(path)) if path else default_cfg()
    is_identity = name in section.identity_keys
    is_free = name in section.free_keys
    assert is_identity != is_free
    assert is_identity or section.free_keys[name]


def test_the_identity_has_the_declared_keys_alone() -> None:
    tree = default_cfg()
    num_declared = sum(len(section.identity_keys) for section in sections(tree))
    settings = tree.identity_settings()
    assert len(settings) == num_declared == 77
    assert settings["SOLVER.WEIGHT_DECAY"] == 0.05
    assert not {"NUM_GPUS", "OUTPUT_DIR", "SOLVER.BASE_LR", "TEST.EMA"} & set(settings)


def test_identity_settings_by_hand() -> None:
    assert small_tree().identity_settings() == {"RNG_SEED": 0, "SOLVER.DECAY": 0.05}


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_tree_has_its_declarations(make_copy: Callable[[Config], Config]) -> None:
    tree = small_tree()
    tree.SOLVER.DECAY = 0.2
    tree.freeze()
    copied = make_copy(tree)
    assert copied.is_frozen()
    assert copied == tree
    assert copied.identity_settings() == {"RNG_SEED": 0, "SOLVER.DECAY": 0.2}


def test_a_loaded_tree_has_the_declarations(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("SOLVER: {WEIGHT_DECAY: 0.5, BASE_LR: 0.5}")
    (tmp_path / "x.yaml").write_text("_BASE_: base.yaml\nNUM_GPUS: 2")
    changed = load_cfg(str(tmp_path / "x.yaml"), ["RNG_SEED", "7"]).identity_settings()
    expected = {"SOLVER.WEIGHT_DECAY": 0.5, "RNG_SEED": 7}
    assert changed == default_cfg().identity_settings() | expected


def test_a_tree_merged_from_a_file_has_the_declarations(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("NUM_GPUS: 2\nRNG_SEED: 7")
    tree = default_cfg()
    tree.merge_from_file(str(tmp_path / "x.yaml"))
    assert tree.NUM_GPUS == 2
    assert tree.identity_settings() == default_cfg().identity_settings() | {"RNG_SEED": 7}


@pytest.mark.usefixtures("temporary_sections")
def test_keys_of_an_added_section_belong_to_the_identity() -> None:
    add_section("NET", {"WIDTH": 16, "NAMES": []}, lists_of_strings=["NAMES"])
    settings = default_cfg().identity_settings()
    assert (settings["NET.WIDTH"], settings["NET.NAMES"]) == (16, [])
    assert len(settings) == 79


def test_an_undeclared_key_belongs_to_the_identity() -> None:
    tree = small_tree()
    tree.MORE = 1
    assert tree.identity_settings()["MORE"] == 1
