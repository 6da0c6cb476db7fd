"""The rules of the tree: who imports whom, no dead keys, no vague file names."""

import ast
import re
from pathlib import Path

import pytest

from slowfast.config import CfgNode, default_cfg
from slowfast.config.defaults import RETIRED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "slowfast"
MAY_IMPORT = {
    "engine": {
        "engine",
        "evaluation",
        "datasets",
        "models",
        "visualization",
        "distributed",
        "utils",
    },
    "evaluation": {"evaluation", "datasets", "visualization", "distributed", "utils"},
    "visualization": {"visualization", "datasets", "models", "utils"},
    "preparation": {"preparation", "datasets", "utils"},
    "datasets": {"datasets", "distributed", "utils"},
    "models": {"models", "distributed", "utils"},
    "distributed": {"distributed", "utils"},
    "config": {"config"},
    "utils": {"utils"},
}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_only_what_lies_below_them(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return
    imported = {
        name.split(".")[1] for name in imported_modules(path) if name.startswith("slowfast.")
    }
    assert imported <= MAY_IMPORT[parts[0]]


def test_every_package_has_a_rule() -> None:
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(
        MAY_IMPORT
    )


def config_keys(tree: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in tree.items():
        keys += (
            config_keys(value, f"{prefix}{name}.")
            if isinstance(value, CfgNode)
            else [f"{prefix}{name}"]
        )
    return keys


@pytest.mark.parametrize("key", config_keys(default_cfg()))
def test_every_config_key_is_read_in_full(key: str) -> None:
    readers = [
        path for path in [*SOURCES, *(ROOT / "tools").glob("*.py")] if path.parent.name != "config"
    ]
    assert any(re.search(rf"\bcfg\.{re.escape(key)}\b", path.read_text()) for path in readers), (
        f"no code reads {key}"
    )


def test_retired_keys_are_not_in_the_tree() -> None:
    assert not set(config_keys(default_cfg())) & set(RETIRED)


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = {"misc", "helper", "helpers", "common", "base", "util", "types", "logging", "test"}
    assert not [path for path in SOURCES if path.stem in vague]


def test_every_module_says_what_it_holds() -> None:
    assert not [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))]
