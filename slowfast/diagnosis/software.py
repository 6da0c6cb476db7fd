"""Checks of the software: Python, this package, the libraries and the optional extras."""

import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import slowfast
from slowfast import name_collision
from slowfast.diagnosis.finding import Finding, failed, ok, warning
from slowfast.utils.provenance import find_source

DISTRIBUTION = "slowfast-uniformer"
OLDEST_PYTHON = (3, 10)

# Required distributions, and the module of each.
REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "av": "av",
    "pillow": "PIL",
    "numba": "numba",
    "pyarrow": "pyarrow",
    "fvcore": "fvcore",
    "yacs": "yacs",
    "iopath": "iopath",
    "pyyaml": "yaml",
    "timm": "timm",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "simplejson": "simplejson",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
    "submitit": "submitit",
    "Jinja2": "jinja2",
    "MarkupSafe": "markupsafe",
    "matplotlib": "matplotlib",
}


def check_python() -> Finding:
    """Check the version of Python."""
    version = platform.python_version()
    libc = " ".join(platform.libc_ver()) or "another C library than glibc"
    text = f"{version}, {libc}, Linux {platform.release()}, {platform.machine()}"
    if platform.system() != "Linux":
        return failed(f"{version} on {platform.system()}", "Use Linux")
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        return failed(f"{text}: too old", f"Use Python {needed} or newer")
    return ok(text, executable=sys.executable, is_venv=sys.prefix != sys.base_prefix)


def check_package() -> Finding:
    """Check which version of this package runs, and where it comes from."""
    folder = Path(slowfast.__file__).resolve().parent
    source = find_source(folder.parent)
    commit = f"commit {source.commit[:12]}" if source.commit else "commit unknown"
    changes = ", uncommitted changes" if source.dirty == "yes" else ""

    return ok(
        f"{slowfast.__version__}, {commit}{changes}, in {folder}",
        version=slowfast.__version__,
        commit=source.commit,
        dirty=source.dirty,
        installed=_version_of(DISTRIBUTION),
    )


def check_module_name() -> Finding:
    """Check that no other package called `slowfast` is mixed with this one or hidden by it."""
    if problem := name_collision.find_problem():
        return failed(problem, name_collision.REMEDY)

    others = name_collision.find_others(sys.path)
    if others:
        return warning(
            f"another package called slowfast lies in {others[0]}. This one comes first only as "
            "long as its folder comes first on Python's path",
            "Remove that folder from PYTHONPATH, or pip uninstall slowfast",
        )
    return ok("no other package called slowfast on Python's path")


def check_libraries() -> Finding:
    """Check that each required library is installed and new enough."""
    bounds = _lower_bounds()
    versions = {name: _version_of(name) for name in REQUIRED}
    missing = [name for name, module in REQUIRED.items() if not _is_installed(module)]
    old = [
        f"{name} {version} (older than {bounds[name]})"
        for name, version in versions.items()
        if name not in missing and _is_older(version, bounds.get(name, ""))
    ]

    problems = [f"missing: {', '.join(missing)}"] if missing else []
    problems += [f"too old: {', '.join(old)}"] if old else []
    if problems:
        return failed(
            "; ".join(problems), "Install this package again with pip, see INSTALL.md", **versions
        )
    return ok(f"all {len(REQUIRED)} required ones are installed", **versions)


def check_extra(
    extra: str, modules: Sequence[str], *, feature: str, least_torch: str = ""
) -> Finding:
    """Check the libraries of an extra.

    Args:
        extra: Name of the extra in setup.py.
        modules: Modules that it installs.
        feature: What does not work without them.
        least_torch: Version of torch that the feature needs. "" for the one of this package.
    """
    torch = _version_of("torch")
    if _is_older(torch, least_torch):
        return warning(
            f"{feature} does not work: it needs torch {least_torch} or newer, not {torch}",
            f"pip install 'torch>={least_torch}'",
        )

    versions = {name: _version_of(name) for name in modules}
    missing = [name for name in modules if not _is_installed(name)]
    if missing:
        return warning(
            f"{feature} does not work: {', '.join(missing)} {_is_or_are(missing)} not installed",
            f"pip install '{DISTRIBUTION}[{extra}]', or from a checkout: pip install '.[{extra}]'",
            **versions,
        )
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return ok(f"{feature}: {named}", **versions)


def check_numba() -> Finding:
    """Check that numba compiles a function, with the installed version of numpy."""
    import numba
    import numpy as np

    double = numba.njit("int64(int64)")(lambda number: 2 * number)
    if double(21) != 42:
        return failed("numba computes wrong numbers", "pip install --force-reinstall numba")
    return ok(f"{numba.__version__} compiles, with numpy {np.__version__}")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # Something on Python's path forbids the import.
        return False


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _lower_bounds() -> Mapping[str, str]:
    """Return the lower bounds that this package was installed with, nothing if it was not."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    found = [re.match(r"([\w.-]+)\s*>=\s*([\d.]+)[^;]*$", line) for line in requirements]
    return {match[1]: match[2] for match in found if match}


def _is_older(version: str, bound: str) -> bool:
    return bool(version and bound) and _release(version) < _release(bound)


def _release(version: str) -> list[int]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return [int(number) for number in match[0].split(".")] if match else []


def _is_or_are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
