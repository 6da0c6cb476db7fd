"""The optimizer and its parameter groups: weight decay and layer decay."""

import copy
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slowfast.config import CfgNode
from slowfast.engine.build import build_optimizer
from slowfast.engine.optim import make_optimizer, parameter_groups, set_lr
from slowfast.models.build import find_problems
from slowfast.models.uniformer import UniFormer

CfgWith = Callable[..., CfgNode]


def by_parameter(groups: Iterable[dict[str, Any]], key: str) -> dict[Tensor, float]:
    """Return an option of the groups by parameter."""
    return {parameter: group[key] for group in groups for parameter in group["params"]}


def test_weight_decay_leaves_norms_and_biases_alone() -> None:
    model = UniFormer(num_classes=3, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), head_dim=8)
    groups = parameter_groups(model, weight_decay=0.05, norm_weight_decay=0.01, decay_1d=False)
    decays = by_parameter(groups, "weight_decay")
    assert decays.keys() == set(model.parameters())

    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.BatchNorm3d):
            expected = 0.01
        elif isinstance(module, nn.LayerNorm) or name.endswith(".bias"):
            expected = 0.0
        else:
            expected = 0.05
        assert decays[parameter] == expected, name


def test_biases_can_decay_as_well() -> None:
    model = nn.Linear(2, 2)
    groups = parameter_groups(model, weight_decay=0.05, norm_weight_decay=0.0, decay_1d=True)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.05]


@pytest.mark.parametrize(
    ("method", "kind"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)],
)
def test_the_optimizer_has_its_name_and_takes_a_new_rate(
    cfg_with: CfgWith, method: str, kind: type
) -> None:
    optimizer = build_optimizer(cfg_with(SOLVER__OPTIMIZING_METHOD=method), nn.Linear(2, 2))
    assert type(optimizer).__bases__ == (kind,)
    set_lr(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("method", "kind"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)],
)
def test_updates_and_states_are_those_of_torch_to_the_bit(
    method: str, kind: Callable[..., Any], fused: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))
    expected = copy.deepcopy(model)
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.05}
    if method == "sgd":
        options |= {"momentum": 0.9, "nesterov": True}
    else:
        options |= {"betas": (0.9, 0.999), "eps": 1e-8, "fused": fused}
    optimizer = make_optimizer(
        method, [{"params": [*model.parameters()], "weight_decay": 0.05}], lr=0.1, fused=fused
    )
    oracle = kind(expected.parameters(), **options)

    for _ in range(3):
        inputs = torch.randn(8, 5)
        for each, updates in ((model, optimizer), (expected, oracle)):
            updates.zero_grad()
            each(inputs).square().mean().backward()
            updates.step()
        # Each continues from the state of the other one.
        state = copy.deepcopy(optimizer.state_dict())
        optimizer.load_state_dict(copy.deepcopy(oracle.state_dict()))
        oracle.load_state_dict(state)

    for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, wanted)
        assert found.requires_grad


def test_layer_decay_lowers_the_rate_layer_by_layer_by_hand(cfg_with: CfgWith) -> None:
    # Seven blocks: the patch embedding is layer 0, the blocks are 1 to 7, and the head is 8.
    model = UniFormer(num_classes=3, dims=(8, 8, 16, 16), depths=(2, 1, 3, 1), head_dim=8)
    cfg = cfg_with(SOLVER__LAYER_DECAY=0.5, SOLVER__ZERO_WD_1D_PARAM=True)
    optimizer = build_optimizer(cfg, model)
    set_lr(optimizer, 2.56)
    lrs = by_parameter(optimizer.param_groups, "lr")
    assert lrs.keys() == set(model.parameters())

    by_hand = {
        "patch_embed1.proj.weight": 0.01,  # 2.56 / 2 ** 8
        "blocks1.0.conv1.weight": 0.02,
        "blocks1.1.norm1.weight": 0.04,
        "patch_embed2.proj.bias": 0.08,
        "blocks2.0.attn.weight": 0.08,
        "patch_embed3.norm.weight": 0.16,
        "blocks3.0.attn.qkv.weight": 0.16,
        "blocks3.2.mlp.fc2.bias": 0.64,
        "patch_embed4.proj.weight": 1.28,
        "blocks4.0.pos_embed.weight": 1.28,
        "norm.weight": 2.56,
        "head.bias": 2.56,
    }
    found = {name: lrs[model.get_parameter(name)] for name in by_hand}
    assert found == pytest.approx(by_hand)

    decays = by_parameter(optimizer.param_groups, "weight_decay")
    assert decays[model.head.weight] == 0.05
    assert decays[model.head.bias] == 0.0


def test_without_layer_decay_there_are_three_groups_of_one_rate(cfg_with: CfgWith) -> None:
    model = UniFormer(num_classes=3, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), head_dim=8)
    optimizer = build_optimizer(cfg_with(), model)
    set_lr(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 0.1]


def test_layer_decay_needs_a_model_with_known_layers(cfg_with: CfgWith) -> None:
    cfg = cfg_with(
        SOLVER__LAYER_DECAY=0.75,
        MODEL__MODEL_NAME="r3d_18",
        TRAIN__ENABLE=False,
        TEST__ENABLE=False,
    )
    pattern = r"SOLVER\.LAYER_DECAY is 0\.75, but .* of r3d_18 .*\b[uU]se 1\.0"
    assert any(re.match(pattern, problem) for problem in find_problems(cfg))
