"""Checks for the compilers and headers that just-in-time compilation of kernels needs."""

import os
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

# torch.compile needs one of these, or the one that CXX names, for kernels of a CPU.
COMPILERS = ("g++", "clang++", "c++")

# Triton needs one of these, or the one that CC names, for the launchers of its GPU kernels.
C_COMPILERS = ("gcc", "clang")


def find_cpu_problems() -> list[str]:
    """Return what is missing to compile kernels for a CPU, each with its remedy."""
    return _find_compiler_problems("C++", "CXX", COMPILERS)


def find_gpu_problems() -> list[str]:
    """Return what is missing to launch Triton kernels on a GPU, each with its remedy."""
    return [*_find_compiler_problems("C", "CC", C_COMPILERS), *_find_header_problems()]


def _find_compiler_problems(language: str, variable: str, compilers: Sequence[str]) -> list[str]:
    chosen = os.environ.get(variable)
    names = [chosen] if chosen else compilers
    if any(map(shutil.which, names)):
        return []

    remedy = f"Install {compilers[0]}, or name one in the environment variable {variable}"
    return [f"there is no {language} compiler here ({', '.join(names)}). {remedy}"]


def _find_header_problems() -> list[str]:
    # Debian's own scheme names a folder that Triton does not search.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_paths(scheme=scheme)["include"], "Python.h")
    if header.is_file():
        return []

    problem = f"Python's header {header} is missing, and GPU kernels need it to compile"
    return [f"{problem}. Install it (python3-dev)"]
