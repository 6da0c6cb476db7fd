"""Heads pool tokens and classify them, by themselves and in the model."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slowfast.models.heads import HEADS, AttentionPool, build_head
from slowfast.models.uniformer import layer_numbers
from slowfast.models.weights import head_names
from tests.models.tiny_uniformer import tiny_uniformer


@pytest.mark.parametrize("dim", [24, 128])
def test_attentive_pooling_equals_a_loop_over_its_heads(dim: int) -> None:
    torch.manual_seed(0)
    pool = AttentionPool(dim)
    for parameter in pool.parameters():
        nn.init.normal_(parameter, std=0.3)
    tokens = torch.randn(2, 7, dim)

    # Oracle: one clip, one attention head and one token at a time.
    num_heads = 2 if dim == 128 else 1
    size = dim // num_heads
    expected = []
    for clip in tokens:
        normed = F.layer_norm(clip, (dim,), pool.norm1.weight, pool.norm1.bias, 1e-6)
        keys, values = pool.kv(normed).chunk(2, dim=1)
        query = pool.q(pool.query)
        mixed = []
        for start in range(0, dim, size):
            part = slice(start, start + size)
            scores = torch.stack([query[part] @ key[part] / math.sqrt(size) for key in keys])
            mixed.append(scores.softmax(dim=0) @ values[:, part])
        x = pool.query + pool.proj(torch.cat(mixed))
        normed = F.layer_norm(x, (dim,), pool.norm2.weight, pool.norm2.bias, 1e-6)
        expected.append(x + pool.mlp.fc2(F.gelu(pool.mlp.fc1(normed))))
    torch.testing.assert_close(pool(tokens), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_linear_and_mlp_heads_classify_the_mean_by_hand() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])  # The mean is (2, 4).
    linear: Any = build_head("linear", num_features=2, num_classes=1)
    mlp: Any = build_head("mlp", num_features=2, num_classes=1)
    with torch.no_grad():
        linear.head.weight.copy_(torch.tensor([[1.0, -1.0]]))
        mlp.head.fc1.weight.copy_(torch.eye(2))
        mlp.head.fc2.weight.copy_(torch.tensor([[1.0, -1.0]]))
    assert linear(tokens).item() == -2
    gelu = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in (2.0, 4.0)]
    assert mlp(tokens).item() == pytest.approx(gelu[0] - gelu[1], rel=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_of_its_own_fits_into_the_model(kind: str) -> None:
    torch.manual_seed(0)
    model = tiny_uniformer(head=kind).eval()
    head = build_head(kind, num_features=model.num_features, num_classes=5).eval()
    frames = torch.randn(2, 3, 4, 64, 64)
    with torch.no_grad():
        volume = model.forward_features(frames)
        tokens = volume.flatten(2).transpose(1, 2)
        assert not torch.equal(head(tokens), model(frames))

        model.load_state_dict(model.state_dict() | head.state_dict())
        torch.testing.assert_close(head(tokens), model(frames), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_the_last_layer_of_every_head_has_a_row_per_class(kind: str) -> None:
    model = tiny_uniformer(head=kind, num_classes=7)
    names = head_names(model)
    assert [len(model.get_parameter(name)) for name in names] == [7, 7]
    assert names == (["head.fc2.weight", "head.fc2.bias"] if kind == "mlp" else [*names])

    numbers = layer_numbers(model)
    top = {name for name, number in numbers.items() if number == max(numbers.values())}
    own = {name for name in numbers if name.startswith(("norm.", "pool.", "head."))}
    assert top == own
    assert any(name.startswith("pool.") for name in own) == (kind == "attentive")


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_reach_all_weights_of_a_head(kind: str) -> None:
    model = tiny_uniformer(head=kind, drop_path=0.0).train()
    F.cross_entropy(model(torch.randn(2, 3, 4, 32, 32)), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no head 'conv'\. Choose one of: linear, mlp, attentive"):
        build_head("conv", num_features=4, num_classes=2)
    with pytest.raises(ValueError, match="no head 'conv'"):
        tiny_uniformer(head="conv")
