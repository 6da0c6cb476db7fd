"""Checkpoints: their format, and how they are written and read whole or not at all.

A checkpoint is a dict of tensors and plain data in a file of torch.save, a zip archive with
checksums. Nothing in it is executed when it is read. These entries have a meaning for every reader:

    model_state   weights of the model by name
    ema_state     weights of its EMA by name, if it has one
    class_names   names of the classes in the order of the head, [] if they are unknown

A .safetensors file holds the weights alone, with the class names as metadata. Reading it gives a
checkpoint with `model_state` and `class_names`.
"""

import errno
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from slowfast.utils.checksum import check_sha256, write_with_sha256
from slowfast.utils.file_type import is_safetensors
from slowfast.utils.files import format_bytes, write_file
from slowfast.utils.tensor_files import (
    load_torch,
    load_torch_header,
    local_file,
    parse_errors,
    read_errors,
    read_head,
)

MODEL_STATE = "model_state"
CLASS_NAMES = "class_names"

_TOO_LARGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors that a smaller file would not raise


# ---- Writing ---------------------------------------------------------------------------------


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file. Its folder is created if it is missing.
        state: Tensors, numbers, strings, and lists and dicts of them, so that torch.load opens the
            file with `weights_only=True`.

    Raises:
        OSError: If the file cannot be written. An older file at this path stays as it was.
    """
    try:
        write_file(path, lambda file: torch.save(state, file))
    except OSError as error:
        reason = str(error).removeprefix(f"{path}: cannot be written: ")
        if error.errno in _TOO_LARGE:
            reason += f", and it needs {format_bytes(_saved_bytes(state))}"

        named = OSError(
            f"{path}: the checkpoint cannot be written: {reason}. Older ones are whole. "
            "Make room, keep fewer of them, or write to another disk, and start again"
        )
        named.errno = error.errno
        raise named from error


def save_weights(path: Path, weights: Mapping[str, Tensor], *, class_names: list[str]) -> None:
    """Write weights alone to a new file, and its checksum beside it.

    Args:
        path: The file. With the suffix .safetensors it has that format, otherwise that of torch.
            Its folder is created if it is missing.
        weights: Tensors by name.
        class_names: Names of the classes, [] if they are unknown.

    Raises:
        OSError: If a file cannot be written. An older file at this path stays as it was, without
            its checksum.
    """
    if path.suffix == ".safetensors":
        content = as_safetensors(weights, class_names=class_names)
    else:
        buffer = io.BytesIO()
        torch.save({MODEL_STATE: _copies(weights), CLASS_NAMES: class_names}, buffer)
        content = buffer.getvalue()
    write_with_sha256(path, content)


def as_safetensors(weights: Mapping[str, Tensor], *, class_names: list[str]) -> bytes:
    """Return the content of a .safetensors file with weights by name and the class names.

    Equal weights and names give equal bytes.
    """
    metadata = {"format": "pt", CLASS_NAMES: json.dumps(class_names)}
    content = to_safetensors(_copies(weights), metadata=metadata)

    # The library writes the metadata in any order. The header is 8 bytes with the length of the
    # JSON text that follows, which is padded to a multiple of 8.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    text = json.dumps({**header, "__metadata__": metadata}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def _copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # A view would bring its whole base into the file, and two names may share one tensor.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
    }


class _CountingFile(io.RawIOBase):
    """A file that counts the bytes written to it and discards them."""

    num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        num_bytes = memoryview(content).nbytes
        self.num_bytes += num_bytes
        return num_bytes


def _saved_bytes(state: dict[str, Any]) -> int:
    file = _CountingFile()
    torch.save(state, file)  # type: ignore[arg-type]  # torch only calls `write`
    return file.num_bytes


# ---- Reading ---------------------------------------------------------------------------------


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a .pth, .pyth or .safetensors file, with its tensors on the CPU.

    The content of the file decides its format, not the suffix. If there is a `<name>.sha256` beside
    the file, the checksums must agree.

    Args:
        path: Path or address of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the path is not a file, or the file is truncated, damaged, not a checkpoint,
            or holds objects other than tensors and plain data.
        OSError: If the file is unreadable.
    """
    with read_errors(path):
        local = local_file(path)
        head = read_head(path, local)
        check_sha256(local)

    with parse_errors(path):
        state = _load_safetensors(local) if is_safetensors(head) else load_torch(local, head)
    return _check_dict(state, path)


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint without its tensors, and without reading them.

    The tensors are missing from the dicts and lists that hold them: `model_state` is there, and
    empty. Only a file in the format that torch had before 1.6 is read as a whole.

    Args:
        path: Path or address of the file.

    Raises:
        FileNotFoundError, ValueError, OSError: As in `load_checkpoint`, but damage within a tensor
            is not noticed.
    """
    with read_errors(path):
        local = local_file(path)
        head = read_head(path, local)

    with parse_errors(path):
        if is_safetensors(head):
            state: Any = _load_safetensors_header(local)
        else:
            state = load_torch_header(local, head)
    return _without_tensors(_check_dict(state, path))


def _load_safetensors(local: str) -> dict[str, Any]:
    with safe_open(local, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        return _as_checkpoint(tensors, file.metadata())


def _load_safetensors_header(local: str) -> dict[str, Any]:
    with safe_open(local, framework="pt") as file:
        return _as_checkpoint(dict.fromkeys(file.keys(), torch.empty(0)), file.metadata())


def _as_checkpoint(tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> dict[str, Any]:
    """Return the content of a .safetensors file: a checkpoint if it names the classes."""
    names = (metadata or {}).get(CLASS_NAMES)
    return tensors if names is None else {MODEL_STATE: tensors, CLASS_NAMES: json.loads(names)}


def _check_dict(state: Any, path: str | Path) -> dict[str, Any]:
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a dict of tensors")
    return state


def _without_tensors(content: Any) -> Any:
    if isinstance(content, dict):
        kept = {name: value for name, value in content.items() if not isinstance(value, Tensor)}
        return {name: _without_tensors(value) for name, value in kept.items()}
    if isinstance(content, list | tuple):
        return [_without_tensors(value) for value in content if not isinstance(value, Tensor)]
    return content
