"""Every value of every choice trains, or is refused before a training starts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slowfast.config import CfgNode, default_cfg
from slowfast.config.rules import CHOICES, OWN_KEYS
from slowfast.datasets.build import build_loader
from slowfast.datasets.records import Batch
from slowfast.engine.build import build_state, build_train_step
from slowfast.engine.evaluate import evaluate
from slowfast.engine.optim import lr_at
from slowfast.engine.unreadable_videos import UnreadableVideos
from slowfast.utils.checkpoint import save_checkpoint

TinyCfg = Callable[..., CfgNode]

SOFT = {"MODEL.LOSS_FUNC": "soft_cross_entropy"}
# What a value needs to have an effect, or to be allowed.
WITH: dict[str, dict[str, Any]] = {
    "MIXUP.ENABLE": SOFT,
    "SOLVER.LR_POLICY": {"SOLVER.STEPS": "[0, 1]", "SOLVER.LRS": "[1, 0.1]"},
    "SOLVER.NESTEROV": {"SOLVER.OPTIMIZING_METHOD": "sgd"},
    "MODEL.USE_CHECKPOINT": {"MODEL.CHECKPOINT_NUM": "[1, 1, 1, 1]"},
    "AUG.INTERPOLATION": {"AUG.AA_TYPE": "rand-m9-n4"},
    "AUG.RE_MODE": {"AUG.RE_PROB": 1},
}
NO_PART_OF_A_STEP = {
    *(
        "DIST_BACKEND",
        "TRAIN.GRADIENT_DTYPE",
        "TRAIN.GRADIENT_BUCKET_VIEW",
        "TRAIN.STATIC_GRAPH",
    ),
    *("TRAIN.ENABLE", "TRAIN.AUTO_RESUME", "TRAIN.RESUME_WITH_CHANGES", "TRAIN.REHEARSE"),
    *("TRAIN.SAVE_LATEST", "TRAIN.BEST_METRIC", "BN.USE_PRECISE_STATS", "DATA.ENSEMBLE_METHOD"),
    *("TRAIN.COMPILE", "MODEL.CHECKPOINT_AUTO"),  # take long, and have tests of their own
}
OTHER_SECTIONS = ("TEST.", "TENSORBOARD.")


def value_of(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def choices() -> Iterator[dict[str, Any]]:
    """Give all values of all keys with a choice, and pairs of those that depend on each other."""
    for key, values in CHOICES.items():
        if key in NO_PART_OF_A_STEP or key.startswith(OTHER_SECTIONS):
            continue
        yield from (WITH.get(key, {}) | {key: value} for value in values)
    for key in OWN_KEYS:
        default = value_of(default_cfg(), key)
        is_part = key not in NO_PART_OF_A_STEP and not key.startswith(OTHER_SECTIONS)
        if isinstance(default, bool) and is_part:
            yield WITH.get(key, {}) | {key: not default}
    for loss in CHOICES["MODEL.LOSS_FUNC"][1:]:
        yield {"MIXUP.ENABLE": True, "MODEL.LOSS_FUNC": loss}
    for momentum in (0, 0.5):
        for nesterov in (False, True):
            sgd = {"SOLVER.OPTIMIZING_METHOD": "sgd", "SOLVER.NESTEROV": nesterov}
            yield sgd | {"SOLVER.MOMENTUM": momentum}
    for method in ("adamw", "adam"):
        yield {"SOLVER.OPTIMIZING_METHOD": method, "SOLVER.FUSED": False}
    yield {"UNIFORMER.SPLIT": True, "UNIFORMER.STD": True}


def as_keywords(settings: dict[str, Any]) -> dict[str, Any]:
    return {key.replace(".", "__"): value for key, value in settings.items()}


def two_batches(cfg: CfgNode, case: str) -> list[tuple[Batch, ...]]:
    """Return what the loader gives, if the case is one of its keys, or else clips of random numbers."""
    if not any(f"{section}." in case for section in ("DATA", "DATA_LOADER", "AUG", "TRAIN")):
        generator = torch.Generator().manual_seed(1)
        frames = torch.randn(2, 2, 3, 4, 32, 32, generator=generator)
        rows = torch.tensor([0, 5])
        return [
            (Batch(clips, label=rows, video=rows, view=rows, unreadable=()),) for clips in frames
        ]

    loader = build_loader(cfg, "train")
    loader.set_epoch(0)
    return [parts for parts, _ in zip(loader.steps(), range(2), strict=False)]


CASES = {
    " ".join(f"{key}={value}" for key, value in settings.items()): settings
    for settings in choices()
}


@pytest.mark.parametrize("case", CASES)
def test_every_choice_trains_two_steps(tiny_cfg: TinyCfg, case: str) -> None:
    small = {
        "TRAIN__BATCH_SIZE": 2,
        "DATA__TRAIN_CROP_SIZE": 32,
        "AUG__ENABLE": True,
        "TRAIN__AMP": "off",
    }
    cfg = tiny_cfg(**(small | as_keywords(CASES[case])))
    Path(cfg.OUTPUT_DIR).mkdir()
    run = build_state(cfg, identity={}, num_parts=1)
    taker = build_train_step(cfg, run, unreadable=UnreadableVideos(32, max_fraction=0))

    run.model.train()
    before = [parameter.clone() for parameter in run.model.parameters()]
    outcomes = [taker.take(parts, lr=lr_at(cfg, 0.5)) for parts in two_batches(cfg, case)]
    taker.settle()

    assert [bool(outcome.loss.isfinite()) for outcome in outcomes] == [True, True]
    assert run.num_skipped_steps == 0
    after = list(run.model.parameters())
    assert not all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        *({"DATA.ENSEMBLE_METHOD": method} for method in CHOICES["DATA.ENSEMBLE_METHOD"]),
        *({"TEST.NUM_SPATIAL_CROPS": number} for number in CHOICES["TEST.NUM_SPATIAL_CROPS"]),
        *({"MODEL.LOSS_FUNC": loss} for loss in CHOICES["MODEL.LOSS_FUNC"]),
    ],
    ids=str,
)
def test_every_choice_of_the_test_gives_a_result(
    tiny_cfg: TinyCfg, tmp_path: Path, settings: dict[str, Any]
) -> None:
    one_view = {
        "TEST__NUM_ENSEMBLE_VIEWS": 1,
        "TEST__CHECKPOINT_FILE_PATH": tmp_path / "weights.pyth",
    }
    cfg = tiny_cfg(**one_view, **as_keywords(settings))
    save_checkpoint(
        tmp_path / "weights.pyth",
        {"model_state": build_state(cfg, identity={}, num_parts=1).model.state_dict()},
    )
    result = evaluate(cfg)
    assert result.num_scored == 24
    assert np.isfinite(result.loss)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SOLVER.DAMPENING": 0.1}, "SOLVER.DAMPENING is 0.1, but SOLVER.NESTEROV takes none"),
        ({"SOLVER.MOMENTUM": -0.1}, "SOLVER.MOMENTUM is -0.1; use 0 or more"),
        (
            {"SOLVER.MOMENTUM": 1},
            "SOLVER.MOMENTUM is 1.0, with which steps would only grow; use a number below 1",
        ),
        ({"DATA.STD": "[0.1, 0, 0.1]"}, r"DATA.STD is \[0.1, 0, 0.1\]; use numbers above 0"),
        (
            {"UNIFORMER.EMBED_DIM": "[0, 8, 8, 8]"},
            r"UNIFORMER.EMBED_DIM is \[0, 8, 8, 8\]; use numbers above 0",
        ),
        ({"UNIFORMER.EMBED_DIM": "[8.5, 8, 8, 8]"}, "expected a list of whole numbers, such as"),
        (
            {"UNIFORMER.DEPTH": "[1, 1, -1, 1]"},
            r"UNIFORMER.DEPTH is \[1, 1, -1, 1\]; use numbers of 0 or more",
        ),
        (
            {"MODEL.CHECKPOINT_NUM": "[-1, 0, 0, 0]"},
            r"MODEL.CHECKPOINT_NUM is .*; use numbers of 0 or more",
        ),
        ({"TRAIN.BATCH_SIZE": 10**12}, "TRAIN.BATCH_SIZE is 1000000000000; use at most 1000000"),
        (
            {"UNIFORMER.EMBED_DIM": "[8, 8, 8, 8000000]"},
            r"UNIFORMER.EMBED_DIM is .*; use at most 65536",
        ),
        ({"SOLVER.BASE_LR": 1e30}, r"SOLVER.BASE_LR is 1e\+30; use at most 1e\+09"),
        ({"SOLVER.MAX_EPOCH": 2**31}, "SOLVER.MAX_EPOCH is 2147483648; use at most 2147483647"),
        ({"DATA_LOADER.TIMEOUT": 1e7}, r"DATA_LOADER.TIMEOUT is 10000000.0; use at most 1e\+06"),
    ],
)
def test_what_cannot_train_is_refused(
    tiny_cfg: TinyCfg, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_cfg(SOLVER__OPTIMIZING_METHOD="sgd", **as_keywords(settings))
