"""Checkpoint files: written whole or not at all, checked when read, found by epoch and step, and pruned.

A checkpoint is a zip file whose records carry checksums. Nothing in it is executed when it is opened.
"""

import errno
import json
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slowfast.utils.paths import pathmgr

BEST_NAME = "best.pyth"  # in the folder of a run: the checkpoint with the highest top-1 in a validation
NUM_KEPT_WITHIN_EPOCH = 2  # of the checkpoints in the middle of the epoch under way

_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_step_(\d+))?\.pyth")


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
    *(
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        struct.error,
        ValueError,
        TypeError,
        LookupError,
    ),
    *(AttributeError, AssertionError, OverflowError, MemoryError, SafetensorError),
)


def checkpoint_path(output_dir: str, *, epoch: int, step: int = 0) -> Path:
    """Return where the checkpoint after `epoch` finished epochs, and `step` steps of the next one, lies."""
    name = f"checkpoint_epoch_{epoch:05d}" + (f"_step_{step:07d}" if step else "")
    return Path(output_dir, "checkpoints", f"{name}.pyth")


def checkpoints_of(output_dir: str) -> list[Path]:
    """Return the checkpoints in a run's folder, the newest first; `best.pyth` is not among them."""
    folder = Path(output_dir, "checkpoints")
    found = [path for path in folder.glob("*.pyth") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_place, reverse=True)


def newest_checkpoint(output_dir: str) -> Path | None:
    """Return the newest checkpoint in a run's folder, if there is one."""
    return next(iter(checkpoints_of(output_dir)), None)


def prune_checkpoints(output_dir: str, *, keep_last: int, keep_every: int) -> None:
    """Delete old checkpoints of a run, and what a killed process left of one; the newest two always stay.

    Args:
        output_dir: of the run.
        keep_last: checkpoints at the end of an epoch that stay; 0: all.
        keep_every: those after each so many epochs stay as well; 0: none for that.
    """
    paths = checkpoints_of(output_dir)
    ends = [path for path in paths if not _place(path)[1]]
    within = paths[: paths.index(ends[0])] if ends else paths  # of the epoch under way
    kept = [*within[:NUM_KEPT_WITHIN_EPOCH], *ends[: max(keep_last, 2 - len(within)) if keep_last else None]]
    kept += [path for path in ends if keep_every and _place(path)[0] % keep_every == 0]
    old = [path for path in paths if path not in kept]
    for path in [*old, *Path(output_dir, "checkpoints").glob("*.unfinished")]:
        path.unlink(missing_ok=True)


def _place(path: Path) -> tuple[int, int]:
    """Finished epochs, and finished steps of the next one."""
    epoch, step = _NAME.fullmatch(path.name).groups("0")  # type: ignore[union-attr]
    return int(epoch), int(step)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside its place and move it there, so that a file with this name is always whole.

    Args:
        path: its folder is made where it is missing.
        state: tensors, numbers, strings, and lists and dicts of them: what opens with `weights_only=True`.

    Raises:
        OSError: it cannot be written; an older file of this name stays as it was.
    """
    unfinished = path.with_suffix(".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's writer, when a part of a record cannot be written
        unfinished.unlink(missing_ok=True)
        raise OSError(
            f"{path}: the checkpoint cannot be written ({_reason(error)}); older ones are whole. "
            "Make room, or set OUTPUT_DIR to another disk, and start again"
        ) from error


def save_weights(path: Path, weights: dict[str, Tensor], *, class_names: list[str]) -> None:
    """Write weights alone to a new file, whole or not at all: a .safetensors file, or one of torch.

    Args:
        path: its suffix says the format.
        weights: tensors by name.
        class_names: kept beside them; [] if they are not known.
    """
    if path.suffix != ".safetensors":
        save_checkpoint(path, {"model_state": weights, "class_names": class_names})
        return
    unfinished = path.with_suffix(".unfinished")
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(weights, unfinished, metadata={"format": "pt", "class_names": json.dumps(class_names)})
    unfinished.replace(path)


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
        with safe_open(pathmgr.get_local_path(path), framework="pt") as tensors:
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  # not a dict
            names = (tensors.metadata() or {}).get("class_names")
        return state if names is None else {"model_state": state, "class_names": json.loads(names)}
    with pathmgr.open(path, "rb") as file, torch.serialization.safe_globals(_STAND_INS):
        # torch writes a checksum of each record, and never looks at it.
        if zipfile.is_zipfile(file) and (damaged := zipfile.ZipFile(file).testzip()):
            raise ValueError(f"the checksum of its part {damaged} is wrong")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds {found[1]}, which could run code"
    # torch says first how to open the file nevertheless, then what is wrong.
    text = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()
    return text[0] if text and " " in text[0] else f"{type(error).__name__} {''.join(text[:1])}".strip()
