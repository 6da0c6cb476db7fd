"""Files of tensors from any source: found, recognized and read without executing what they hold."""

import errno
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from slowfast.utils.file_type import EXPORTED_REMEDY, HEAD_BYTES, ZIP_MAGIC, foreign_type
from slowfast.utils.paths import forget, pathmgr


class _Discarded:
    """Stand-in for an object that is neither a tensor nor plain data. It keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Discarded":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# Published files hold more than tensors: command lines, paths, accuracies, configs, logs. None of
# these classes is called. Any other class is an error.
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Discarded, "argparse.Namespace"),
    (_Discarded, "pathlib.PosixPath"),
    (_Discarded, "pathlib.WindowsPath"),
    (_Discarded, "pathlib._local.PosixPath"),
    (_Discarded, "pathlib._local.WindowsPath"),
    (_Discarded, "numpy.dtype"),
    (_Discarded, "numpy.core.multiarray.scalar"),
    (_Discarded, "numpy._core.multiarray.scalar"),
    (_Discarded, "numpy.core.multiarray._reconstruct"),
    (_Discarded, "numpy._core.multiarray._reconstruct"),
    (_Discarded, "numpy.ndarray"),
    (_Discarded, "mmengine.logging.history_buffer.HistoryBuffer"),
    (OrderedDict, "yacs.config.CfgNode"),
    (OrderedDict, "fvcore.common.config.CfgNode"),
]

# Errors of torch.load, zipfile and safetensors on a damaged file. A torn pickle may spell any other
# pickle, so nearly everything can happen.
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


# ---- Finding a file --------------------------------------------------------------------------


def local_file(path: str | Path) -> str:
    """Return the local path of a file of weights, after a download if it is remote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the path is not that of a file.
        OSError: If the path is not accessible.
    """
    path = str(path)
    local = path if _is_local(path) else _fetch(path)
    try:
        mode = os.stat(local).st_mode
    except FileNotFoundError:
        target = os.readlink(local)
        raise ValueError(f"{path}: is a link to {target}, where no file is. Name a file") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ValueError(f"{path}: is a link that leads back to itself. Name a file") from None

    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ValueError(f"{path}: is {kind}, not a checkpoint file. Name a file")
    return local


def _is_local(path: str) -> bool:
    """Whether a path leads to anything on this machine, even a dangling link."""
    try:
        os.lstat(path)
    except PermissionError:
        raise
    except OSError:  # includes an address that is too long for a path
        return False
    return True


def _fetch(path: str) -> str:
    if not pathmgr.isfile(path):
        raise FileNotFoundError(f"{path}: no such checkpoint")
    local: str = pathmgr.get_local_path(path)
    return local


def read_head(path: str | Path, local: str) -> bytes:
    """Return the first HEAD_BYTES of a file that may hold weights.

    Args:
        path: Path or address that the user gave, for messages.
        local: Local path of the file.

    Raises:
        ValueError: If the file certainly holds no weights.
        OSError: If the file is unreadable.
    """
    with open(local, "rb") as file:
        head = file.read(HEAD_BYTES)

    if file_type := foreign_type(head):
        copy = f" (it is kept as {local}. Delete that first)" if local != str(path) else ""
        copy = forget(str(path)) or copy
        problem = f"is not a checkpoint but {file_type.name}"
        raise ValueError(f"{path}: {problem}. {file_type.remedy}{copy}")
    return head


# ---- Reading what torch.save wrote -----------------------------------------------------------


def load_torch(local: str, head: bytes) -> Any:
    """Return the content of a file that torch.save wrote, with its tensors on the CPU.

    Args:
        local: Local path of the file.
        head: First bytes of the file.
    """
    with open(local, "rb") as file, torch.serialization.safe_globals(_STAND_INS):
        if head.startswith(ZIP_MAGIC):
            # torch writes a checksum of each record but never checks it.
            with zipfile.ZipFile(file) as archive:
                _pickle_name(archive)
                if damaged := archive.testzip():
                    raise ValueError(f"the checksum of its record {damaged} is wrong")
            file.seek(0)

        return torch.load(file, map_location="cpu", weights_only=True)


def load_torch_header(local: str, head: bytes) -> Any:
    """Return the content of a file that torch.save wrote, with its tensors on the meta device.

    The tensors are not read, except from a file in the format that torch had before 1.6.

    Args:
        local: Local path of the file.
        head: First bytes of the file.
    """
    if not head.startswith(ZIP_MAGIC):
        return load_torch(local, head)

    with zipfile.ZipFile(local) as archive:
        archive.read(_pickle_name(archive))  # checks the checksum of the pickle
    with torch.serialization.safe_globals(_STAND_INS):
        return torch.load(local, map_location="meta", weights_only=True, mmap=True)


def _pickle_name(archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        remedy = "Save its state_dict() instead"
        raise ValueError(f"it is a TorchScript program, which could run code. {remedy}")
    if any(name.endswith("/archive_format") for name in names):
        raise ValueError(f"it is a pt2 program of torch.export. {EXPORTED_REMEDY}")

    found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if not found:
        remedy = f"Unpack it and name a file in it: {', '.join(names)[:200]}"
        raise ValueError(f"it is a zip archive without weights. {remedy}")
    return found[0]


# ---- Errors that name the file ---------------------------------------------------------------


@contextmanager
def read_errors(path: str | Path) -> Iterator[None]:
    """Name the file and a remedy in the OSErrors of reading it."""
    try:
        yield
    except OSError as error:
        if error.strerror is None or isinstance(error, FileNotFoundError):
            raise

        kind, remedy = OSError, "Try again, or copy it from elsewhere"
        if isinstance(error, PermissionError):
            kind, remedy = PermissionError, "Ask its owner to let you read it"
        named = kind(f"{path}: cannot be read: {error.strerror}. {remedy}")
        named.errno = error.errno
        raise named from error


@contextmanager
def parse_errors(path: str | Path) -> Iterator[None]:
    """Turn the errors that the content of a file causes into a ValueError that names the file."""
    with read_errors(path):
        try:
            yield
        except OSError as error:
            # Python's decoders set no errno. EINVAL is a seek to an impossible position.
            if error.errno not in (None, errno.EINVAL):
                raise
            raise _damaged(path, error) from error
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def _damaged(path: str | Path, error: Exception) -> ValueError:
    problem = f"not a whole checkpoint of tensors and plain data ({_describe_damage(error)})"
    return ValueError(f"{path}: {problem}{forget(str(path))}")


def _describe_damage(error: Exception) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds {found[1]}, which could run code"

    # torch first says how to open the file anyway, then what is wrong.
    lines = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()
    first = lines[0] if lines else ""
    if first.startswith("Unsupported operand"):
        return "it is damaged, or torch did not write it"
    if " " in first:
        return first
    return f"{type(error).__name__} {first}".strip()
