"""Exported models: a folder with `config.json`, `model.safetensors` and a model card, to share.

`config.json` has what the scores depend on, and nothing about the machine that trained the model.
Its entry `settings` rebuilds the model and its test. `model`, `clip`, `normalization` and
`channel_order` say the same for programs without this package.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from torch import nn

from slowfast import __version__
from slowfast.sharing.model_card import CARD_NAME, CardOptions, make_card
from slowfast.sharing.result_metrics import FIELDS as METRICS_FIELDS
from slowfast.utils.checkpoint import as_safetensors
from slowfast.utils.checksum import sha256_of
from slowfast.utils.files import new_folder, read_json, write_file, write_json
from slowfast.utils.tensor_files import read_head

if TYPE_CHECKING:
    from slowfast.inference.classifier import Classifier
    from slowfast.inference.clip_settings import ClipSettings

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

_LIBRARY = "slowfast-uniformer"
_FORMAT = 1
# Fields of the entry `training`, see `Origin`.
TRAINING_FIELDS = ("start_weights", "num_videos", "num_epochs", "uses_ema", "settings")
_REMEDY = "Export the model again, or download it again"
_CLIP_ENTRIES = ("clip", "normalization", "channel_order")
_NORMALIZATION = ("mean", "std")
# Fields of ClipSettings that are not those of a clip.
_OTHER_FIELDS = (
    *_NORMALIZATION,
    "channel_order",
    "views_per_forward",
    "image_template",
    "allow_truncated",
    "max_frame_pixels",
)


# ---- Writing ---------------------------------------------------------------------------------


class FoundMetrics(NamedTuple):
    """Metrics of the test of some weights, or why there are none.

    Attributes:
        metrics: See `slowfast.sharing.result_metrics`. None if there are none.
        problem: Why there are none, as a sentence without a full stop. "" if there are some.
    """

    metrics: dict[str, Any] | None
    problem: str = ""


class Origin(NamedTuple):
    """What the config of a model does not tell about it, for an export.

    Attributes:
        model: Name of the model.
        training: How the weights were trained, None if it is not known: `start_weights`,
            `num_videos`, `num_epochs`, `uses_ema`, and `settings` by config key.
        find_metrics: Function that returns the metrics of the test of a model.
    """

    model: str
    training: Mapping[str, Any] | None
    find_metrics: Callable[[nn.Module], FoundMetrics]


def write_exported(
    folder: Path,
    classifier: "Classifier",
    *,
    options: CardOptions | None = None,
    images: Mapping[str, bytes] | None = None,
) -> FoundMetrics:
    """Write a model to a new folder, whole or not at all.

    Args:
        folder: The folder.
        classifier: The model.
        options: What the model card says beside the content of `config.json`.
        images: Content of further files by their path in the folder.

    Returns:
        The metrics that the folder has, or why it has none.

    Raises:
        FileExistsError: If there is anything at the path of the folder.
        OSError: If a file cannot be written.
        ValueError: If a config key holds a path of this machine.
    """
    _refuse_paths(classifier.config)
    weights = as_safetensors(classifier.model.state_dict(), class_names=classifier.class_names)
    with new_folder(folder) as unfinished:
        found = classifier.origin.find_metrics(classifier.model)
        sha256 = hashlib.sha256(weights).hexdigest()
        content = _make_content(classifier, metrics=found.metrics, sha256=sha256)
        write_file(unfinished / WEIGHTS_NAME, weights)
        write_json(unfinished / CONFIG_NAME, content)
        write_file(unfinished / CARD_NAME, make_card(content, options or CardOptions()))
        for name, image in (images or {}).items():
            write_file(unfinished / name, image)
    return found


def _make_content(
    classifier: "Classifier", *, metrics: dict[str, Any] | None, sha256: str
) -> dict[str, Any]:
    """Return the content of `config.json`."""
    origin = classifier.origin
    parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    return {
        "library": _LIBRARY,
        "format": _FORMAT,
        "version": __version__,
        "model": {
            "name": origin.model,
            "parameters": parameters,
            "num_classes": len(classifier.class_names),
        },
        **describe_clips(classifier.settings),
        "class_names": classifier.class_names,
        "training": origin.training and {**origin.training, "settings": _portable(origin.training)},
        "metrics": metrics,
        "weights": {"file": WEIGHTS_NAME, "sha256": sha256},
        "settings": dict(classifier.config),
    }


def describe_clips(settings: "ClipSettings") -> dict[str, Any]:
    """Return the entries `clip`, `normalization` and `channel_order` of `config.json`."""
    fields = asdict(settings)
    return {
        "clip": {name: value for name, value in fields.items() if name not in _OTHER_FIELDS},
        "normalization": {name: list(fields[name]) for name in _NORMALIZATION},
        "channel_order": fields["channel_order"],
    }


def _portable(training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training without those that hold a path of this machine."""
    settings: Mapping[str, Any] = training["settings"]
    return {key: value for key, value in settings.items() if not _find_path(value)}


def _refuse_paths(settings: Mapping[str, object]) -> None:
    for key, value in settings.items():
        if path := _find_path(value):
            raise ValueError(
                f"{key} is {path!r}, a path of this machine, which the exported model would carry "
                "and need. Use a value that is no path"
            )


def _find_path(value: object) -> str:
    """Return the first absolute path in a setting, "" if there is none."""
    if isinstance(value, list | tuple):
        return next(filter(None, map(_find_path, value)), "")
    return value if isinstance(value, str) and os.path.isabs(os.path.expanduser(value)) else ""


# ---- Reading ---------------------------------------------------------------------------------


class Exported(NamedTuple):
    """Content of an exported folder."""

    weights: str  # path of the weights
    sha256: str  # SHA-256 of the weights, "" if it is unknown
    settings: str  # config keys and values as YAML
    class_names: list[str]
    version: str  # of the framework that wrote it
    clips: dict[str, Any]  # see `describe_clips`
    model: str
    training: Mapping[str, Any] | None
    metrics: dict[str, Any] | None

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
            raise ValueError(
                f"{self.weights}: is truncated, damaged or edited: its sha256 is {found}, but "
                f"{CONFIG_NAME} beside it says {self.sha256}. {_REMEDY}"
            )


def read_exported(folder: str) -> Exported:
    """Return the content of an exported folder. The weights are not read.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If `config.json` is damaged, of another version or of another library.
    """
    path = Path(folder, CONFIG_NAME)
    content = read_json(path, remedy=_REMEDY)
    if not isinstance(content, dict) or content.get("library") != _LIBRARY:
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
    )


def check_clips(path: str, exported: Mapping[str, Any], settings: "ClipSettings") -> None:
    """Check that the entries for other programs say what `settings` says.

    Args:
        path: Path of the weights, for messages.
        exported: Entries of `config.json`, see `describe_clips`.
        settings: What the entry `settings` gives.

    Raises:
        ValueError: If an entry differs.
    """
    wanted = json.loads(json.dumps(describe_clips(settings)))
    for name, entry in exported.items():
        found = entry if isinstance(entry, dict) else {name: entry}
        expected = wanted[name] if isinstance(wanted[name], dict) else {name: wanted[name]}
        for field in found.keys() & expected.keys():
            if found[field] != expected[field]:
                raise ValueError(
                    f"{Path(path).with_name(CONFIG_NAME)}: {field} is {found[field]!r}, but its "
                    f"settings give {expected[field]!r}. {_REMEDY}"
                )


def _check_format(path: Path, content: Mapping[str, Any]) -> None:
    found, version = content.get("format"), content.get("version")
    if found == _FORMAT:
        return
    remedy = _REMEDY
    if isinstance(found, int) and found > _FORMAT:
        remedy = f"Upgrade {_LIBRARY}: the file is of version {version}, and this is {__version__}"
    raise ValueError(f"{path}: has format {found!r}, but this version reads {_FORMAT}. {remedy}")


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
