"""What the package declares: its dependencies, its extras, and the files that it ships."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "slowfast").rglob("*.py"))
# What others require: wheels of torch for GPUs, and numba one version of llvmlite.
WITH_OTHERS = {"triton", "llvmlite"}
# Distributions of other names, of extras that the lowest versions leave out.
NOT_INSTALLED = {"mlflow": "mlflow-skinny"}
# Imported by other packages on our behalf.
INDIRECT = {
    "yacs": "fvcore",
    "tensorboard": "torch.utils.tensorboard",
    "timm": "slowfast.datasets.rand_augment, which loads one file of it",
}


def declared(keyword: str) -> ast.expr:
    """Return the value of an argument in setup.py."""
    calls = (node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())))
    keywords = [node for node in calls if isinstance(node, ast.keyword) and node.arg == keyword]
    return keywords[0].value


def distribution(requirement: str) -> str:
    """Return the name of the distribution in a requirement, as its metadata spell it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[ ;<>=!~\[]", requirement)[0]).lower()


def requirements() -> set[str]:
    return {distribution(text) for text in ast.literal_eval(declared("install_requires"))}


def extras() -> dict[str, set[str]]:
    found = ast.literal_eval(declared("extras_require"))
    return {extra: set(map(distribution, texts)) for extra, texts in found.items()}


def imported_packages(path: Path) -> set[str]:
    """Return the top-level names that a file imports, also within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    return names


def test_every_import_is_a_declared_dependency() -> None:
    users = set().union(*(names for extra, names in extras().items() if extra != "dev"))
    known = packages_distributions()
    for path in SOURCES:
        for name in imported_packages(path) - sys.stdlib_module_names - {"slowfast"} - WITH_OTHERS:
            found = known.get(name, [NOT_INSTALLED.get(name, name)])
            candidates = {*map(distribution, found)}
            assert candidates & (requirements() | users), f"{path} imports {name}"


def test_every_declared_dependency_is_imported() -> None:
    imported = set().union(*map(imported_packages, SOURCES))
    known = packages_distributions()
    used = {distribution(found) for name in imported for found in known.get(name, [])}
    assert requirements() - INDIRECT.keys() <= used


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-lowest.txt"])
def test_every_direct_dependency_is_pinned(file: str) -> None:
    lines = (ROOT / file).read_text().splitlines()
    pinned = {distribution(line) for line in lines if "==" in line}
    stubs = {"types-simplejson", "types-pyyaml"}
    assert requirements().union(*extras().values()) - stubs - {"slowfast-uniformer"} <= pinned


def test_the_lowest_versions_are_the_bounds() -> None:
    bounds = {}
    for text in ast.literal_eval(declared("install_requires")):
        name, version = text.split(">=")
        bounds[distribution(name)] = version
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    lowest = dict(line.split("==") for line in lines if "==" in line)
    for name, version in lowest.items():
        if bound := bounds.get(distribution(name)):
            assert (version + ".").startswith(bound + ".") or version == bound, name
