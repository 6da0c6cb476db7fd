"""Checkpoint files: written whole or not at all, opened without executing anything, found by epoch."""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from slowfast.utils.paths import pathmgr

_NAME = re.compile(r"checkpoint_epoch_(\d+)\.pyth")


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
    """Return the content of a checkpoint, its tensors on the CPU. Nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, is no checkpoint, or holds objects other than tensors and plain data.
    """
    if not pathmgr.isfile(str(path)):
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with pathmgr.open(str(path), "rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not a whole checkpoint of tensors and plain data ({reason})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a dict of tensors")
    return state
