"""Identity of a run: which entries it has, and the words that tell what differs."""

import re
from typing import Any

import pytest

from slowfast.config import default_cfg
from slowfast.datasets.annotations import Annotations
from slowfast.engine.identity import build_identity, differences


def identity_with(**settings: Any) -> dict[str, Any]:
    cfg = default_cfg()
    for key, value in settings.items():
        section, _, name = key.rpartition("__")
        (cfg[section] if section else cfg)[name] = value
    return build_identity(cfg, Annotations(["a.mp4", "b.mp4"], [0, 1]), start_weights="9f")


def test_entries_are_keys_and_have_words_for_a_user() -> None:
    entries = set(identity_with()) - set(default_cfg().identity_settings())
    assert len(entries) == 7
    for entry in entries:
        assert re.fullmatch("[a-z0-9_]+", entry)
        (line,) = differences({entry: 1}, {entry: 2})
        assert line.endswith(": 2 there, 1 here")
        assert not line.startswith(f"{entry}:")


@pytest.mark.parametrize(
    "settings",
    [
        {"NUM_GPUS": 8},
        {"TEST__NUM_ENSEMBLE_VIEWS": 4},
        {"NUM_SHARDS": 4, "TRAIN__BATCH_SIZE": 16},
        {
            "NUM_SHARDS": 4,
            "TRAIN__BATCH_SIZE": 16,
            "SOLVER__BASE_LR": 2.5e-5,
            "SOLVER__BASE_LR_SCALE_NUM_SHARDS": True,
        },
    ],
)
def test_another_way_to_the_same_steps_is_the_same_run(settings: dict[str, Any]) -> None:
    assert differences(identity_with(**settings), identity_with()) == []


def test_a_difference_names_both_values() -> None:
    here = identity_with(SOLVER__WEIGHT_DECAY=0.1, TRAIN__BATCH_SIZE=32)
    assert differences(here, identity_with()) == [
        "SOLVER.WEIGHT_DECAY: 0.05 there, 0.1 here",
        "videos per step (TRAIN.BATCH_SIZE * NUM_SHARDS): 64 there, 32 here",
    ]
