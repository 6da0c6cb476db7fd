"""Exported models: a folder with `config.json` and `model.safetensors`, to copy and to share.

`config.json` has what the scores depend on, and nothing about the machine that trained the model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from slowfast import __version__
from slowfast.utils.checkpoint import save_weights
from slowfast.utils.files import read_json, write_json

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

_LIBRARY = "slowfast-uniformer"
_FORMAT = 1
_REMEDY = "Export the model again"


class Exported(NamedTuple):
    """Content of an exported folder."""

    weights: str  # path of the weights
    settings: str  # config keys and values as YAML
    class_names: list[str]


def write_exported(
    folder: Path,
    weights: Mapping[str, Any],
    *,
    settings: Mapping[str, object],
    class_names: list[str],
) -> None:
    """Write an exported model to a folder, its weights first.

    Args:
        folder: The folder. It is created if it is missing.
        weights: Tensors by name.
        settings: Values by config key.
        class_names: Names of the classes in the order of the head.

    Raises:
        FileExistsError: If the folder holds an exported model.
        OSError: If a file cannot be written.
    """
    if (folder / CONFIG_NAME).exists():
        raise FileExistsError(f"{folder}: holds an exported model already. Choose another folder")
    save_weights(folder / WEIGHTS_NAME, dict(weights), class_names=class_names)
    content = {
        "library": _LIBRARY,
        "format": _FORMAT,
        "version": __version__,
        "class_names": class_names,
        "settings": dict(settings),
    }
    write_json(folder / CONFIG_NAME, content)


def read_exported(folder: str) -> Exported:
    """Return the content of an exported folder.

    Raises:
        FileNotFoundError: If the weights are missing.
        ValueError: If `config.json` is damaged, of another version or of another library.
    """
    path = Path(folder, CONFIG_NAME)
    content = read_json(path, remedy=_REMEDY)
    if not isinstance(content, dict) or content.get("library") != _LIBRARY:
        raise ValueError(f"{path}: was not exported by this framework")
    if content.get("format") != _FORMAT:
        raise ValueError(
            f"{path}: has format {content.get('format')!r}, but this version reads {_FORMAT}"
        )

    names, settings = content.get("class_names"), content.get("settings")
    if not _are_names(names) or not isinstance(settings, dict):
        raise ValueError(f"{path}: lacks its class names or settings. {_REMEDY}")

    weights = Path(folder, WEIGHTS_NAME)
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: no such file. {_REMEDY}")
    return Exported(str(weights), json.dumps(settings), names)  # JSON is YAML


def _are_names(names: Any) -> TypeGuard[list[str]]:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
