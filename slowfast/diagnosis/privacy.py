"""Privacy: texts without the names of people and machines, since bug reports are public."""

import getpass
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# Variables that change how a run behaves. Their values help to explain a bug.
_VARIABLES = re.compile(
    r"(?:OMP|MKL|OPENBLAS|KMP|NCCL|GLOO|TORCH\w*|PYTORCH|CUDA|NVIDIA|NUMBA|TRITON|SLOWFAST)_\w+"
    r"|HF_HUB_(?:OFFLINE|DISABLE_XET)|FVCORE_CACHE|LD_PRELOAD|WEIGHTS_DIR|CC|CXX"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASS|CREDENTIAL|COOKIE|AUTH|(?:^|_)KEY(?:_|$)", re.IGNORECASE)
_TOKEN = re.compile(r"\b(?:hf|ghp|gho|glpat|sk)[_-]\w{16,}")
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
_SHORTEST = 2  # A single letter is in too many texts.


class Privacy:
    """Replacements for the home folder, the user, the machine and its secrets in texts."""

    def __init__(self) -> None:
        self._secrets = [
            value for name, value in os.environ.items() if _SECRET.search(name) and len(value) > 7
        ]
        replacements = [(re.escape(home) + r"(?=/|\W|$)", "~") for home in _homes()]
        for host in _hosts():
            replacements.append((_whole_word(host), "HOST"))
        for user in _users():
            replacements.append((_whole_word(user), "USER"))
        self._replacements = [(re.compile(pattern), name) for pattern, name in replacements]

    def clean(self, value: Any) -> Any:
        """Return plain data without private names in its texts. The keys of mappings stay."""
        if isinstance(value, str):
            return self._clean_text(value)
        if isinstance(value, Mapping):
            return {key: self.clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        return value

    def _clean_text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "SECRET")
        text = _TOKEN.sub("SECRET", _LOGIN.sub("SECRET@", text))
        for pattern, replacement in self._replacements:
            text = pattern.sub(replacement, text)
        return text


def environment() -> dict[str, str]:
    """Return the environment variables that change how a run behaves."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if _VARIABLES.fullmatch(name) and not _SECRET.search(name)
    }


def _whole_word(name: str) -> str:
    return rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"


def _homes() -> list[str]:
    """Return the names of the home folder, the longest first."""
    names = {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~"))}
    return sorted((name for name in names if Path(name).is_absolute() and name != "/"), key=len)[
        ::-1
    ]


def _hosts() -> list[str]:
    full = {socket.gethostname(), os.environ.get("SLURMD_NODENAME", ""), os.uname().nodename}
    names = full | {name.partition(".")[0] for name in full}
    return sorted((n for n in names if len(n) >= _SHORTEST and n != "localhost"), key=len)[::-1]


def _users() -> list[str]:
    names = {os.environ.get("USER", ""), os.environ.get("LOGNAME", "")}
    with suppress(KeyError, OSError):  # The user id has no name, as in many containers.
        names.add(getpass.getuser())
    return [name for name in names if len(name) >= _SHORTEST and name != "root"]
