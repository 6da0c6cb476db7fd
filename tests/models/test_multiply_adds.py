"""Multiply-adds: counting by shapes gives what tracing gives."""

from typing import Any

import pytest
import torch
from torch import nn

from slowfast.models.multiply_adds import count_by_shapes, count_by_tracing, is_countable
from slowfast.models.uniformer import UniFormer

TINY: dict[str, Any] = {
    "num_classes": 5,
    "dims": (8, 16, 32, 64),
    "depths": (2, 1, 2, 1),
    "head_dim": 16,
}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"split": True, "overlap_time": True},
        {"head": "mlp", "qkv_bias": False},
        {"num_classes": 0, "in_chans": 3, "mlp_ratio": (2, 3, 4, 1)},
    ],
)
@pytest.mark.parametrize(("num_frames", "size"), [(8, 64), (5, 101)])
def test_shapes_and_tracing_give_the_same_count(
    settings: dict[str, Any], num_frames: int, size: int
) -> None:
    with torch.device("meta"), torch.no_grad():
        model = UniFormer(**{**TINY, **settings}).eval()
        assert is_countable(model)
        expected = count_by_tracing(model, num_frames=num_frames, size=size)
    assert count_by_shapes(model, num_frames=num_frames, size=size) == expected


def test_a_model_with_unknown_layers_must_be_traced() -> None:
    class Changed(UniFormer):
        """It may compute anything."""

    with torch.device("meta"):
        assert not is_countable(UniFormer(**TINY, head="attentive"))
        assert not is_countable(Changed(**TINY))
        assert not is_countable(nn.Linear(2, 2))
