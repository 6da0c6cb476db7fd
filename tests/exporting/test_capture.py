"""Capture: models that cannot be exported say why."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slowfast.exporting.capture import ExportOptions, NotExportableError, capture
from slowfast.exporting.formats import export_model
from slowfast.inference.classifier import Classifier
from slowfast.models.heads import AttentionPool
from tests.exporting.conftest import with_model


@torch.library.custom_op("slowfast_tests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    return x**3


@cube.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class _Means(nn.Module):
    """A model of eight means of each clip."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 8)

    def forward(self, frames: Tensor) -> Any:
        return self.fc(frames.mean(dim=(2, 3, 4)))


class Branching(_Means):
    def forward(self, frames: Tensor) -> Any:
        logits = super().forward(frames)
        return logits if logits.sum() > 0 else -logits


class ClipByClip(_Means):
    def forward(self, frames: Tensor) -> Any:
        means = super().forward
        return torch.cat([means(frames[row : row + 1]) for row in range(len(frames))])


class Pair(_Means):
    def forward(self, frames: Tensor) -> Any:
        return super().forward(frames), frames


class OneShort(_Means):
    def forward(self, frames: Tensor) -> Any:
        return super().forward(frames)[:, :7]


class InNumpy(_Means):
    def forward(self, frames: Tensor) -> Any:
        return torch.from_numpy(np.tanh(super().forward(frames).numpy()))


class OneSize(_Means):
    def forward(self, frames: Tensor) -> Any:
        return super().forward(frames + torch.zeros(32, 64))


class Cubed(_Means):
    def forward(self, frames: Tensor) -> Any:
        return cube(super().forward(frames))


class Attentive(_Means):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.out = AttentionPool(3), nn.Linear(3, 8)

    def forward(self, frames: Tensor) -> Any:
        return self.out(self.pool(frames.flatten(2).transpose(1, 2)))


@pytest.mark.parametrize(
    ("model", "any_size", "reason"),
    [
        (Branching, False, "it branches on the values of a tensor"),
        (ClipByClip, False, "it computes with one batch size only"),
        (Pair, False, "it returns 2 values of the shapes"),
        (OneShort, False, "it returns 7 logits for 8 classes"),
        (InNumpy, False, r"RuntimeError: .*numpy"),
        (OneSize, True, "it takes frames of one size only. Leave out --any-size"),
    ],
)
def test_a_model_that_cannot_be_exported_says_why(
    classifier: Classifier, model: type[nn.Module], any_size: bool, reason: str
) -> None:
    with pytest.raises(
        NotExportableError, match=f"^{model.__name__} cannot be exported: {reason}[^\n]*$"
    ):
        capture(with_model(classifier, model()), ExportOptions(any_size=any_size))


def test_an_operator_that_onnx_lacks_is_named(classifier: Classifier) -> None:
    message = r"cannot be exported to ONNX: [^\n]*slowfast_tests.cube[^\n]*Use --format pt2$"
    with pytest.raises(NotExportableError, match=message):
        export_model(with_model(classifier, Cubed()), "onnx")


def test_an_attentive_head_takes_any_batch(classifier: Classifier) -> None:
    model = Attentive().eval()
    program = capture(with_model(classifier, model), ExportOptions())
    frames = torch.randn(5, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(program.module()(frames), model(frames))
