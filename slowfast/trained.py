"""Trained models: from a checkpoint, a run, an exported folder or a name to a classifier."""

import json
import logging
import os
from collections.abc import Sequence
from os.path import isdir
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from slowfast import __version__
from slowfast.config import load_cfg, parse_cfg
from slowfast.datasets.build import build_normalize
from slowfast.datasets.build_clips import build_clip_reader
from slowfast.datasets.class_name_files import read_class_names
from slowfast.inference.classifier import Classifier, check_precision, usable_device
from slowfast.inference.clip_settings import build_clip_settings, build_exported_settings
from slowfast.inference.exported import check_clips
from slowfast.inference.view_reader import ViewReader
from slowfast.model_origin import build_origin
from slowfast.models.build import build_filled_model, find_problems
from slowfast.models.recipes import MODEL_RECIPES, weights_recipe
from slowfast.models.zoo import find_published, find_weights, published_class_names
from slowfast.runs.run_checkpoints import checkpoint_to_test
from slowfast.utils.checkpoint import load_checkpoint, read_header
from slowfast.utils.checkpoint_files import BEST_NAME, list_checkpoints
from slowfast.utils.checksum import sha256_of
from slowfast.utils.exported_folder import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    Exported,
    exported_at,
    read_exported,
)
from slowfast.utils.plugins import import_installed_plugins

_CONFIG_REMEDY = "Name the YAML file of the experiment: config=... in Python, --cfg in a tool"

logger = logging.getLogger(__name__)


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    precision: str | None = None,
    class_names: Sequence[str] | str | Path | None = None,
    config: str | Path | None = None,
    best: bool = False,
    ema: bool | None = None,
) -> Classifier:
    """Return a trained model that classifies videos exactly as its test does.

    Args:
        source: A checkpoint or another file of weights, the OUTPUT_DIR of a run, an exported
            folder, a published name (see `slowfast.list_weights`), or `hf:org/name`, optionally
            with `@revision`.
        device: Device of the model, such as "cuda".
        precision: Autocast of the forward pass: off | bf16 | fp16 | auto. None for the one that the
            model was tested with, TRAIN.AMP.
        class_names: Names of the classes in the order of the head, or a file of them. None for
            those in the weights.
        config: YAML file of the experiment, for weights that hold no config.
        best: Whether to load best.pyth of a run instead of its newest checkpoint.
        ema: Whether to load the EMA weights if there are some. None for TEST.EMA.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the file or its server cannot be read.
        ValueError: If the file is damaged or holds no model, or if its config or its class names
            are missing or do not fit.
    """
    if precision is not None:
        check_precision(precision)
    device = usable_device(device)
    import_installed_plugins()  # a model of your own may be in one
    path = find_file(str(source), best=best)
    exported = exported_at(path)
    state = {**load_checkpoint(path), **(exported.entries() if exported else {})}
    if config is None:
        cfg = _config_in(state, path, origin=_origin_of_config(path, exported))
    else:
        cfg = load_cfg(str(config), checks=())
    if problems := find_problems(cfg):
        raise ValueError("\n  ".join([f"{path}:", *problems]))
    return _build_classifier(
        cfg,
        state,
        path=path,
        device=device,
        precision=precision,
        class_names=class_names,
        ema=cfg.TEST.EMA if ema is None else ema,
        exported=exported,
        has_own_config=config is None,
    )


def _build_classifier(
    cfg: CfgNode,
    state: dict[str, Any],
    *,
    path: str,
    device: torch.device,
    precision: str | None,
    class_names: Sequence[str] | str | Path | None,
    ema: bool,
    exported: Exported | None,
    has_own_config: bool,
) -> Classifier:
    names = _find_class_names(state, path, given=class_names, num_classes=cfg.MODEL.NUM_CLASSES)
    uses_ema = ema and "ema_state" in state
    if uses_ema:
        state = {**state, "model_state": state["ema_state"]}

    model, _ = build_filled_model(cfg, state, path=path)
    settings = build_clip_settings(cfg)
    if exported and has_own_config:
        check_clips(path, exported.clips, settings)
    origin = build_origin(
        cfg,
        state if has_own_config else {},
        path=path,
        ema=uses_ema,
        exported=exported if has_own_config else None,
    )
    return Classifier(
        model.to(device),
        ViewReader(build_clip_reader(cfg, "test"), settings),
        build_normalize(cfg),
        class_names=names,
        settings=settings,
        precision=precision or cfg.TRAIN.AMP,
        temperature=_find_temperature(path, ema=uses_ema, exported=exported),
        config=build_exported_settings(cfg),
        origin=origin,
    )


# ---- Where the weights are -------------------------------------------------------------------


def find_file(source: str, *, best: bool = False) -> str:
    """Return the path of the file of weights that `load` reads.

    Args:
        source: See `load`.
        best: Whether to take best.pyth of a run instead of its newest checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If a download fails.
        ValueError: If an exported folder is damaged.
    """
    path = os.path.expanduser(source)
    if isdir(path):
        if not Path(path, CONFIG_NAME).exists():
            return _find_in_run(path, best=best)
        path = read_exported(path).weights
    return find_weights(path, key="the source")


def find_config(source: str, *, best: bool = False) -> CfgNode:
    """Return the config that belongs to weights, see `find_file`.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If there is no config, or it is of another version.
    """
    path = find_file(source, best=best)
    exported = exported_at(path)
    state = {**read_header(path), **(exported.entries() if exported else {})}
    return _config_in(state, path, origin=_origin_of_config(path, exported))


def _find_in_run(folder: str, *, best: bool) -> str:
    has_best = Path(folder, BEST_NAME).exists()
    if not (list_checkpoints(folder) or has_best):
        if Path(folder, WEIGHTS_NAME).exists():
            raise FileNotFoundError(
                f"{folder}: has {WEIGHTS_NAME}, but not the {CONFIG_NAME} that belongs to it. Copy "
                f"the whole exported folder, or name the file {WEIGHTS_NAME} and a config"
            )
        raise FileNotFoundError(
            f"{folder}: holds no model. Name a checkpoint, the OUTPUT_DIR of a run, or an exported "
            f"folder, which has a {CONFIG_NAME}"
        )
    return str(checkpoint_to_test(folder, best=best))


# ---- What belongs to the weights -------------------------------------------------------------


def _origin_of_config(path: str, exported: Exported | None) -> str:
    """Return the file that a config comes from, for messages."""
    return str(Path(path).with_name(CONFIG_NAME)) if exported else path


def _config_in(state: dict[str, Any], path: str, *, origin: str) -> CfgNode:
    """Return the config in the content of a file of weights, or that of the published file."""
    if isinstance(text := state.get("cfg"), str):
        return _parse(text, origin, version=str(state.get("version", "")))

    entry = find_published(path)
    if entry is None:
        raise ValueError(
            f"{path}: holds no config, so its model and its clips are unknown. {_CONFIG_REMEDY}"
        )
    if not entry.num_frames:
        raise ValueError(
            f"{path}: holds an image model, which classifies no videos. Start from it with "
            f"create_model({entry.model!r}, weights=...), or train with UNIFORMER.PRETRAIN_NAME"
        )
    recipe = {**MODEL_RECIPES[entry.model], **weights_recipe(entry)}
    return parse_cfg(json.dumps(recipe), origin=path)  # JSON is YAML


def _parse(text: str, origin: str, *, version: str) -> CfgNode:
    try:
        return parse_cfg(text, origin=origin)
    except ValueError as error:
        remedy = "Import the package that adds its keys"
        if version not in ("", __version__):
            remedy = f"It is of version {version}, and this is {__version__}: upgrade. Or: {remedy}"
        raise ValueError(
            f"{error}\nThe config in these weights does not suit this version. {remedy}. Or: "
            f"{_CONFIG_REMEDY}"
        ) from error


def _find_class_names(
    state: dict[str, Any], path: str, *, given: Sequence[str] | str | Path | None, num_classes: int
) -> list[str]:
    if isinstance(given, str | Path):
        names, origin = read_class_names(str(given)), str(given)
    elif given is not None:
        names, origin = [str(name) for name in given], "class_names"
    else:
        names = state.get("class_names") or published_class_names(path)
        origin = path

    if not names:
        raise ValueError(
            f"{origin}: names no classes. Give {num_classes} names in the order of the head: "
            "class_names=[...] or a file in Python, --class-names FILE in a tool"
        )
    if len(names) != num_classes:
        raise ValueError(
            f"{origin}: has {len(names)} class names, but the head has {num_classes} classes"
        )
    return names


def _find_temperature(weights: str, *, ema: bool, exported: Exported | None) -> float | None:
    """Return the temperature that belongs to the weights, None if it is unknown.

    One that is stored beside the weights is newer than the one in an exported folder.
    """
    if "://" in weights:
        return None

    from slowfast.evaluation.stored_temperature import read_temperature, temperature_path

    if not temperature_path(weights).exists():
        return exported.temperature if exported else None
    try:
        return read_temperature(weights, weights_sha256=sha256_of(weights), ema=ema)
    except ValueError as error:
        logger.warning("%s", error)
        return None
