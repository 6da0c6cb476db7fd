"""Checkpoint files: written whole or not at all, opened without executing anything, found by epoch."""

import errno
import os
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from slowfast.utils.paths import pathmgr

_NAME = re.compile(r"checkpoint_epoch_(\d+)\.pyth")


class LeftOut:
    """What stands where a file holds an object that is not data: it takes what that was made of, and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "LeftOut":
        """Return one, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# What files that circulate hold beside their tensors: command lines, paths, accuracies, configs. None of these classes
# is called; any other ends in an error.
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (LeftOut, "argparse.Namespace"),
    (LeftOut, "pathlib.PosixPath"),
    (LeftOut, "pathlib.WindowsPath"),
    (LeftOut, "pathlib._local.PosixPath"),
    (LeftOut, "pathlib._local.WindowsPath"),
    (LeftOut, "numpy.dtype"),
    (LeftOut, "numpy.core.multiarray.scalar"),
    (LeftOut, "numpy._core.multiarray.scalar"),
    (OrderedDict, "yacs.config.CfgNode"),
    (OrderedDict, "fvcore.common.config.CfgNode"),
]
# Of torch.load on a damaged file: a part of a pickle may be any other pickle.
_DAMAGE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, struct.error, ValueError, TypeError, LookupError),
    *(AttributeError, AssertionError, OverflowError, MemoryError, SafetensorError),
)


def checkpoint_path(output_dir: str, *, epoch: int) -> Path:
    """Return where the checkpoint after `epoch` finished epochs lies."""
    return Path(output_dir, "checkpoints", f"checkpoint_epoch_{epoch:05d}.pyth")


def newest_checkpoint(output_dir: str) -> Path | None:
    """Return the checkpoint of the last epoch that was saved in a run's folder, if there is one."""
    folder = Path(output_dir, "checkpoints")
    found = [path for path in folder.glob("*.pyth") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return max(found, default=None, key=lambda path: int(_NAME.fullmatch(path.name)[1]))  # type: ignore[index]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside its place and move it there, so that a file with this name is always whole.

    Args:
        path: its folder is made where it is missing.
        state: tensors, numbers, strings, and lists and dicts of them: what opens with `weights_only=True`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, outlives a crash of the machine
    finally:
        os.close(folder)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a .pth, .pyth or .safetensors file, its tensors on the CPU. Nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, is no checkpoint, or holds objects other than tensors and plain data.
    """
    if not pathmgr.isfile(str(path)):
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        state = _load(str(path))
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place in the file that cannot be
            raise
        raise ValueError(f"{path}: not a whole checkpoint of tensors and plain data ({_reason(error)})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a dict of tensors")
    return state


def _load(path: str) -> Any:
    if path.endswith(".safetensors"):
        return load_file(pathmgr.get_local_path(path))
    with pathmgr.open(path, "rb") as file, torch.serialization.safe_globals(_STAND_INS):
        return torch.load(file, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds {found[1]}, which could run code"
    # torch says first how to open the file nevertheless, then what is wrong.
    text = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()
    return text[0] if text and " " in text[0] else f"{type(error).__name__} {''.join(text[:1])}".strip()
