"""Probed models: the backbone that features were extracted with, and a head trained on them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from slowfast.config import parse_cfg
from slowfast.inference.feature_files import FeatureRecord
from slowfast.models.build import build_model
from slowfast.models.heads import HEAD_MODULES, Head
from slowfast.models.weights import head_names, load_weights
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.checksum import sha256_of
from slowfast.utils.paths import pathmgr


def save_probed_model(path: Path, record: FeatureRecord, *, kind: str, head: Head) -> None:
    """Write a checkpoint of the backbone with a head, for `slowfast.load` and `tools/run_net.py`.

    It has the config of the extraction with the kind of the head, and the class names.

    Args:
        path: The checkpoint.
        record: Record of the features that the head was trained on.
        kind: Kind of the head, MODEL.HEAD.
        head: The trained head.

    Raises:
        FileNotFoundError: If the weights of the backbone are gone.
        OSError: If the checkpoint cannot be written.
        ValueError: If the head takes the output of another stage, the weights have changed, or
            they do not fit the model.
    """
    check_exportable(record)
    cfg = parse_cfg(record.config, ["MODEL.HEAD", kind], origin=record.weights)
    model = build_model(cfg)
    load_weights(
        model,
        record.weights,
        use_ema=cfg.TEST.EMA,
        may_replace_head=True,
        allowed=cfg.MODEL.ALLOWED_MISMATCH,
        class_names=record.class_names,
    )
    _replace_head(model, head, kind=kind)
    state = {
        "model_state": model.state_dict(),
        "class_names": record.class_names,
        "cfg": cfg.dump(),
    }
    save_checkpoint(path, state)


def check_exportable(record: FeatureRecord) -> None:
    """Check that a head on some features belongs to the end of a model whose weights are there.

    Raises:
        FileNotFoundError: If the weights are gone.
        ValueError: If the features are of another stage, or the weights have changed.
    """
    if record.identity["stage"] is not None:
        raise ValueError(
            f"the features are of stage {record.identity['stage']}, and a model has its head after "
            "the last one. Extract them without --stage"
        )
    if not pathmgr.isfile(record.weights):
        raise FileNotFoundError(f"{record.weights}: the weights of the features are gone")
    if sha256_of(pathmgr.get_local_path(record.weights)) != record.identity["weights_sha256"]:
        raise ValueError(
            f"{record.weights}: has changed since the features were extracted. Extract them again"
        )


@torch.no_grad()
def _replace_head(model: nn.Module, head: Head, *, kind: str) -> None:
    """Copy the weights of a trained head into a model."""
    weights: dict[str, Tensor] = head.cpu().state_dict()
    if getattr(model, "head_modules", None) != HEAD_MODULES:
        if kind != "linear":
            raise ValueError(
                f"{type(model).__name__} takes no {kind} head. Use a linear one, or Uniformer"
            )
        # A second classifier is for training alone.
        weights = dict(zip(head_names(model), weights.values(), strict=False))

    target = model.state_dict()
    for name, weight in weights.items():  # A classifier may be a convolution of size 1.
        target[name].copy_(weight.reshape(target[name].shape))
