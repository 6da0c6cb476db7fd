"""Freezing by patterns: what is frozen, that it stays so, and that it builds no graph."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from slowfast.config import default_cfg
from slowfast.engine.recompute import kept_tensors
from slowfast.models.depthwise import convolve
from slowfast.models.freezing import (
    find_problems,
    freeze,
    frozen_parameters,
    is_frozen,
    unfreeze,
)
from tests.models.tiny_uniformer import tiny_uniformer

RANDOM: dict[str, Any] = {"drop_path": 0.5, "dropout": 0.2, "attention_dropout": 0.2}
SHAPE = (2, 3, 4, 32, 32)


def training_modules(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if name and module.training}


def pickled(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


# ---- What is frozen --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "starts"),
    [
        (["patch_embed*"], ["patch_embed1", "patch_embed2", "patch_embed3", "patch_embed4"]),
        (["blocks[12]", "norm"], ["blocks1", "blocks2", "norm"]),
        (["blocks3.0.*"], ["blocks3.0"]),
        (["blocks3.0.attn.*"], ["blocks3.0.attn"]),
        (["blocks1.0.norm1.weight", "blocks1.0.norm1.bias"], ["blocks1.0.norm1"]),
        ([], []),
    ],
)
def test_patterns_freeze_modules_and_all_inside_them(
    patterns: list[str], starts: list[str]
) -> None:
    model = tiny_uniformer(depths=(1, 1, 2, 1))
    every = {name for name, _ in model.named_modules() if name}

    def is_inside(name: str) -> bool:
        return any(f"{name}.".startswith(f"{start}.") for start in starts)

    freeze(model, patterns)
    parameters = [name for name, _ in model.named_parameters()]
    assert frozen_parameters(model) == [name for name in parameters if is_inside(name)]
    assert training_modules(model.train()) == {name for name in every if not is_inside(name)}


def test_a_module_with_a_trained_weight_stays_in_training() -> None:
    model = tiny_uniformer()
    freeze(model, ["*.bias"])
    assert set(frozen_parameters(model)) == {
        name for name, _ in model.named_parameters() if name.endswith(".bias")
    }
    assert all(module.training for module in model.train().modules())


# ---- Evaluation mode -------------------------------------------------------------------------


def test_nothing_puts_a_frozen_module_into_training() -> None:
    model = tiny_uniformer()
    freeze(model, ["blocks1", "norm"])
    for name in ("blocks1.0.norm1", "blocks1"):
        model.get_submodule(name).train()
    for one in (model, nn.Sequential(model)[0], copy.deepcopy(model), pickled(model)):
        nn.Sequential(one).eval().train()
        frozen = {name for name, module in one.named_modules() if not module.training}
        assert frozen == {name for name, module in one.named_modules() if is_frozen(module)}
        assert {"blocks1", "blocks1.0.norm1", "blocks1.0.drop_path", "norm"} <= frozen
        assert one.get_submodule("blocks2.0.norm1").training
        assert not training_modules(one.eval())


def test_a_copy_is_frozen_apart_from_its_original() -> None:
    model = tiny_uniformer()
    freeze(model, ["blocks1"])
    unfrozen = copy.deepcopy(model)
    unfreeze(unfrozen, ["*"])
    assert not any(is_frozen(module) for module in unfrozen.train().modules())
    assert training_modules(model.train()) < training_modules(unfrozen)


def test_a_frozen_start_has_no_randomness_in_training() -> None:
    model = tiny_uniformer(**RANDOM)
    freeze(model, ["patch_embed1", "blocks1"])
    before = {name: buffer.clone() for name, buffer in model.blocks1.named_buffers()}
    frames = torch.randn(SHAPE)
    model.train()
    first, again = (model.blocks1[0](model.patch_embed1(frames)) for _ in range(2))
    assert torch.equal(first, again)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.blocks1.named_buffers())
    assert not torch.equal(model(frames), model(frames))


def test_a_module_added_inside_a_frozen_one_is_trained() -> None:
    model = tiny_uniformer()
    freeze(model, ["blocks1"])
    mlp, added = model.get_submodule("blocks1.0.mlp"), nn.Dropout(0.5)
    mlp.drop = added
    model.train()
    assert (added.training, mlp.training) == (True, False)
    model.eval()
    assert not added.training


def test_unfreezing_a_part_leaves_the_rest_frozen() -> None:
    model = tiny_uniformer(depths=(2, 1, 1, 1))
    freeze(model, ["*"])
    assert not training_modules(model.train())

    unfreeze(model, ["blocks1.1.norm*", "head"])
    assert {name.rsplit(".", 1)[0] for name, p in model.named_parameters() if p.requires_grad} == {
        "blocks1.1.norm1",
        "blocks1.1.norm2",
        "head",
    }
    trained = {"blocks1", "blocks1.1", "blocks1.1.norm1", "blocks1.1.norm2", "head"}
    assert training_modules(model.train()) == trained


# ---- Gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("recomputed", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_a_frozen_start_keeps_nothing_for_the_backward_pass(recomputed: tuple[int, ...]) -> None:
    model = tiny_uniformer(**RANDOM, recomputed=recomputed)
    starts = ["patch_embed1", "blocks1", "patch_embed2", "blocks2", "patch_embed3"]
    freeze(model, starts)
    kept_inside: list[int] = []

    with kept_tensors() as kept:
        model.patch_embed3.register_forward_hook(lambda *_: kept_inside.append(len(kept)))
        loss = model.train()(torch.randn(SHAPE)).sum()
    assert kept_inside == [0]
    assert len(kept) > 0

    loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in model.named_parameters() if p.requires_grad}


def gradients(model: nn.Module, frames: Tensor) -> dict[str, Tensor | None]:
    model(frames).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("recomputed", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_frozen_blocks_pass_on_the_gradients_of_a_whole_model(recomputed: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    whole = tiny_uniformer(drop_path=0.0, recomputed=recomputed)
    frozen = copy.deepcopy(whole)
    freeze(frozen, ["blocks2", "blocks3", "*.proj.bias"])
    frames = torch.randn(SHAPE)
    expected = gradients(whole.eval(), frames)
    found = gradients(frozen.eval(), frames)

    left_out = {name for name, gradient in found.items() if gradient is None}
    assert {"blocks2.0.attn.weight", "blocks3.0.attn.qkv.weight"} <= left_out
    assert left_out == {*frozen_parameters(frozen)}
    for name in expected.keys() - left_out:
        torch.testing.assert_close(found[name], expected[name], msg=name)


@pytest.mark.parametrize(("is_frozen", "num_kept"), [(True, 1), (False, 2)])
def test_kernels_keep_the_input_only_for_weight_gradients(is_frozen: bool, num_kept: int) -> None:
    with FakeTensorMode(), kept_tensors() as kept:
        x = torch.randn(1, 8, 2, 4, 4, requires_grad=True)
        weight = torch.randn(8, 1, 3, 3, 3, requires_grad=not is_frozen)
        bias = torch.randn(8, requires_grad=not is_frozen)
        y = convolve(x, weight, bias)
        assert len(kept) == num_kept

        [dx] = torch.autograd.grad(y, [x], torch.ones_like(y))
        assert dx.shape == x.shape
        kept.clear()
        convolve(x.detach(), weight, bias)
        assert len(kept) == (0 if is_frozen else num_kept)


# ---- Patterns that cannot be meant -----------------------------------------------------------


def test_a_pattern_without_a_match_is_an_error_with_near_names() -> None:
    model = tiny_uniformer()
    message = "'block1' matches no module or parameter of UniFormer. The nearest names are blocks1,"
    with pytest.raises(ValueError, match=message):
        freeze(model, ["blocks2", "block1"])
    assert not frozen_parameters(model)

    with pytest.raises(ValueError, match=r"'' matches no .* parts are patch_embed1, .*, head$"):
        freeze(model, [""])
    with pytest.raises(TypeError, match=r"the patterns are 'head'. Use a list, such as \['head'\]"):
        freeze(model, "head")


def problems_of(patterns: list[str], *, trains: bool = True) -> list[str]:
    cfg = default_cfg()
    cfg.MODEL.FREEZE = patterns
    cfg.TRAIN.ENABLE = trains
    return find_problems(cfg)


def test_the_config_is_checked_without_the_weights() -> None:
    assert problems_of([]) == []
    assert problems_of(["patch_embed*", "blocks1"]) == []
    first, second = problems_of(["blocks9", "stem"])
    assert first.startswith("MODEL.FREEZE: 'blocks9' matches no module or parameter of UniFormer.")
    assert second.startswith("MODEL.FREEZE: 'stem' matches no module")

    everything = ["[!h]*", "head"]
    [problem] = problems_of(everything)
    assert "leaves nothing to train. Leave out at least the last layer, head" in problem
    assert problems_of(everything, trains=False) == []
