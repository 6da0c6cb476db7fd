"""The model of each experiment has the published parameters and multiply-adds."""

from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import nn

from slowfast.models.build import build_model, count_multiply_adds, count_parameters
from slowfast.models.layers import Attention
from tests.exp.experiments import LIGHT_TABLE, TABLE, load_experiment

FEATURES = 512  # inputs of the head

# With 400 classes. Published as 21.4 M and 49.8 M.
PARAMETERS = {"UniFormer-S": 21_400_400, "UniFormer-B": 49_813_200}

# The table multiplies rounded figures here. A view of B with 32 frames takes 258.63 G and counts as
# 259 G. The 15 views of UCF101 and HMDB51 count as five times the 125 G of three views.
ALREADY_ROUNDED = {
    ("UniFormer-B", 32, 4): "1036G",
    ("UniFormer-B", 32, 3): "777G",
    ("UniFormer-S", 16, 15): "625G",
}


@cache
def multiply_adds_of_a_view(exp: str, num_classes: int) -> int:
    cfg = load_experiment(exp, "MODEL.NUM_CLASSES", str(num_classes))
    build = partial(build_model, cfg)
    return count_multiply_adds(build, num_frames=cfg.DATA.NUM_FRAMES, size=cfg.DATA.TEST_CROP_SIZE)


def cost_settings(exp: str) -> list[Any]:
    """Return the settings that the cost of a view depends on, without the number of classes."""
    cfg = load_experiment(exp)
    model, data = cfg.UNIFORMER, cfg.DATA
    return [model.EMBED_DIM, model.DEPTH, data.NUM_FRAMES, data.TEST_CROP_SIZE]


@pytest.mark.parametrize("exp", TABLE)
def test_parameters_and_multiply_adds_are_the_published_ones(exp: str) -> None:
    cfg, case = load_experiment(exp), TABLE[exp]
    with torch.device("meta"):
        parameters = count_parameters(build_model(cfg))
    more_classes = cfg.MODEL.NUM_CLASSES - 400
    assert parameters == PARAMETERS[case["model"]] + more_classes * (FEATURES + 1)

    # Counting takes a second, and there are only six combinations of these settings.
    alike = next(name for name in TABLE if cost_settings(name) == cost_settings(exp))
    view = multiply_adds_of_a_view(alike, 400) + more_classes * FEATURES
    num_views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS

    # The table has four digits of one view times the number of views, as a whole number.
    rounded_view = float(f"{view / 1e9:.4g}")
    row = (case["model"], cfg.DATA.NUM_FRAMES, num_views)
    expected = ALREADY_ROUNDED.get(row, f"{rounded_view * num_views:.0f}G")
    assert case["published"]["flops"] == expected
    assert view * num_views / 1e9 == pytest.approx(float(case["published"]["flops"][:-1]), rel=0.01)


def test_a_class_costs_one_multiply_add_per_feature() -> None:
    exp = "uniformer_s8x8_k400"
    assert multiply_adds_of_a_view(exp, 600) - multiply_adds_of_a_view(exp, 400) == 200 * FEATURES


# ---- Light models ----------------------------------------------------------------------------

LIGHT_PARAMETERS = {
    "Uniformer_light": 9_833_896,
    "Uniformer_light_fp32": 9_833_896,
    "Uniformer_light_ls_fp32": 9_840_616,
}


def published_light_count(exp: str) -> int:
    """Return the multiply-adds of a view by a rule that gives the figures of the published table.

    The rule is a guess that fits: BatchNorm as in training mode, which counts 5 per value instead
    of 2, and one per weight of the softmax.
    """
    cfg = load_experiment(exp)
    num_frames, size = cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE
    total = count_multiply_adds(partial(build_model, cfg), num_frames=num_frames, size=size)

    def count_values(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += 3 * output.numel()

    def count_weights(module: nn.Module, inputs: tuple[torch.Tensor], output: Any) -> None:
        nonlocal total
        num_tokens, num_channels = inputs[0].shape[1:]
        total += num_channels // int(module.head_dim) * num_tokens**2  # type: ignore[arg-type]

    with torch.device("meta"), torch.no_grad():
        model = build_model(cfg).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.register_forward_hook(count_values)
            elif isinstance(module, Attention):
                module.register_forward_hook(count_weights)
        model(torch.empty(1, 3, num_frames, size, size))
    return total


@pytest.mark.parametrize("exp", LIGHT_TABLE)
def test_light_models_have_the_published_multiply_adds(exp: str) -> None:
    published, cfg = LIGHT_TABLE[exp]["published"]["gflops"], load_experiment(exp)
    assert round(published_light_count(exp) / 1e9, 1) == published

    num_frames, size = cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE
    ours = count_multiply_adds(partial(build_model, cfg), num_frames=num_frames, size=size)
    assert ours / 1e9 == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("exp", LIGHT_TABLE)
def test_light_models_have_the_published_parameters(exp: str) -> None:
    cfg = load_experiment(exp)
    with torch.device("meta"):
        num_parameters = count_parameters(build_model(cfg))
    xs = 16_099_552
    is_xs = cfg.UNIFORMER.DEPTH[0] == 3
    assert num_parameters == (xs if is_xs else LIGHT_PARAMETERS[cfg.MODEL.MODEL_NAME])
