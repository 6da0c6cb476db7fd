"""Checkpoint files: written whole or not at all, checked when read, found by epoch and step, and pruned.

A checkpoint is a zip file whose records carry checksums. Nothing in it is executed when it is opened.
"""

import errno
import io
import json
import logging
import lzma
import os
import pickle
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from slowfast.utils.checksum import check_sha256, write_with_sha256
from slowfast.utils.file_type import HEAD_BYTES, ZIP_MAGIC, foreign_type, is_safetensors
from slowfast.utils.files import format_bytes, write_file
from slowfast.utils.paths import forget, pathmgr

BEST_NAME = (
    "best.pyth"  # in the folder of a run: the checkpoint with the highest top-1 in a validation
)
NUM_KEPT_WITHIN_EPOCH = 2  # of the checkpoints in the middle of the epoch under way

_NAME = re.compile(r"checkpoint_epoch_(\d+)(?:_step_(\d+))?\.pyth")
_TOO_LARGE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
)  # errors of writing that room, or another disk, remedies

logger = logging.getLogger(__name__)


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
# Of torch.load and zipfile on a damaged file: a part of a pickle may be any other pickle.
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    SafetensorError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
)


def checkpoint_path(output_dir: str, *, epoch: int, step: int = 0) -> Path:
    """Return where the checkpoint after `epoch` finished epochs, and `step` steps of the next one, lies."""
    name = f"checkpoint_epoch_{epoch:05d}" + (f"_step_{step:07d}" if step else "")
    return Path(output_dir, "checkpoints", f"{name}.pyth")


def checkpoints_of(output_dir: str) -> list[Path]:
    """Return the checkpoints in a run's folder, the newest first; `best.pyth` is not among them.

    Every entry with the name of a checkpoint is listed, also one that `load_checkpoint` refuses: a link to nowhere,
    a folder.
    """
    folder = Path(output_dir, "checkpoints")
    found = (
        [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    )
    return sorted(found, key=position_in_name, reverse=True)


def newest_checkpoint(output_dir: str) -> Path | None:
    """Return the newest checkpoint in a run's folder, if there is one."""
    return next(iter(checkpoints_of(output_dir)), None)


def prune_checkpoints(
    checkpoints: Sequence[Path], *, keep_last: int, keep_every: int, keep: Collection[Path] = ()
) -> None:
    """Delete the old ones among the checkpoints of a run; the newest two always stay.

    What only has the name of a checkpoint (a folder, a link to nowhere) is left alone and does not count. A file that
    cannot be deleted is logged.

    Args:
        checkpoints: The checkpoints, the newest first, see `checkpoints_of`.
        keep_last: Number of checkpoints at the end of an epoch that stay. 0: all.
        keep_every: Those after each so many epochs stay as well. 0: none for that.
        keep: Paths that stay whatever the other rules say.
    """
    paths = [path for path in checkpoints if os.path.isfile(path)]
    ends = [path for path in paths if not position_in_name(path)[1]]
    within = paths[: paths.index(ends[0])] if ends else paths  # of the epoch under way
    kept = [
        *within[:NUM_KEPT_WITHIN_EPOCH],
        *ends[: max(keep_last, 2 - len(within)) if keep_last else None],
    ]
    kept += [path for path in ends if keep_every and position_in_name(path)[0] % keep_every == 0]

    old = [path for path in paths if path not in kept]
    protected = {os.path.realpath(path) for path in keep}
    for path in old:
        if os.path.realpath(path) not in protected:
            _delete(path)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: cannot be deleted: %s", path, error.strerror)


def position_in_name(path: Path) -> tuple[int, int]:
    """Return how far the run had come that wrote a checkpoint: finished epochs, and finished steps of the next one."""
    epoch, step = _NAME.fullmatch(path.name).groups("0")  # type: ignore[union-attr]
    return int(epoch), int(step)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file. Its folder is created if it is missing.
        state: Tensors, numbers, strings, and lists and dicts of them: what opens with `weights_only=True`.

    Raises:
        OSError: It cannot be written. An older file at this path stays as it was.
    """
    try:
        write_file(path, lambda file: torch.save(state, file))
    except OSError as error:
        reason = str(error).removeprefix(f"{path}: cannot be written: ")
        needed = (
            f", and it needs {format_bytes(_saved_bytes(state))}"
            if error.errno in _TOO_LARGE
            else ""
        )
        explained = OSError(
            f"{path}: the checkpoint cannot be written: {reason}{needed}; older ones are whole. "
            "Make room, keep fewer of them with TRAIN.KEEP_LAST, or set OUTPUT_DIR to another disk, and start again"
        )
        explained.errno = error.errno
        raise explained from error


class _CountingFile(io.RawIOBase):
    """A file that takes any bytes and keeps their number alone."""

    num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        num_bytes = memoryview(content).nbytes
        self.num_bytes += num_bytes
        return num_bytes


def _saved_bytes(state: dict[str, Any]) -> int:
    """The size of the file that torch.save makes."""
    file = _CountingFile()
    torch.save(state, file)  # type: ignore[arg-type]  # all that it calls is `write`
    return file.num_bytes


def save_weights(path: Path, weights: dict[str, Tensor], *, class_names: list[str]) -> None:
    """Write weights alone to a new file, a .safetensors file or one of torch, and its checksum beside it.

    Args:
        path: The file. Its suffix says the format. Its folder is created if it is missing.
        weights: Tensors by name.
        class_names: Names of the classes, kept beside the tensors. [] if they are not known.

    Raises:
        OSError: It cannot be written. An older file at this path stays as it was, but for its checksum.
    """
    # Copies, as a view would bring all that it is a view of into the file, and two names may share one tensor.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
    }
    if path.suffix == ".safetensors":
        content = to_safetensors(
            copies, metadata={"format": "pt", "class_names": json.dumps(class_names)}
        )
    else:
        buffer = io.BytesIO()
        torch.save({"model_state": copies, "class_names": class_names}, buffer)
        content = buffer.getvalue()
    write_with_sha256(path, content)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a .pth, .pyth or .safetensors file, its tensors on the CPU. Nothing in it is executed.

    The content says which of them it is, not the suffix. A file with `<name>.sha256` beside it is checked against that.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: This is no file, or the file is truncated, damaged, no checkpoint, or holds objects other than
            tensors and plain data.
        OSError: The file cannot be read.
    """
    with _explained(path):
        local = local_file(path)
        head = _read_head(path, local)
        check_sha256(local)
    with _explained(path, is_parsing=True):
        state = _load_safetensors(local) if is_safetensors(head) else _load_torch(local, head)
    return _as_dict(state, path)


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint without its tensors, and without reading them.

    Dicts and lists lack the tensors that the file has there: `model_state` is there, and empty. Only a file in the
    old format of torch, before 1.6, is read as a whole.

    Raises:
        FileNotFoundError, ValueError, OSError: As `load_checkpoint`, but damage within a tensor is not found.
    """
    with _explained(path):
        local = local_file(path)
        head = _read_head(path, local)
    with _explained(path, is_parsing=True):
        if is_safetensors(head):
            with safe_open(local, framework="pt") as tensors:
                state: Any = _named(
                    dict.fromkeys(tensors.keys(), torch.empty(0)), tensors.metadata()
                )
        elif head.startswith(ZIP_MAGIC):
            _check_pickle(local)
            with torch.serialization.safe_globals(_STAND_INS):
                state = torch.load(local, map_location="meta", weights_only=True, mmap=True)
        else:
            state = _load_torch(local, head)
    return _without_tensors(_as_dict(state, path))


def local_file(path: str | Path) -> str:
    """Return the path on this machine of a file of weights; one that is remote is fetched.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: What is there is no file.
        OSError: It cannot be looked at.
    """
    path = str(path)
    local = path if _is_local(path) else _fetch(path)
    try:
        mode = os.stat(local).st_mode
    except FileNotFoundError:
        raise ValueError(
            f"{path}: is a link to {os.readlink(local)}, where no file is; name a file"
        ) from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ValueError(f"{path}: is a link that leads back to itself; name a file") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ValueError(f"{path}: is {kind}, not a checkpoint file; name a file")
    return local


def _is_local(path: str) -> bool:
    """Whether a path leads to anything on this machine, be it a link to nowhere."""
    try:
        os.lstat(path)
    except PermissionError:
        raise
    except OSError:  # also of an address that is too long for a path
        return False
    return True


def _fetch(path: str) -> str:
    if not pathmgr.isfile(path):
        raise FileNotFoundError(f"{path}: no such checkpoint")
    local: str = pathmgr.get_local_path(path)
    return local


def _read_head(path: str | Path, local: str) -> bytes:
    """The first bytes of a file that may be a checkpoint."""
    with open(local, "rb") as file:
        head = file.read(HEAD_BYTES)
    if file_type := foreign_type(head):
        fetched = f" (it is kept as {local}; delete that first)" if local != str(path) else ""
        fetched = forget(str(path)) or fetched
        raise ValueError(
            f"{path}: is not a checkpoint but {file_type.name}; {file_type.remedy}{fetched}"
        )
    return head


def _load_safetensors(local: str) -> dict[str, Any]:
    with safe_open(local, framework="pt") as tensors:
        state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  # not a dict
        return _named(state, tensors.metadata())


def _named(tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> dict[str, Any]:
    """The content of a .safetensors file, as that of one of ours where it names the classes."""
    names = (metadata or {}).get("class_names")
    return tensors if names is None else {"model_state": tensors, "class_names": json.loads(names)}


def _load_torch(local: str, head: bytes) -> Any:
    with open(local, "rb") as file, torch.serialization.safe_globals(_STAND_INS):
        if head.startswith(ZIP_MAGIC):
            # torch writes a checksum of each record, and never looks at it.
            with zipfile.ZipFile(file) as archive:
                _pickle_name(archive)
                if damaged := archive.testzip():
                    raise ValueError(f"the checksum of its part {damaged} is wrong")
            file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def _check_pickle(local: str) -> None:
    """Check the part of a zip file that torch unpickles against its checksum."""
    with zipfile.ZipFile(local) as archive:
        archive.read(_pickle_name(archive))


def _pickle_name(archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise ValueError(
            "it is a TorchScript program, which could run code; save its state_dict() instead"
        )
    found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if not found:
        raise ValueError(
            f"it is a zip archive without weights; unpack it and name a file in it: {', '.join(names)[:200]}"
        )
    return found[0]


def _as_dict(state: Any, path: str | Path) -> dict[str, Any]:
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a dict of tensors")
    return state


def _without_tensors(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            name: _without_tensors(value)
            for name, value in content.items()
            if not isinstance(value, Tensor)
        }
    if isinstance(content, list | tuple):
        return [_without_tensors(value) for value in content if not isinstance(value, Tensor)]
    return content


@contextmanager
def _explained(path: str | Path, *, is_parsing: bool = False) -> Iterator[None]:
    """Name the file in errors of reading it; what its content causes becomes a ValueError."""
    try:
        yield
    except OSError as error:
        # A place in the file that cannot be, and what Python's own decoders raise, have no such number.
        if is_parsing and error.errno in (None, errno.EINVAL):
            raise _damaged(path, error) from error
        if error.strerror is None or isinstance(error, FileNotFoundError):
            raise
        is_denied = isinstance(error, PermissionError)
        remedy = (
            "ask its owner to let you read it"
            if is_denied
            else "try again, or copy it from elsewhere"
        )
        explained = (PermissionError if is_denied else OSError)(
            f"{path}: cannot be read: {error.strerror}; {remedy}"
        )
        explained.errno = error.errno
        raise explained from error
    except _DAMAGE as error:
        if not is_parsing:
            raise
        raise _damaged(path, error) from error


def _damaged(path: str | Path, error: Exception) -> ValueError:
    discarded = forget(str(path))
    return ValueError(
        f"{path}: not a whole checkpoint of tensors and plain data ({_reason(error)}){discarded}"
    )


def _reason(error: Exception) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds {found[1]}, which could run code"
    # torch says first how to open the file nevertheless, then what is wrong.
    text = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()
    if text and text[0].startswith("Unsupported operand"):
        return "it is damaged, or no file of torch"
    return (
        text[0]
        if text and " " in text[0]
        else f"{type(error).__name__} {''.join(text[:1])}".strip()
    )
