"""Comparison of two runs, to the bit."""

from pathlib import Path
from typing import Any

import torch

from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import newest_checkpoint
from slowfast.utils.files import read_json


def assert_equal(first: Any, second: Any) -> None:
    """Compare two values to the bit, through dicts and lists."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def assert_equal_ends(first: Path, second: Path) -> None:
    """Compare the last checkpoints and the validation records of two runs."""
    states = [load_checkpoint(str(newest_checkpoint(str(folder)))) for folder in (first, second)]
    for key in (
        "epoch",
        "step",
        "counters",
        "validations",
        "model_state",
        "ema_state",
        "optimizer_state",
    ):
        assert_equal(states[0][key], states[1][key])
    written = [
        read_json(folder / "validation.json", remedy="")["validations"]
        for folder in (first, second)
    ]
    assert written[0] == written[1]
