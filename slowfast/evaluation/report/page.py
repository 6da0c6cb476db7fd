"""The report page of a test: one HTML file with all its styles, scripts, figures and data."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from slowfast.evaluation.report.content import Content, Prediction, read_content
from slowfast.evaluation.report.gallery import GalleryVideo
from slowfast.evaluation.report.thumbnails import Thumbnail
from slowfast.evaluation.report.training_log import TrainingCurves
from slowfast.evaluation.report.videos import MAX_REASON, pack_classes, pack_videos, shorten
from slowfast.evaluation.result import REPORT_NAME
from slowfast.utils.files import write_file
from slowfast.utils.text import count, printable

MAX_BYTES = 5_000_000  # size of a page with thumbnails
MAX_CLASSES = 2_000  # rows of the table of classes
MAX_TABLE_CLASSES = 20  # classes of a confusion matrix that is a table, above that it is an image
MAX_IMAGE_CLASSES = 4_000  # classes of a confusion matrix that is an image

# Metrics that a result may lack, and the provenance that the page shows.
_OPTIONAL = (
    "temperature",
    "weights_sha256",
    "list",
    "device",
    "dtype",
    "num_processes",
    "seconds",
    "videos_per_second",
)
_ORIGIN = ("command", "cwd", "host", "started")

_NO_CONFUSION: dict[str, list[int]] = {"labels": [], "predictions": [], "counts": []}
_FOLDER = Path(__file__).parent

_FRAMES_MARKER = '<meta name="frames" content="shown">'
_HEAD_BYTES = 4096  # of a page, which have the marker


class Headline(NamedTuple):
    """A number at the top of the page, with its confidence interval."""

    name: str
    value: str
    meaning: str
    interval: str = ""  # "" if there is none
    listed: str = ""  # the value over all listed videos, "" if it is not defined or the same


def write_report(
    folder: Path,
    *,
    training: TrainingCurves | None,
    thumbnails: Sequence[Thumbnail] | None,
    gallery: Sequence[GalleryVideo] = (),
) -> Path:
    """Write the report page of a test, from the files of its result.

    The page is self-contained: a browser that opens it loads nothing else.

    Args:
        folder: Directory of the result: metrics.json, predictions.parquet and config.yaml.
        training: Curves of the training of the weights, None if they are unknown.
        thumbnails: Thumbnails of the highlights (see `read_content`), None for a page without
            frames of videos.
        gallery: Videos with what the model looked at.

    Returns:
        The path of the page, `folder/report.html`.

    Raises:
        FileNotFoundError: If metrics.json or predictions.parquet is missing.
        ValueError: If one is damaged or of another version, or the two do not fit together.
        OSError: If the page cannot be written.
    """
    result = read_content(folder)
    page = render_report(result, training=training, thumbnails=thumbnails, gallery=gallery)
    path = folder / REPORT_NAME
    write_file(path, page)
    return path


def render_report(
    result: Content,
    *,
    training: TrainingCurves | None,
    thumbnails: Sequence[Thumbnail] | None,
    gallery: Sequence[GalleryVideo] = (),
) -> str:
    """Return the report page of a result, see `write_report`."""
    metrics = {**dict.fromkeys(_OPTIONAL), **result.metrics}
    is_labeled = metrics["is_labeled"]
    context = {
        **_describe_result(result),
        **(_describe_scores(metrics) if is_labeled else _describe_predicted(metrics)),
        **_draw_training(training),
        **_describe_validation(training, num_classes=len(result.metrics["classes"])),
        "result": result,
        "metrics": {**metrics, "run_by": {**dict.fromkeys(_ORIGIN), **metrics["run_by"]}},
        "thumbnails": None if thumbnails is None else {item.row: item for item in thumbnails},
        "gallery": gallery,
        "frames_marker": Markup(_FRAMES_MARKER) if thumbnails is not None or gallery else "",
    }

    # The table of all videos gets the bytes that the rest of the page leaves.
    template = "template.html" if is_labeled else "unlabeled.html"
    rest = _render(template, context, videos="", num_shown=len(result.videos))
    max_bytes = MAX_BYTES - len(rest.encode()) - 1_000
    videos, num_shown = pack_videos(result.videos, max_bytes=max_bytes)
    return _render(template, context, videos=videos, num_shown=num_shown)


def shows_frames(folder: Path) -> bool | None:
    """Return whether the report page of a test shows frames of videos, None if there is no page."""
    path = folder / REPORT_NAME
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return _FRAMES_MARKER.encode() in file.read(_HEAD_BYTES)


def _render(template: str, context: Mapping[str, Any], *, videos: str, num_shown: int) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": _format_count,
        "number": _format_number,
        "percent": _format_percent,
        "reason": lambda text: shorten(str(text), MAX_REASON),
        "shorten": lambda text, most=300: shorten(str(text), most),
    }

    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    checksum = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        context,
        style=Markup(style),
        script=Markup(script),
        script_checksum=checksum,
        videos=videos,
        num_shown=num_shown,
    )


def _describe_result(result: Content) -> dict[str, Any]:
    names = [record["name"] for record in result.metrics["classes"]]
    return {
        "class_names": names,
        "highlights": [_describe_highlight(video, names) for video in result.highlights],
        "config": printable(result.config),
        "versions": _describe_versions(result.metrics["run_by"]),
    }


def _describe_scores(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what only the page of a list with labels shows."""
    classes = metrics["classes"]
    names = [record["name"] for record in classes]
    listed = [{"number": number, **record} for number, record in enumerate(classes)]
    listed.sort(key=lambda record: (not record["support"], record["number"]))
    return {
        "headlines": _describe_headlines(metrics),
        "classes": listed[:MAX_CLASSES],
        "confusion_table": _build_confusion_table(metrics),
        "packed_classes": pack_classes(names, metrics["confusion"]),
        **_draw_scores(metrics),
    }


def _describe_predicted(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what only the page of a list without labels shows."""
    from slowfast.evaluation.report import figures  # it imports matplotlib

    names = [record["name"] for record in metrics["classes"]]
    classes = [
        {"number": number, "share": 100 * record["predicted"] / metrics["num_scored"], **record}
        for number, record in enumerate(metrics["classes"])
    ]
    classes.sort(key=lambda record: (-record["predicted"], record["number"]))
    num_predicted = sum(record["predicted"] > 0 for record in classes)

    return {
        "headlines": [
            Headline("Videos", f"{metrics['num_scored']:,}", meaning="videos with a prediction"),
            Headline(
                "Classes",
                f"{num_predicted:,}",
                meaning=f"classes with predicted videos, of {len(classes):,}",
            ),
            Headline(
                "Mean confidence",
                _format_percent(metrics["mean_confidence"]),
                meaning="mean probability of the predictions",
            ),
        ],
        "classes": classes[:MAX_CLASSES],
        "packed_classes": pack_classes(names, _NO_CONFUSION),
        "confidences_figure": figures.draw_confidences(metrics["confidences"]),
    }


def _describe_validation(training: TrainingCurves | None, *, num_classes: int) -> dict[str, Any]:
    """Return the last validation of the training, if it had the classes of the test."""
    validation = training.last_validation if training else None
    if validation is None or len(validation["classes"]) != num_classes:
        return {"validation": None, "validation_table": None}
    return {
        "validation": validation,
        "validation_table": _build_confusion_table(validation),
    }


def _describe_headlines(metrics: Mapping[str, Any]) -> list[Headline]:
    num_scored, num_videos = metrics["num_scored"], metrics["num_videos"]
    meanings = {
        "top1": ("Top-1", "videos whose most probable class is the label"),
        "top5": ("Top-5", "videos whose label is among the five most probable classes"),
        "mean_class_accuracy": ("Mean class accuracy", "mean of the recall of the classes"),
        "macro_f1": ("Macro F1", "mean of the F1 score of the classes"),
        "nll": ("NLL", "negative log-likelihood: mean of -log p(label)"),
        "ece": ("ECE", "expected calibration error: mean gap of confidence and accuracy"),
    }

    headlines = []
    for key, (name, meaning) in meanings.items():
        show = _format_number if key == "nll" else _format_percent
        interval = metrics["intervals"].get(key)
        listed = metrics.get(f"{key}_listed")
        has_listed = listed is not None and num_scored < num_videos
        headlines.append(
            Headline(
                name,
                show(metrics[key]),
                interval=f"{show(interval[0])} to {show(interval[1])}" if interval else "",
                listed=show(listed) if has_listed else "",
                meaning=meaning,
            )
        )
    return headlines


def _describe_highlight(video: Prediction, class_names: Sequence[str]) -> dict[str, Any]:
    top = zip(video.top_labels or [], video.top_probabilities or [], strict=True)
    return {
        **video._asdict(),
        "label_name": "" if video.label is None else class_names[video.label],
        "top": [
            {
                "name": class_names[label],
                "percent": 100 * probability,
                "is_label": label == video.label,
            }
            for label, probability in top
        ],
    }


def _build_confusion_table(metrics: Mapping[str, Any]) -> list[list[dict[str, float]]] | None:
    """Return the rows of a small confusion matrix, None for a large one."""
    num_classes = len(metrics["classes"])
    if num_classes > MAX_TABLE_CLASSES:
        return None

    counts = _confusion_counts(metrics)
    shares = _row_shares(counts)
    return [
        [
            {"count": int(counts[label, prediction]), "percent": 100 * shares[label, prediction]}
            for prediction in range(num_classes)
        ]
        for label in range(num_classes)
    ]


def _confusion_counts(metrics: Mapping[str, Any]) -> np.ndarray:
    num_classes = len(metrics["classes"])
    counts = np.zeros((num_classes, num_classes), np.int64)
    cells = metrics["confusion"]
    counts[cells["labels"], cells["predictions"]] = cells["counts"]
    return counts


def _row_shares(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _draw_scores(metrics: Mapping[str, Any]) -> dict[str, Markup | None]:
    from slowfast.evaluation.report import figures

    num_classes = len(metrics["classes"])
    confusion = None
    if MAX_TABLE_CLASSES < num_classes <= MAX_IMAGE_CLASSES:
        confusion = figures.draw_confusion(_row_shares(_confusion_counts(metrics)))

    num_clips = {record["num_clips"] for record in metrics["views"]}
    return {
        "confusion_figure": confusion,
        "views_figure": figures.draw_views(metrics["views"]) if len(num_clips) > 1 else None,
        "reliability_figure": figures.draw_reliability(metrics["reliability"]),
    }


def _draw_training(training: TrainingCurves | None) -> dict[str, Markup | None]:
    from slowfast.evaluation.report import figures

    if training is None:
        return {"loss_figure": None, "accuracy_figure": None}

    losses, accuracies = {}, {}
    for split, curves in (("training", training.train), ("validation", training.val)):
        for name, curve in curves.items():
            if name == "loss":
                losses[split] = curve
            else:
                accuracies[f"{split}, {_LEGEND[name]}"] = curve

    loss = accuracy = None
    if losses:
        loss = figures.draw_curves("loss", title="loss", curves=losses)
    if accuracies:
        accuracy = figures.draw_curves("accuracy", title="accuracy (%)", curves=accuracies)
    return {"loss_figure": loss, "accuracy_figure": accuracy}


_LEGEND = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean class accuracy"}


def _describe_versions(run_by: Mapping[str, str]) -> dict[str, str]:
    commit = run_by.get("commit", "")
    if commit and run_by.get("dirty") == "yes":
        commit += ", with uncommitted changes"
    names = ("slowfast", "python", "torch", "torchvision", "av")
    versions = {name: run_by.get(name, "") for name in names}
    return {"commit": commit, **versions}


def _format_count(number: int, noun: str) -> str:
    return count(number, noun).replace(str(number), f"{number:,}", 1)


def _format_percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}%"


def _format_number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
