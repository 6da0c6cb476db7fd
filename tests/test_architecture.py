"""Rules of the tree: who imports whom, who takes the config, no dead keys, no vague file names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from slowfast.config import default_cfg
from slowfast.config.retired import RETIRED
from slowfast.config.tree import leaf_keys

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "slowfast"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))

# Modules directly under slowfast/ (the API) and the tools import everything.
BELOW_COMMANDS = {
    "exporting",
    "serving",
    "probing",
    "engine",
    "inference",
    "explanation",
    "sharing",
    "runs",
    "evaluation",
    "visualization",
    "preparation",
    "datasets",
    "models",
    "distributed",
    "utils",
}
MAY_IMPORT: dict[str, set[str]] = {
    "commands": {
        "api",
        "config",
        "diagnosis",
        "model_origin",
        "name_collision",
        "probed",
        "trained",
        *BELOW_COMMANDS,
    },
    "diagnosis": {"datasets", "distributed", "inference", "models", "name_collision", "utils"},
    "engine": {
        "inference",
        "runs",
        "evaluation",
        "datasets",
        "models",
        "visualization",
        "distributed",
        "utils",
    },
    "probing": {"engine", "inference", "evaluation", "models", "utils"},
    "inference": {
        "explanation",
        "sharing",
        "evaluation",
        "datasets",
        "models",
        "visualization",
        "distributed",
        "utils",
    },
    "explanation": {"datasets", "models", "utils"},
    "sharing": {"evaluation", "utils"},
    "exporting": {"inference", "datasets", "models", "utils"},
    "serving": {"inference", "visualization", "datasets", "utils"},
    "runs": {"distributed", "utils"},
    "evaluation": {"datasets", "visualization", "distributed", "utils"},
    "visualization": {"datasets", "models", "utils"},
    "preparation": {"datasets", "distributed", "utils"},
    "datasets": {"distributed", "utils"},
    "models": {"distributed", "utils"},
    "distributed": {"utils"},
    "config": {"utils"},
    "utils": set(),
}

# Builders, checks and entry points take the config. Everything else takes plain arguments.
MAY_TAKE_CFG = re.compile(r"_?build_\w+|find_problems\w*|_find_\w+|train|evaluate")

# Further functions that take the config, "file::function", each with its reason. At most three.
CFG_EXCEPTIONS = {
    "slowfast/engine/resume.py::start_run": "It builds what a run resumes or starts from.",
    "slowfast/commands/run_net.py::run": "It is the entry point of each process.",
}


def path_in_tree(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            names.add(node.module or "")
    return names


def packages_in_strings(path: Path) -> set[str]:
    """Return our packages that a file names in a string, to read their files for example."""
    nodes = ast.walk(ast.parse(path.read_text()))
    texts = [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
    pattern = re.compile(rf"slowfast\.({'|'.join(MAY_IMPORT)})[.\w]*")
    return {match[1] for match in map(pattern.fullmatch, texts) if match}


def functions_that_take_cfg(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            arguments = node.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            if "cfg" in {argument.arg for argument in named}:
                yield getattr(node, "name", "lambda")


@pytest.mark.parametrize("path", SOURCES, ids=path_in_tree)
def test_packages_import_only_what_lies_below_them(path: Path) -> None:
    package, *inside = path.relative_to(PACKAGE).parts
    if not inside:
        return
    modules = [name for name in imported_modules(path) if name.startswith("slowfast.")]
    imported = {name.split(".")[1] for name in modules}
    assert imported | packages_in_strings(path) <= {package} | MAY_IMPORT[package]


def test_every_package_has_a_rule() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT)


@pytest.mark.parametrize("path", [*SOURCES, *TOOLS, *BENCHMARKS], ids=path_in_tree)
def test_only_builders_checks_and_entry_points_take_cfg(path: Path) -> None:
    if path.is_relative_to(PACKAGE / "config"):
        return
    others = [name for name in functions_that_take_cfg(path) if not MAY_TAKE_CFG.fullmatch(name)]
    unlisted = [name for name in others if f"{path_in_tree(path)}::{name}" not in CFG_EXCEPTIONS]
    assert not unlisted, "give these functions plain arguments instead of cfg"


def test_there_are_few_exceptions_and_each_is_needed() -> None:
    assert len(CFG_EXCEPTIONS) <= 3
    for entry, reason in CFG_EXCEPTIONS.items():
        file, _, name = entry.partition("::")
        assert name in functions_that_take_cfg(ROOT / file)
        assert reason


@pytest.mark.parametrize("key", leaf_keys(default_cfg()))
def test_every_config_key_is_read_in_full(key: str) -> None:
    in_full = re.compile(rf"\bcfg\.{re.escape(key)}\b")
    readers = [path for path in [*SOURCES, *TOOLS] if path.parent.name != "config"]
    assert any(in_full.search(path.read_text()) for path in readers), f"no code reads {key}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "utils").glob("*.py")), ids=path_in_tree)
def test_utils_name_no_config_key(path: Path) -> None:
    words = set(re.findall(r"[A-Z][A-Z0-9_.]+", path.read_text()))
    assert not words & set(leaf_keys(default_cfg()))


def test_retired_keys_are_not_in_the_tree() -> None:
    assert not set(leaf_keys(default_cfg())) & set(RETIRED)


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = {"misc", "helper", "helpers", "common", "base", "util", "types", "logging", "test"}
    assert not [path for path in SOURCES if path.stem in vague]


def test_every_module_says_what_it_holds() -> None:
    assert not [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))]
