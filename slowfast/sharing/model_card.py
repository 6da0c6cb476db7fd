"""The model card of an exported model: README.md with the metadata that the Hub reads."""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from slowfast.utils.published_classes import published_classes
from slowfast.utils.text import count, printable

CARD_NAME = "README.md"
TEMPLATE_NAME = "model_card.md"

_TASK = "video-classification"
_TABLES = ("Kinetics-400", "Kinetics-600")
_METRIC_NAMES = {
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "mean_class_accuracy": "Mean class accuracy",
    "macro_f1": "Macro F1",
    "ece": "Expected calibration error",
}


class MistakenFrames(NamedTuple):
    """Frames of a video that the model took for another class.

    Attributes:
        file: Path of the image in the exported folder.
        label: Name of the class of the video.
        prediction: Name of the predicted class.
        probability: Probability of the prediction.
    """

    file: str
    label: str
    prediction: str
    probability: float


class ExplainedFrames(NamedTuple):
    """Frames of a video above the same frames with the evidence for a class.

    Attributes:
        file: Path of the image in the exported folder.
        label: Name of the class of the video, "" if it is unknown.
        target: Name of the class that is explained.
        probability: Probability of this class.
        method: How it was explained.
    """

    file: str
    label: str
    target: str
    probability: float
    method: str


class CardOptions(NamedTuple):
    """What a model card says beside the content of `config.json`.

    Attributes:
        repository: Repository of the model on the Hub, such as org/name. "" for a folder alone.
        license: Identifier of the license on the Hub, such as apache-2.0. "" for none.
        mistakes: Frames of the most confident mistakes.
        explained: Frames of explained videos.
    """

    repository: str = ""
    license: str = ""
    mistakes: Sequence[MistakenFrames] = ()
    explained: Sequence[ExplainedFrames] = ()


def make_card(content: Mapping[str, Any], options: CardOptions) -> str:
    """Return the text of the model card.

    Args:
        content: Content of `config.json`.
        options: What else the card says.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": _as_cell, "count": count, "value": _as_value}
    template = (files("slowfast.sharing") / TEMPLATE_NAME).read_text(encoding="utf-8")

    title = options.repository.rpartition("/")[2]
    dataset = _dataset_of(content["class_names"])
    return environment.from_string(template).render(
        content,
        metadata=_make_metadata(content, options, title=title, dataset=dataset),
        title=title or f"{content['model']['name']}, {count(len(content['class_names']), 'class')}",
        dataset=dataset,
        options=options,
        max_epoch=_setting(content, "SOLVER.MAX_EPOCH"),
        rows=_make_rows(content),
    )


def _setting(content: Mapping[str, Any], key: str) -> Any:
    training = content["training"]
    return training["settings"].get(key) if training else None


def _make_metadata(
    content: Mapping[str, Any], options: CardOptions, *, title: str, dataset: str
) -> str:
    """Return the metadata in YAML."""
    metadata: dict[str, Any] = {
        "library_name": content["library"],
        "pipeline_tag": _TASK,
        "tags": [_TASK, "slowfast", content["model"]["name"]],
        "metrics": ["accuracy"],
    }
    if options.license:
        metadata["license"] = options.license

    if metrics := content["metrics"]:
        names = [name for name in _metrics_that_can_vary(content) if name in ("top1", "top5")]
        result = {
            "task": {"type": _TASK},
            "dataset": {"name": dataset or "own videos", "type": _slug(dataset or "own-videos")},
            "metrics": [
                {"type": "accuracy", "name": _METRIC_NAMES[name], "value": round(metrics[name], 2)}
                for name in names
            ],
        }
        name = title or content["model"]["name"]
        metadata["model-index"] = [{"name": name, "results": [result]}]
    text: str = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return text


def _make_rows(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the name, the value and the interval of each metric, in percent."""
    metrics = content["metrics"]
    if not metrics:
        return []

    rows = []
    for name in _metrics_that_can_vary(content):
        title = _METRIC_NAMES[name]
        low, high = metrics["intervals"].get(name) or (0, 0)
        interval = f"{low:.1f} to {high:.1f} %" if low < high else ""  # resamples may not vary
        rows.append((title, f"{metrics[name]:.1f} %", interval))
    return rows


def _metrics_that_can_vary(content: Mapping[str, Any]) -> list[str]:
    has_top5 = len(content["class_names"]) > 5  # otherwise it is 100 % whatever the model says
    return [name for name in _METRIC_NAMES if has_top5 or name != "top5"]


def _dataset_of(class_names: Sequence[str]) -> str:
    """Return the published dataset that has these classes, "" if there is none."""
    names = set(class_names)
    return next((table for table in _TABLES if set(published_classes(table)) == names), "")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _as_cell(text: str) -> str:
    """Return a name as a cell of a Markdown table, without a meaning as markup."""
    line = printable(" ".join(str(text).split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_{}\[\]|#!~])", r"\\\1", line)


def _as_value(value: Any) -> str:
    """Return a setting as code in a cell of a Markdown table."""
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True)
    line = printable(" ".join(text.removesuffix("...\n").split())).replace("`", "'")
    return f"`{line}`".replace("|", "\\|") if line else ""
