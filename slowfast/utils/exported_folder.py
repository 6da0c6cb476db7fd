"""Exported folders: the files of a model to share, and reading what they say.

A folder has `config.json`, `model.safetensors` and a model card, `README.md`.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from slowfast import __version__
from slowfast.utils.checksum import sha256_of
from slowfast.utils.files import read_json
from slowfast.utils.tensor_files import read_head

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
LIBRARY = "slowfast-uniformer"
FORMAT = 1  # of config.json

# Fields of the entry `training`, see `slowfast.inference.exported.Origin`.
TRAINING_FIELDS = ("start_weights", "num_videos", "num_epochs", "uses_ema", "settings")
# Fields of the entry `metrics`, see `slowfast.sharing.result_metrics`.
METRICS_FIELDS = (
    *("num_videos", "num_scored", "num_clips", "num_crops", "fusion", "temperature"),
    *("top1", "top5", "mean_class_accuracy", "macro_f1", "nll", "ece"),
    *("level", "intervals", "most_confused", "weakest_classes"),
)

_CLIP_ENTRIES = ("clip", "normalization", "channel_order")
_REMEDY = "Export the model again, or download it again"


class Exported(NamedTuple):
    """Content of an exported folder."""

    weights: str  # path of the weights
    sha256: str  # SHA-256 of the weights, "" if it is unknown
    settings: str  # config keys and values as YAML
    class_names: list[str]
    version: str  # of the framework that wrote it
    clips: dict[str, Any]  # what other programs read about the clips
    model: str  # name of the model
    training: dict[str, Any] | None  # how the weights were trained
    metrics: dict[str, Any] | None  # of the test of the weights
    temperature: float | None  # divides the logits of calibrated probabilities, None if unknown

    def entries(self) -> dict[str, Any]:
        """Return the entries of a checkpoint that the folder has beside its weights."""
        return {"class_names": self.class_names, "cfg": self.settings, "version": self.version}

    def check_weights(self) -> None:
        """Check the weights against their SHA-256.

        Raises:
            ValueError: If they are of another type, truncated, damaged or edited.
        """
        read_head(self.weights, self.weights)
        if not self.sha256:
            return
        found = sha256_of(self.weights)
        if found != self.sha256:
            blob = os.path.realpath(self.weights)  # in the cache of the Hub
            copy = f" (delete its copy {blob} first)" if os.path.islink(self.weights) else ""
            raise ValueError(
                f"{self.weights}: is truncated, damaged or edited: its sha256 is {found}, but "
                f"{CONFIG_NAME} beside it says {self.sha256}. {_REMEDY}{copy}"
            )


def exported_at(path: str) -> Exported | None:
    """Return the content of the exported folder that a file of weights lies in, None elsewhere.

    A folder that another library wrote is no exported folder.

    Raises:
        ValueError: As `read_exported`.
    """
    config = Path(path).with_name(CONFIG_NAME)
    if Path(path).name != WEIGHTS_NAME or not config.is_file():
        return None
    content = read_json(config, remedy=_REMEDY)
    return read_exported(str(config.parent)) if _is_ours(content) else None


def read_exported(folder: str) -> Exported:
    """Return the content of an exported folder. The weights are not read.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If `config.json` is damaged, of another version or of another library.
    """
    path = Path(folder, CONFIG_NAME)
    content = read_json(path, remedy=_REMEDY)
    if not _is_ours(content):
        raise ValueError(f"{path}: was not exported by this framework")
    _check_format(path, content)

    names, settings = content.get("class_names"), content.get("settings")
    if not _are_names(names) or not isinstance(settings, dict):
        raise ValueError(f"{path}: lacks its class names or settings. {_REMEDY}")

    weights = Path(folder, WEIGHTS_NAME)
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: no such file. {_REMEDY}")
    return Exported(
        weights=str(weights),
        sha256=str(_entry(content, "weights").get("sha256", "")),
        settings=json.dumps(settings),  # JSON is YAML
        class_names=names,
        version=str(content.get("version", "")),
        clips={name: content[name] for name in _CLIP_ENTRIES if name in content},
        model=str(_entry(content, "model").get("name", "")),
        training=_whole_entry(content, "training", fields=TRAINING_FIELDS),
        metrics=_whole_entry(content, "metrics", fields=METRICS_FIELDS),
        temperature=_temperature(path, content),
    )


def _temperature(path: Path, content: Mapping[str, Any]) -> float | None:
    value = content.get("temperature")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{path}: temperature is {value!r}, not a positive number. {_REMEDY}")
    return float(value)


def _is_ours(content: Any) -> bool:
    return isinstance(content, dict) and content.get("library") == LIBRARY


def _check_format(path: Path, content: Mapping[str, Any]) -> None:
    found, version = content.get("format"), content.get("version")
    if found == FORMAT:
        return
    remedy = _REMEDY
    if isinstance(found, int) and found > FORMAT:
        remedy = f"Upgrade {LIBRARY}: the file is of version {version}, and this is {__version__}"
    raise ValueError(f"{path}: has format {found!r}, but this version reads {FORMAT}. {remedy}")


def _entry(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def _whole_entry(
    content: Mapping[str, Any], name: str, *, fields: Sequence[str]
) -> dict[str, Any] | None:
    """Return an entry for the model card, None if it has been edited and lacks fields."""
    entry = _entry(content, name)
    return entry if all(field in entry for field in fields) else None


def _are_names(names: Any) -> TypeGuard[list[str]]:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
