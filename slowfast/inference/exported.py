"""Exported models: a folder with `config.json`, `model.safetensors` and a model card, to share.

`config.json` has what the scores depend on, and nothing about the machine that trained the model.
Its entry `settings` rebuilds the model and its test. `model`, `clip`, `normalization` and
`channel_order` say the same for programs without this package.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from slowfast import __version__
from slowfast.sharing.model_card import CARD_NAME, CardOptions, make_card
from slowfast.utils.checkpoint import as_safetensors
from slowfast.utils.exported_folder import CONFIG_NAME, FORMAT, LIBRARY, WEIGHTS_NAME
from slowfast.utils.files import new_folder, write_file, write_json

if TYPE_CHECKING:
    from slowfast.evaluation.result import Result
    from slowfast.inference.classifier import Classifier
    from slowfast.inference.clip_settings import ClipSettings

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


class FoundTest(NamedTuple):
    """Finished test of some weights, or why there is none.

    Attributes:
        result: The result of the test. None if there is none.
        problem: Why there is none, as a sentence without a full stop. "" if there is one.
    """

    result: "Result | None"
    problem: str = ""


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
        find_test: Function that returns the test itself, which only a run has.
    """

    model: str
    training: Mapping[str, Any] | None
    find_metrics: Callable[[nn.Module], FoundMetrics]
    find_test: Callable[[nn.Module], FoundTest]


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
        "library": LIBRARY,
        "format": FORMAT,
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
        "temperature": classifier.temperature,
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
                    f"settings give {expected[field]!r}. Export the model again"
                )
