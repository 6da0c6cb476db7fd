from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from slowfast.config import CfgNode, default_cfg
from slowfast.engine.build import build_optimizer
from slowfast.engine.optim import LOSSES, amp_dtype, autocast, lr_at, parameter_groups, set_lr
from slowfast.models.build import find_problems
from slowfast.models.uniformer import UniFormer


def cfg_with(**settings: Any) -> CfgNode:
    cfg = default_cfg()
    cfg.merge_from_list(
        [part for name, value in settings.items() for part in (name.replace("__", "."), value)]
    )
    return cfg


def test_learning_rates_equal_the_reference(reference: Callable[[str], Any]) -> None:
    for case in reference("lr_schedule"):
        cfg = cfg_with(
            **{key.replace(".", "__"): value for key, value in case["overrides"].items()}
        )
        for epoch, lr in case["epoch_lr"]:
            assert lr_at(cfg, epoch) == pytest.approx(lr, rel=1e-9, abs=1e-15)


def test_steps_with_relative_learning_rates_by_hand() -> None:
    cfg = cfg_with(
        SOLVER__LR_POLICY="steps_with_relative_lrs",
        SOLVER__BASE_LR=0.2,
        SOLVER__STEPS=[0, 10, 15],
        SOLVER__LRS=[1, 0.1, 0.01],
        SOLVER__WARMUP_EPOCHS=2.0,
        SOLVER__WARMUP_START_LR=0.1,
    )
    rates = [lr_at(cfg, epoch) for epoch in (0, 1, 2, 9.99, 10, 14.9, 15, 100)]
    assert rates == pytest.approx([0.1, 0.15, 0.2, 0.2, 0.02, 0.02, 0.002, 0.002])


def test_all_learning_rates_scale_with_the_machines() -> None:
    one = cfg_with(
        SOLVER__WARMUP_EPOCHS=5.0, SOLVER__WARMUP_START_LR=1e-6, SOLVER__COSINE_END_LR=1e-6
    )
    four = one.clone()
    four.merge_from_list(["NUM_SHARDS", 4, "SOLVER.BASE_LR_SCALE_NUM_SHARDS", True])
    for epoch in (0, 2.5, 5, 50, 99.9):
        assert lr_at(four, epoch) == pytest.approx(4 * lr_at(one, epoch))


def test_weight_decay_leaves_norms_and_biases_alone() -> None:
    model = UniFormer(num_classes=3, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), head_dim=8)
    groups = parameter_groups(model, weight_decay=0.05, norm_weight_decay=0.01, decay_1d=False)
    decay = {
        id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]
    }
    assert len(decay) == len(list(model.parameters()))
    for name, module in model.named_modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.BatchNorm3d):
                expected = 0.01
            elif isinstance(module, nn.LayerNorm) or parameter_name == "bias":
                expected = 0.0
            else:
                expected = 0.05
            assert decay[id(parameter)] == expected, f"{name}.{parameter_name}"


def test_without_the_exception_biases_decay_as_well() -> None:
    groups = parameter_groups(
        nn.Linear(2, 2), weight_decay=0.05, norm_weight_decay=0.0, decay_1d=True
    )
    assert [group["weight_decay"] for group in groups] == [0.05, 0.05]


@pytest.mark.parametrize(
    ("method", "kind"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)],
)
def test_the_optimizer_is_the_one_named_and_takes_a_new_rate(method: str, kind: type) -> None:
    optimizer = build_optimizer(cfg_with(SOLVER__OPTIMIZING_METHOD=method), nn.Linear(2, 2))
    assert type(optimizer) is kind
    set_lr(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}


def test_soft_and_hard_labels_give_the_same_loss_where_they_say_the_same() -> None:
    logits, label = torch.randn(4, 5), torch.tensor([0, 3, 1, 4])
    soft = torch.eye(5)[label]
    torch.testing.assert_close(
        LOSSES["soft_cross_entropy"](logits, soft), LOSSES["cross_entropy"](logits, label)
    )
    by_hand = -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(LOSSES["soft_cross_entropy"](logits, soft), by_hand)


@pytest.mark.parametrize(
    ("amp", "dtype"),
    [("off", None), ("auto", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_number_format_on_a_cpu(amp: str, dtype: torch.dtype | None) -> None:
    cpu = torch.device("cpu")
    assert amp_dtype(amp, cpu) is dtype
    with autocast(dtype, cpu):
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype is (dtype or torch.float32)


def test_layer_decay_lowers_the_rate_layer_by_layer_by_hand() -> None:
    # Seven blocks: the patch embedding is layer 0, the blocks are 1 to 7, and the head is 8.
    model = UniFormer(num_classes=3, dims=(8, 8, 16, 16), depths=(2, 1, 3, 1), head_dim=8)
    optimizer = build_optimizer(
        cfg_with(SOLVER__LAYER_DECAY=0.5, SOLVER__ZERO_WD_1D_PARAM=True), model
    )
    set_lr(optimizer, 2.56)
    groups = optimizer.param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decays = {
        id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]
    }
    found = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
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
    assert {name: found[name] for name in by_hand} == pytest.approx(by_hand)
    assert decays[id(model.head.weight)] == 0.05
    assert decays[id(model.head.bias)] == 0.0
    assert len(rates) == len(list(model.parameters()))


def test_without_layer_decay_there_are_three_groups_of_one_rate() -> None:
    model = UniFormer(num_classes=3, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), head_dim=8)
    optimizer = build_optimizer(cfg_with(), model)
    set_lr(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 0.1]


def test_layer_decay_of_a_model_whose_layers_are_not_known_is_refused() -> None:
    cfg = cfg_with(
        SOLVER__LAYER_DECAY=0.75,
        MODEL__MODEL_NAME="r3d_18",
        TRAIN__ENABLE=False,
        TEST__ENABLE=False,
    )
    message = "SOLVER.LAYER_DECAY is 0.75, but which layer of r3d_18 lies above which is not known; use 1.0"
    assert [problem for problem in find_problems(cfg) if problem.startswith(message)]
