"""Every value of every choice trains, or is refused before a training starts."""

from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slowfast.config import CfgNode, default_cfg
from slowfast.config.ranges import CHOICES, OWN_KEYS
from slowfast.datasets.build import build_loader
from slowfast.datasets.records import Batch
from slowfast.engine.build import build_lr_schedule, build_state, build_train_step
from slowfast.utils.checkpoint import save_checkpoint
from tests.engine.outputs import evaluate_labeled

TinyCfg = Callable[..., CfgNode]

SOFT = {"MODEL.LOSS_FUNC": "soft_cross_entropy"}
# Settings that a key needs to be allowed or to have an effect.
WITH: dict[str, dict[str, Any]] = {
    "MIXUP.ENABLE": SOFT,
    "SOLVER.LR_POLICY": {"SOLVER.STEPS": "[0, 1]", "SOLVER.LRS": "[1, 0.1]"},
    "SOLVER.NESTEROV": {"SOLVER.OPTIMIZING_METHOD": "sgd"},
    "MODEL.USE_CHECKPOINT": {"MODEL.CHECKPOINT_NUM": "[1, 1, 1, 1]"},
    "AUG.INTERPOLATION": {"AUG.AA_TYPE": "rand-m9-n4"},
    "AUG.RE_MODE": {"AUG.RE_PROB": 1},
}
WITHOUT_EFFECT_ON_A_STEP = {
    "BN.USE_PRECISE_STATS",
    "DATA.ENSEMBLE_METHOD",
    "DIST_BACKEND",
    "TRAIN.AUTO_RESUME",
    "TRAIN.BEST_METRIC",
    "TRAIN.ENABLE",
    "TRAIN.GRADIENT_BUCKET_VIEW",
    "TRAIN.GRADIENT_DTYPE",
    "TRAIN.REHEARSE",
    "TRAIN.RESUME_WITH_CHANGES",
    "TRAIN.SAVE_LATEST",
    "TRAIN.STATIC_GRAPH",
}
SLOW = {"MODEL.CHECKPOINT_AUTO", "TRAIN.COMPILE"}  # They have tests of their own.
OTHER_SECTIONS = ("TEST.", "TENSORBOARD.", "TRACKERS.")


def value_of(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def changes_a_step(key: str) -> bool:
    is_left_out = key in WITHOUT_EFFECT_ON_A_STEP or key in SLOW
    return not is_left_out and not key.startswith(OTHER_SECTIONS)


def choices() -> Iterator[dict[str, Any]]:
    """Yield all values of all keys with a choice, and pairs of keys that depend on each other."""
    for key, values in CHOICES.items():
        if changes_a_step(key):
            yield from (WITH.get(key, {}) | {key: value} for value in values)
    for key in OWN_KEYS:
        default = value_of(default_cfg(), key)
        if isinstance(default, bool) and changes_a_step(key):
            yield WITH.get(key, {}) | {key: not default}
    for loss in CHOICES["MODEL.LOSS_FUNC"][1:]:
        yield {"MIXUP.ENABLE": True, "MODEL.LOSS_FUNC": loss}
    for momentum, nesterov in product((0, 0.5), (False, True)):
        sgd = {"SOLVER.OPTIMIZING_METHOD": "sgd", "SOLVER.NESTEROV": nesterov}
        yield sgd | {"SOLVER.MOMENTUM": momentum}
    for method in ("adamw", "adam"):
        yield {"SOLVER.OPTIMIZING_METHOD": method, "SOLVER.FUSED": False}
    yield {"UNIFORMER.SPLIT": True, "UNIFORMER.STD": True}


def as_keywords(settings: dict[str, Any]) -> dict[str, Any]:
    return {key.replace(".", "__"): value for key, value in settings.items()}


def two_steps(cfg: CfgNode, case: str) -> list[tuple[Batch, ...]]:
    """Return batches of the loader if the case is one of its keys, and random clips otherwise."""
    if not any(f"{section}." in case for section in ("DATA", "DATA_LOADER", "AUG", "TRAIN")):
        generator = torch.Generator().manual_seed(1)
        frames = torch.randn(2, 2, 3, 4, 32, 32, generator=generator)
        rows = torch.tensor([0, 5])
        return [
            (Batch(clips, labels=rows, video_indices=rows, view_indices=rows, unreadable=()),)
            for clips in frames
        ]

    loader = build_loader(cfg, "train")
    loader.set_epoch(0)
    return list(islice(loader.steps(), 2))


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
    state = build_state(cfg)
    train_step = build_train_step(cfg, state, num_videos=32)
    lr = build_lr_schedule(cfg).lr_at(0.5)

    state.model.train()
    before = [parameter.clone() for parameter in state.model.parameters()]
    steps = two_steps(cfg, case)
    results = [train_step.run(micro_batches, lr=lr) for micro_batches in steps]
    train_step.settle()

    assert [bool(result.loss.isfinite()) for result in results] == [True, True]
    assert state.num_skipped_steps == 0
    after = list(state.model.parameters())
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
        {"model_state": build_state(cfg).model.state_dict()},
    )
    result = evaluate_labeled(cfg)
    assert result.num_scored == 24
    assert np.isfinite(result.nll)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SOLVER.DAMPENING": 0.1}, "SOLVER.DAMPENING is 0.1, but SOLVER.NESTEROV takes none"),
        ({"SOLVER.MOMENTUM": -0.1}, "SOLVER.MOMENTUM is -0.1. Use 0 or more"),
        (
            {"SOLVER.MOMENTUM": 1},
            "SOLVER.MOMENTUM is 1.0, with which steps would only grow. Use a number below 1",
        ),
        ({"DATA.STD": "[0.1, 0, 0.1]"}, r"DATA.STD is \[0.1, 0, 0.1\]. Use numbers above 0"),
        (
            {"UNIFORMER.EMBED_DIM": "[0, 8, 8, 8]"},
            r"UNIFORMER.EMBED_DIM is \[0, 8, 8, 8\]. Use numbers above 0",
        ),
        ({"UNIFORMER.EMBED_DIM": "[8.5, 8, 8, 8]"}, "Expected a list of whole numbers, such as"),
        (
            {"UNIFORMER.DEPTH": "[1, 1, -1, 1]"},
            r"UNIFORMER.DEPTH is \[1, 1, -1, 1\]. Use numbers of 0 or more",
        ),
        (
            {"MODEL.CHECKPOINT_NUM": "[-1, 0, 0, 0]"},
            r"MODEL.CHECKPOINT_NUM is .*. Use numbers of 0 or more",
        ),
        ({"TRAIN.BATCH_SIZE": 10**12}, "TRAIN.BATCH_SIZE is 1000000000000. Use at most 1000000"),
        (
            {"UNIFORMER.EMBED_DIM": "[8, 8, 8, 8000000]"},
            r"UNIFORMER.EMBED_DIM is .*. Use at most 65536",
        ),
        ({"SOLVER.BASE_LR": 1e30}, r"SOLVER.BASE_LR is 1e\+30. Use at most 1e\+09"),
        ({"SOLVER.MAX_EPOCH": 2**31}, "SOLVER.MAX_EPOCH is 2147483648. Use at most 2147483647"),
        ({"DATA_LOADER.TIMEOUT": 1e7}, r"DATA_LOADER.TIMEOUT is 10000000.0. Use at most 1e\+06"),
    ],
)
def test_settings_that_cannot_train_are_refused(
    tiny_cfg: TinyCfg, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_cfg(SOLVER__OPTIMIZING_METHOD="sgd", **as_keywords(settings))
