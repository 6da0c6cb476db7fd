"""Origin of a trained model, for its export: its name, its training and the metrics of its test."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import simplejson
import torch
from fvcore.common.config import CfgNode
from torch import nn

from slowfast.config.tree import value_at
from slowfast.inference.clip_settings import build_exported_settings, build_training_settings
from slowfast.inference.exported import FoundMetrics, FoundTest, Origin
from slowfast.models.build import build_filled_model
from slowfast.models.recipes import ARCHITECTURE_KEYS, MODEL_RECIPES, same_weights
from slowfast.models.uniformer_config import UNIFORMERS
from slowfast.models.zoo import find_published
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checksum import sha256_of
from slowfast.utils.exported_folder import Exported

_UNTESTED = "the run has no result of a finished test"
_CHANGED = "the weights have changed since they were tested"


def build_origin(
    cfg: CfgNode, state: Mapping[str, Any], *, path: str, ema: bool, exported: Exported | None
) -> Origin:
    """Return the origin of a model.

    Args:
        cfg: Config of the model.
        state: Content of its weights, {} if they are not those that the config belongs to.
        path: Path or address of the weights.
        ema: Whether the weights are the EMA weights of a checkpoint.
        exported: Content of the exported folder that the weights lie in, None elsewhere.
    """
    name = _build_model_name(cfg)
    if exported:
        no_test = FoundTest(None, "an exported folder has no test")
        return Origin(
            exported.model or name,
            exported.training,
            find_metrics=partial(_build_metrics, cfg, path=path, ema=ema, exported=exported),
            find_test=lambda model: no_test,
        )
    return Origin(
        name,
        build_training(cfg, state, ema=ema),
        find_metrics=partial(_build_run_metrics, cfg, path=path, ema=ema),
        find_test=partial(_build_test, cfg, path=path, ema=ema),
    )


def build_training(cfg: CfgNode, state: Mapping[str, Any], *, ema: bool) -> dict[str, Any] | None:
    """Return how the weights of a checkpoint were trained, None if they are of no training run.

    Args:
        cfg: Config of the run.
        state: Content of the checkpoint.
        ema: Whether the weights are its EMA weights.
    """
    if not state.get("run_id"):
        return None
    start = cfg.TRAIN.CHECKPOINT_FILE_PATH
    if not start and cfg.MODEL.MODEL_NAME in UNIFORMERS:
        start = cfg.UNIFORMER.PRETRAIN_NAME
    entry = find_published(start) if start else None

    other = "other weights" if start else "random weights"
    identity = state.get("identity", {})
    return {
        "start_weights": entry.file.removesuffix(".pth") if entry else other,
        "num_videos": identity.get("num_training_videos"),
        "num_epochs": state.get("epoch"),
        "uses_ema": ema,
        "settings": build_training_settings(cfg),
    }


def _build_model_name(cfg: CfgNode) -> str:
    """Return the name of a model for `slowfast.create_model`, or else MODEL.MODEL_NAME."""
    settings = {key: value_at(cfg, key) for key in ARCHITECTURE_KEYS}
    for name, recipe in MODEL_RECIPES.items():
        keys = [key for key in ARCHITECTURE_KEYS if key in recipe]
        if all(same_weights(settings[key], recipe[key]) for key in keys):
            return name
    model_name: str = cfg.MODEL.MODEL_NAME
    return model_name


# ---- The test --------------------------------------------------------------------------------


def _build_metrics(
    cfg: CfgNode, model: nn.Module, *, path: str, ema: bool, exported: Exported
) -> FoundMetrics:
    """Return the metrics in an exported folder that belong to a model, or why there are none."""
    if exported.metrics is None:
        return FoundMetrics(None, "the exported folder has no metrics")
    if not _build_is_unchanged(cfg, model, path=path, ema=ema):
        return FoundMetrics(None, _CHANGED)
    return FoundMetrics(exported.metrics)


def _build_run_metrics(cfg: CfgNode, model: nn.Module, *, path: str, ema: bool) -> FoundMetrics:
    """Return the metrics of the test of a model in its run, or why there are none."""
    from slowfast.sharing.result_metrics import make_test_metrics

    found = _build_test(cfg, model, path=path, ema=ema)
    if found.result is None:
        return FoundMetrics(None, found.problem)
    if not found.result.record.is_labeled:
        return FoundMetrics(None, f"the list of the test in {found.result.folder} has no labels")
    return FoundMetrics(make_test_metrics(found.result))


def _build_test(cfg: CfgNode, model: nn.Module, *, path: str, ema: bool) -> FoundTest:
    """Return the test in the run of the weights, if it was of this model with these settings."""
    from slowfast.evaluation.result import open_result

    run = find_run_folder(path)
    if run is None:
        return FoundTest(None, _UNTESTED)
    try:
        result = open_result(run)
    except FileNotFoundError:
        return FoundTest(None, _UNTESTED)
    except ValueError as error:
        return FoundTest(None, str(error))

    identity = result.record.identity
    if identity.get("weights_sha256") != sha256_of(path):
        tested = result.record.weights
        return FoundTest(None, f"the test in {result.folder} was of other weights, {tested}")
    if ema != (identity.get("TEST.EMA", True) and _has_ema(path)):
        return FoundTest(None, f"the test in {result.folder} was not of these EMA weights")

    settings = simplejson.loads(simplejson.dumps(build_exported_settings(cfg)))
    for key in settings.keys() & identity.keys() - {"TEST.VIEWS_PER_FORWARD"}:
        if settings[key] != identity[key]:
            return FoundTest(
                None,
                f"the test in {result.folder} was with {key} {identity[key]!r}, not "
                f"{settings[key]!r}",
            )
    if not _build_is_unchanged(cfg, model, path=path, ema=ema):
        return FoundTest(None, _CHANGED)
    return FoundTest(result)


def find_run_folder(path: str) -> Path | None:
    """Return the folder of the run that a checkpoint lies in, None if it lies in none."""
    folder = Path(path).parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    return folder if "://" not in path and folder.is_dir() else None


def _has_ema(path: str) -> bool:
    from slowfast.utils.checkpoint import read_header

    return "ema_state" in read_header(path)


def _build_is_unchanged(cfg: CfgNode, model: nn.Module, *, path: str, ema: bool) -> bool:
    """Whether a model still has the weights of its file."""
    state = load_checkpoint(path)
    if ema:
        state = {**state, "model_state": state["ema_state"]}
    loaded = build_filled_model(cfg, state, path=path)[0].state_dict()
    weights = model.state_dict()
    return loaded.keys() == weights.keys() and all(
        torch.equal(tensor, weights[name].cpu()) for name, tensor in loaded.items()
    )
