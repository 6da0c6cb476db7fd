"""UniFormer computes what the plain formulation does, its gradients included."""

from statistics import median
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_uniformer import PlainUniFormer, attend_fused, attend_materialized
from slowfast.models.uniformer import UniFormer

SMALL: dict[str, Any] = {
    "num_classes": 5,
    "dims": (16, 32, 64, 128),
    "depths": (2, 1, 2, 1),
    "head_dim": 64,
    "drop_path": 0.0,
}
LOGITS_LIMIT, GRADIENTS_LIMIT = 1e-5, 1e-4  # Relative errors.


def make_pair() -> tuple[UniFormer, PlainUniFormer]:
    """Our model in float32 and the plain one in float64, with the same weights."""
    torch.manual_seed(0)
    ours = UniFormer(**SMALL)
    for name, parameter in ours.named_parameters():
        if parameter.dim() == 1:  # Norms and biases start as the identity, which hides errors.
            nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.1)
    for buffer_name, buffer in ours.named_buffers():
        if "running" in buffer_name:
            nn.init.uniform_(buffer, 0.5, 1.5)

    plain = PlainUniFormer(attend=attend_materialized, **SMALL).double()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def backward(model: nn.Module, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits of a model, and the gradients of its parameters by name."""
    logits = model(frames)
    F.cross_entropy(logits, torch.arange(len(frames))).backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradients[name] = parameter.grad.double()
    return logits.detach().double(), gradients


def distance(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).norm() / expected.norm())


def norms(gradients: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(gradient.norm()) for name, gradient in gradients.items()}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    "shape",
    [(2, 3, 4, 64, 64), (2, 3, 5, 70, 97), (2, 3, 3, 33, 64), (3, 3, 1, 64, 32)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_logits_and_gradients_are_those_of_plain(shape: tuple[int, ...], training: bool) -> None:
    ours, plain = make_pair()
    frames = torch.randn(shape)
    logits, gradients = backward(ours.train(training), frames)
    expected_logits, expected = backward(plain.train(training), frames.double())

    assert distance(logits, expected_logits) < LOGITS_LIMIT
    expected_norms = norms(expected)
    floor = median(expected_norms.values())  # The true gradient of some tensors is about 0.
    for name, gradient in gradients.items():
        error = float((gradient - expected[name]).norm())
        assert error < GRADIENTS_LIMIT * max(expected_norms[name], floor), name


@pytest.mark.parametrize("shape", [(1, 3, 4, 64, 64), (1, 3, 4, 32, 32), (1, 3, 8, 70, 97)])
def test_gradients_of_one_clip_below_the_last_norm_are_0(shape: tuple[int, ...]) -> None:
    # The last BatchNorm normalizes each channel over the positions of the clip, whose mean is then
    # its bias whatever the input. The backward pass of torch is wrong on a CPU if the batch stride
    # of the input is not C*T*H*W, as after tokens.transpose(1, 2).reshape(B, C, T, H, W).
    ours, plain = make_pair()
    frames = torch.randn(shape)
    logits, gradients = backward(ours.train(), frames)
    expected_logits, expected = backward(plain.train(), frames.double())

    assert distance(logits, expected_logits) < LOGITS_LIMIT
    largest = max(norms(expected).values())
    reached = {name for name, norm in norms(expected).items() if norm > 1e-9 * largest}
    assert reached == {"norm.bias", "head.weight", "head.bias"}
    # The norm of pure rounding: of 655,360 values of 1e-7 in the largest weight.
    for name, gradient in gradients.items():
        assert float((gradient - expected[name]).norm()) < 2 * GRADIENTS_LIMIT * largest, name


def test_gradients_of_one_clip_are_those_of_plain_in_evaluation() -> None:
    ours, plain = make_pair()
    frames = torch.randn(1, 3, 4, 64, 64)
    logits, gradients = backward(ours.eval(), frames)
    expected_logits, expected = backward(plain.eval(), frames.double())

    assert distance(logits, expected_logits) < LOGITS_LIMIT
    for name, norm in norms(expected).items():
        assert norm > 0
        assert float((gradients[name] - expected[name]).norm()) < GRADIENTS_LIMIT * norm, name


def test_both_attentions_of_plain_are_the_same() -> None:
    q, k, v = torch.randn(3, 2, 4, 30, 64, dtype=torch.float64)
    torch.testing.assert_close(attend_materialized(q, k, v), attend_fused(q, k, v))
