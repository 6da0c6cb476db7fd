"""What a machine lacks to compile kernels while it runs."""

import os
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

COMPILERS = ("g++", "clang++", "c++")  # any of them, or what CXX names, compiles for a CPU
C_COMPILERS = (
    "gcc",
    "clang",
)  # any of them, or what CC names, compiles what Triton starts a kernel of a GPU with


def find_cpu_problems() -> list[str]:
    """Return what is missing here to compile for a CPU, each with its remedy; an empty list if nothing is."""
    return _compiler_problems("C++", "CXX", COMPILERS)


def find_gpu_problems() -> list[str]:
    """Return what is missing here to start kernels of Triton, each with its remedy; an empty list if nothing is."""
    return [*_compiler_problems("C", "CC", C_COMPILERS), *_header_problems()]


def _compiler_problems(language: str, variable: str, compilers: Sequence[str]) -> list[str]:
    names = [os.environ[variable]] if os.environ.get(variable) else compilers
    if any(map(shutil.which, names)):
        return []
    return [
        f"there is no {language} compiler here ({', '.join(names)}); install {compilers[0]}, or name one in the "
        f"environment variable {variable}"
    ]


def _header_problems() -> list[str]:
    # Debian's own scheme names a folder that Triton does not look into.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_paths(scheme=scheme)["include"], "Python.h")
    if header.is_file():
        return []
    return [
        f"Python's header {header} is missing, which kernels of a GPU are compiled with; install it (python3-dev)"
    ]
