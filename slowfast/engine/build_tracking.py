"""Builders of what records a run: its trackers, and the figures that they show."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from numpy.typing import NDArray
from torch import Tensor

from slowfast.datasets.build import build_class_names, build_format
from slowfast.datasets.normalization import to_pixels
from slowfast.datasets.text_files import open_text
from slowfast.distributed.collectives import is_main
from slowfast.engine.run_figures import FigureOptions, RunFigures, ToPixels
from slowfast.models.build import build_model
from slowfast.models.freezing import find_unmatched
from slowfast.runs.run_record import header_of, read_record
from slowfast.utils.class_names import letters
from slowfast.utils.provenance import provenance
from slowfast.utils.text import some
from slowfast.visualization.background import Start, Trackers
from slowfast.visualization.trackers import TENSORBOARD, TRACKERS, TrackedRun

# What tells runs apart at a glance.
HYPER_PARAMETERS = (
    "MODEL.MODEL_NAME",
    "DATA.NUM_FRAMES",
    "DATA.SAMPLING_RATE",
    "DATA.TRAIN_CROP_SIZE",
    "TRAIN.BATCH_SIZE",
    "TRAIN.EMA_DECAY",
    "AUG.ENABLE",
    "AUG.NUM_SAMPLE",
    "MIXUP.ENABLE",
    "UNIFORMER.DROP_DEPTH_RATE",
    "SOLVER.OPTIMIZING_METHOD",
    "SOLVER.BASE_LR",
    "SOLVER.LAYER_DECAY",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WARMUP_EPOCHS",
    "SOLVER.MAX_EPOCH",
    "RNG_SEED",
)
# What says which code ran. The host and its folders stay private.
SOURCE = ("slowfast", "commit", "dirty", "python", "torch", "torchvision", "av", "command")
TEST_METRICS = ("top1", "top5", "mean_class_accuracy", "nll")


def find_problems(cfg: CfgNode) -> list[str]:
    """Return the classes and layers that the figures of a config name and that do not exist.

    The model is built on the meta device, so the config must have no other problem.
    """
    if not (cfg.TRAIN.ENABLE and _build_has_trackers(cfg)):
        return []
    try:
        build_figure_options(cfg)
    except (OSError, ValueError) as error:
        return [str(error)]

    patterns = cfg.TENSORBOARD.MODEL_VIS.LAYER_LIST
    if not (cfg.TENSORBOARD.MODEL_VIS.ENABLE and patterns):
        return []
    with torch.device("meta"):
        model = build_model(cfg)
    problems = find_unmatched(model, patterns)
    return [f"TENSORBOARD.MODEL_VIS.LAYER_LIST: {problem}" for problem in problems]


def build_trackers(
    cfg: CfgNode, *, run_id: str, record_ids: dict[str, str], num_steps: int | None
) -> Trackers:
    """Return the trackers of a run. They start when they get something.

    Args:
        cfg: The config.
        run_id: ID of the run.
        record_ids: IDs of the trackers' records by the name of their trackers. Those that start
            add theirs.
        num_steps: Finished training steps, None if no more will follow.
    """
    names = [*cfg.TRACKERS.NAMES]
    if cfg.TENSORBOARD.ENABLE:
        names.insert(0, TENSORBOARD)
    starts: dict[str, Start] = {}
    for name in names if is_main() else ():
        run = _build_tracked_run(cfg, name, run_id=run_id, num_steps=num_steps)
        starts[name] = partial(_start, name, run, record_ids)
    return Trackers(starts, record_ids=record_ids)


def _start(name: str, run: TrackedRun, record_ids: Mapping[str, str]) -> Any:
    return TRACKERS[name].start(run._replace(record_id=record_ids.get(name, "")))


def build_test_record(cfg: CfgNode, weights: Path, metrics: Mapping[str, float]) -> None:
    """Send the result of a test to the trackers of the run in OUTPUT_DIR, if they are its weights.

    Args:
        cfg: The config.
        weights: The tested checkpoint.
        metrics: Metrics by name.
    """
    header = header_of(weights)
    if not _build_has_trackers(cfg) or "run_id" not in header:
        return
    try:
        record = read_record(cfg.OUTPUT_DIR)
    except ValueError:  # It holds no known run.
        return
    if record is None or header["run_id"] != record.run_id:
        return

    num_steps = header.get("epoch", 0) * header.get("steps_per_epoch", 0) + header.get("step", 0)
    trackers = build_trackers(
        cfg,
        run_id=record.run_id,
        record_ids=dict(header.get("tracker_records", {})),
        num_steps=None,
    )
    results = {f"test/{name}": metrics[name] for name in TEST_METRICS}
    trackers.log_results(results, step=num_steps)
    trackers.close(is_finished=True)


def _build_tracked_run(
    cfg: CfgNode, name: str, *, run_id: str, num_steps: int | None
) -> TrackedRun:
    folder = Path(cfg.TRACKERS.DIR or cfg.OUTPUT_DIR)
    if name == "jsonl":
        folder = Path(cfg.OUTPUT_DIR)
    elif name == TENSORBOARD:
        # Many runs may share a folder outside OUTPUT_DIR, so each run has its own inside it.
        shared = cfg.TENSORBOARD.LOG_DIR
        folder = Path(shared, run_id) if shared else Path(cfg.OUTPUT_DIR, "tensorboard")

    config = dict(_settings(cfg))
    source = provenance()
    return TrackedRun(
        run_id=run_id,
        record_id="",
        num_steps=num_steps,
        project=cfg.TRACKERS.PROJECT,
        name=cfg.TRACKERS.RUN_NAME or Path(cfg.OUTPUT_DIR).absolute().name,
        group=cfg.TRACKERS.GROUP,
        tags=cfg.TRACKERS.TAGS,
        folder=folder,
        config=config,
        hyper_parameters={key: config[key] for key in HYPER_PARAMETERS},
        source={name: source[name] for name in SOURCE if source[name]},
    )


def _settings(section: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all keys of a section by their full names, with their values."""
    for name, value in section.items():
        if isinstance(value, CfgNode):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# ---- Figures ---------------------------------------------------------------------------------


def build_figures(cfg: CfgNode, trackers: Trackers) -> RunFigures:
    """Return what draws the figures of a run."""
    return RunFigures(
        trackers,
        build_figure_options(cfg) if _build_has_trackers(cfg) else FigureOptions(),
        class_names=build_class_names(cfg),
        train_pixels=build_to_pixels(cfg, "train"),
        val_pixels=build_to_pixels(cfg, "val"),
    )


def _build_has_trackers(cfg: CfgNode) -> bool:
    return bool(cfg.TENSORBOARD.ENABLE or cfg.TRACKERS.NAMES)


def build_to_pixels(cfg: CfgNode, split: str) -> ToPixels:
    """Return a function from a clip of a split, as a batch holds it, to RGB pixels (T, H, W, 3)."""
    is_bgr = build_format(cfg, split).is_bgr != cfg.DATA.REVERSE_INPUT_CHANNEL
    mean, std = cfg.DATA.MEAN, cfg.DATA.STD

    def to_rgb(clip: Tensor) -> NDArray[np.uint8]:
        frames = to_pixels(clip, mean=mean, std=std)
        return frames[..., ::-1] if is_bgr else frames

    return to_rgb


def build_figure_options(cfg: CfgNode) -> FigureOptions:
    """Return what a run shows besides curves.

    Raises:
        OSError: If a file of class names cannot be read.
        ValueError: If it names a class that does not exist.
    """
    names = build_class_names(cfg)
    has_confusion = cfg.TENSORBOARD.CONFUSION_MATRIX.ENABLE
    has_predictions = cfg.TENSORBOARD.HISTOGRAM.ENABLE
    has_mistakes = cfg.TENSORBOARD.WRONG_PRED_VIS.ENABLE
    has_model = cfg.TENSORBOARD.MODEL_VIS.ENABLE

    confusion_subset = _read_subset(
        has_confusion and cfg.TENSORBOARD.CONFUSION_MATRIX.SUBSET_PATH, names
    )
    predictions_subset = _read_subset(
        has_predictions and cfg.TENSORBOARD.HISTOGRAM.SUBSET_PATH, names
    )
    mistakes_subset = _read_subset(
        has_mistakes and cfg.TENSORBOARD.WRONG_PRED_VIS.SUBSET_PATH, names
    )
    return FigureOptions(
        num_train_clips=cfg.TENSORBOARD.TRAIN_CLIPS,
        has_graph=cfg.TENSORBOARD.MODEL_GRAPH,
        has_confusion=has_confusion,
        confusion_size=tuple(cfg.TENSORBOARD.CONFUSION_MATRIX.FIGSIZE),
        confusion_subset=confusion_subset,
        categories=_read_categories(has_confusion and cfg.TENSORBOARD.CATEGORIES_PATH, names),
        has_predictions=has_predictions,
        predictions_size=tuple(cfg.TENSORBOARD.HISTOGRAM.FIGSIZE),
        predictions_labels=predictions_subset or range(len(names)),
        num_predictions=cfg.TENSORBOARD.HISTOGRAM.TOPK,
        has_mistakes=has_mistakes,
        mistakes_labels=frozenset(mistakes_subset) or None,
        has_weights=has_model and cfg.TENSORBOARD.MODEL_VIS.MODEL_WEIGHTS,
        has_activations=has_model and cfg.TENSORBOARD.MODEL_VIS.ACTIVATIONS,
        has_inputs=has_model and cfg.TENSORBOARD.MODEL_VIS.INPUT_VIDEO,
        layers=cfg.TENSORBOARD.MODEL_VIS.LAYER_LIST,
    )


def _read_subset(path: str | bool, class_names: Sequence[str]) -> list[int]:
    """Return the numbers of the classes that a file names, one per line. [] without a file."""
    if not path:
        return []
    with open_text(str(path), key="SUBSET_PATH of TENSORBOARD") as file:
        names = [line.strip() for line in file if line.strip()]
    return _find_classes(names, class_names, path=str(path))


def _read_categories(path: str | bool, class_names: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of the classes of each category in a JSON file. {} without a file."""
    if not path:
        return {}
    with open_text(str(path), key="TENSORBOARD.CATEGORIES_PATH") as file:
        try:
            categories = json.load(file)
            return {
                name: _find_classes([*map(str, names)], class_names, path=str(path))
                for name, names in categories.items()
            }
        except (AttributeError, TypeError, json.JSONDecodeError) as error:
            remedy = 'Use JSON such as {"sports": ["archery", "bowling"]}'
            raise ValueError(f"{path}: is no file of categories. {remedy}") from error


def _find_classes(names: Sequence[str], class_names: Sequence[str], *, path: str) -> list[int]:
    """Return the numbers of some classes. Case, spaces and punctuation do not count."""
    numbers = {letters(name): number for number, name in enumerate(class_names)}
    unknown = [name for name in names if letters(name) not in numbers]
    if unknown or not names:
        what = f"names no class of the data: {some(unknown)}" if unknown else "names no class"
        raise ValueError(f"{path}: {what}. Use names such as {some(class_names, most=3)}")
    return [numbers[letters(name)] for name in names]
