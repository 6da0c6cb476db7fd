"""Explanations: maps on the frames they come from, checks, and a model that stays as it is."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import slowfast
from slowfast.datasets.boxes import Box
from slowfast.datasets.build import build_normalize
from slowfast.datasets.build_clips import build_clip_reader
from slowfast.datasets.records import DecodeError
from slowfast.explanation.attention_rollout import attention_rollout
from slowfast.explanation.curves import trace_curves
from slowfast.explanation.frame_maps import FrameMaps, ViewMap
from slowfast.explanation.grad_cam import grad_cam
from slowfast.explanation.methods import choose_method
from slowfast.explanation.token_scores import token_scores
from slowfast.inference.classifier import Classifier
from slowfast.inference.clip_settings import build_clip_settings
from slowfast.inference.view_reader import ViewReader
from slowfast.models.pruned_blocks import PrunedSABlock
from slowfast.models.uniformer import UniFormer
from slowfast.models.uniformer_light import UniFormerLight

TINY: dict[str, Any] = {
    "num_classes": 4,
    "dims": (8, 8, 16, 16),
    "depths": (1, 1, 1, 1),
    "head_dim": 8,
}


def build_tiny(**settings: Any) -> UniFormer:
    torch.manual_seed(0)
    return UniFormer(**{**TINY, **settings}).eval()


def random_frames(side: int = 64) -> torch.Tensor:
    return torch.randn(1, 3, 4, side, side, generator=torch.Generator().manual_seed(1))


# ---- Back onto the frames ----------------------------------------------------------------------


def test_a_hot_cell_lands_on_the_pixels_it_came_from() -> None:
    # Frames of 20x40 become 10x20. The crop has columns 10 to 19, so columns 20 to 39 of a frame.
    # A cell is 5 pixels of the crop, 10 of a frame: cell (0, 1) has its center at row 5, column 35.
    values = np.zeros((1, 2, 2), np.float32)
    values[0, 0, 1] = 1
    view = ViewMap(values, np.array([3, 5]), (10, 20), Box(0, 10, 10, 10))
    maps = FrameMaps([view], num_frames=8, height=20, width=40)

    heat, counts = maps.frame(3)
    # Column 34 is at 34.5 pixels, 0.05 of the way to the left center, 25.
    np.testing.assert_allclose(heat[4, [34, 36, 39]], [0.95, 1, 1], atol=1e-6)
    np.testing.assert_allclose(heat[[4, 16, 16], [24, 24, 36]], 0, atol=1e-6)
    # Row 9 is at 9.5 pixels, 0.45 of the way from the upper center, 5, to the lower one, 15.
    assert heat[9, 36] == pytest.approx(0.55)
    assert (counts[:, 20:] == 1).all()
    assert (counts[:, :20] == 0).all()
    assert (heat[:, :20] == 0).all()


def test_a_frame_that_no_view_shows_is_not_seen() -> None:
    view = ViewMap(np.ones((1, 2, 2), np.float32), np.array([3, 5]), (8, 8), Box(0, 0, 8, 8))
    maps = FrameMaps([view], num_frames=8, height=8, width=8)
    assert [number for number in range(8) if maps.frame(number)[1].any()] == [3, 5]
    assert maps.seen_numbers.tolist() == [3, 5]


def test_the_time_of_a_hot_cell_is_that_of_its_frames() -> None:
    # Two cells for four frames: frames 0 and 3 are outside of both centers, 1 and 2 in between.
    values = np.zeros((2, 1, 1), np.float32)
    values[1] = 1
    view = ViewMap(values, np.array([10, 20, 30, 40]), (4, 4), Box(0, 0, 4, 4))
    maps = FrameMaps([view], num_frames=50, height=4, width=4)
    heats = [float(maps.frame(number)[0].mean()) for number in (10, 20, 30, 40)]
    assert heats == pytest.approx([0, 0.25, 0.75, 1])


def test_overlapping_views_are_averaged_by_how_often_they_see() -> None:
    # Columns 0 to 7 and 4 to 11. The values 1 and 3 meet in columns 4 to 7, whose mean is 2.
    def view(value: float, left: int) -> ViewMap:
        values = np.full((1, 1, 1), value, np.float32)
        return ViewMap(values, np.array([0, 0]), (8, 12), Box(0, left, 8, 8))

    heat, counts = FrameMaps([view(1, 0), view(3, 4)], num_frames=1, height=8, width=12).frame(0)
    np.testing.assert_allclose(heat[0], [0] * 4 + [0.5] * 4 + [1] * 4)
    np.testing.assert_array_equal(
        counts[0], [2] * 4 + [4] * 4 + [2] * 4
    )  # the frame is there twice


# ---- Methods -----------------------------------------------------------------------------------


class Linear(nn.Module):
    """Its only stage is the frames, and the logit of class k is the sum of channel k."""

    def forward_stages(self, frames: torch.Tensor) -> list[torch.Tensor]:
        return [frames]

    def forward_features(self, frames: torch.Tensor) -> torch.Tensor:
        return self.forward_stages(frames)[-1]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x.sum(dim=(2, 3, 4))


def test_grad_cam_of_a_linear_model_is_the_channel_by_hand() -> None:
    frames = random_frames(8)
    evidence, stage = grad_cam(Linear(), frames, target=2)
    torch.testing.assert_close(evidence, frames[0, 2].relu())
    assert stage == 1


def test_grad_cam_takes_the_last_stage_of_four_rows() -> None:
    # Crops of 64 have stages of 16, 8, 4 and 2 rows.
    evidence, stage = grad_cam(build_tiny(), random_frames(), target=1)
    assert (stage, tuple(evidence.shape)) == (3, (2, 4, 4))
    assert tuple(grad_cam(build_tiny(), random_frames(), target=1, stage=1)[0].shape) == (2, 16, 16)


def explicit_rollout(model: UniFormer, frames: torch.Tensor, *, target: int) -> torch.Tensor:
    """Roll back through two blocks with whole matrices, whose gradients come from autograd."""
    matrices: list[torch.Tensor] = []
    for stage in (model.blocks3, model.blocks4):
        block: Any = stage[0]
        attention = block.attn

        def attend(q: Any, k: Any, v: Any, scale: float = attention.head_dim**-0.5) -> Any:
            matrices.append((scale * q @ k.transpose(2, 3)).softmax(-1))
            return matrices[-1] @ v

        attention.attend = attend
    gradients = torch.autograd.grad(model(frames)[0, target], matrices)

    weights = [
        (matrix * gradient).clamp(min=0).sum(dim=1)[0].detach()
        for matrix, gradient in zip(matrices, gradients, strict=True)
    ]
    relevance = torch.full((8,), 1 / 8)
    drawn = relevance @ weights[1]
    relevance = (relevance + drawn / drawn.sum()) / 2
    relevance = relevance.view(2, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
    drawn = relevance.flatten() @ weights[0]
    return (relevance + (drawn / drawn.sum()).view(2, 4, 4)) / 2


def test_rollout_equals_the_one_with_whole_matrices() -> None:
    frames = random_frames()
    rolled = attention_rollout(build_tiny(), frames, target=2)
    torch.testing.assert_close(rolled, explicit_rollout(build_tiny(), frames, target=2))


def test_rollout_keeps_the_sum_in_split_blocks_too() -> None:
    rolled = attention_rollout(build_tiny(split=True), random_frames(), target=2)
    assert tuple(rolled.shape) == (2, 4, 4)
    assert float(rolled.sum()) == pytest.approx(1, abs=1e-5)
    assert rolled.min() >= 0


def test_the_scores_of_a_light_model_are_its_class_attention() -> None:
    torch.manual_seed(0)
    model = UniFormerLight(**TINY, keep_ratios=((), (), (1,), (0.5,)), trade_offs=((),) * 4).eval()
    found: list[torch.Tensor] = []
    blocks = [module for module in model.modules() if isinstance(module, PrunedSABlock)]
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, output: found.append(output[2][0]))
    scores = token_scores(model, random_frames())

    first, second = (score / score.sum() for score in found)
    finer = second.view(2, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
    torch.testing.assert_close(scores, (first.view(2, 4, 4) + finer) / 2)


@pytest.mark.parametrize("name", ["r3d_18", "mvit_v2_s"])
def test_baselines_are_explained_by_grad_cam(name: str) -> None:
    model = slowfast.create_model(name, num_classes=4, num_frames=4, crop_size=64).eval()
    assert choose_method(model) == "grad-cam"
    evidence, stage = grad_cam(model, random_frames(), target=0)
    # MViT classifies its class token, so the patches of its last stage have no gradient.
    assert stage == {"r3d_18": 4, "mvit_v2_s": 3}[name]
    assert tuple(evidence.shape[1:]) == (4, 4)


def test_the_method_is_chosen_by_what_the_model_has() -> None:
    assert choose_method(build_tiny()) == "rollout"
    assert choose_method(build_tiny(), stage=2) == "grad-cam"
    assert choose_method(UniFormerLight(**TINY)) == "scores"
    assert choose_method(Linear()) == "grad-cam"
    with pytest.raises(ValueError, match=r"scores does not suit .* Use rollout or grad-cam"):
        choose_method(build_tiny(), "scores")
    with pytest.raises(ValueError, match=r"forward_stages, .*docs/extend.md"):
        choose_method(nn.Linear(2, 2))


# ---- Curves ------------------------------------------------------------------------------------


def test_deletion_blurs_the_hottest_pixels_first() -> None:
    # The "probability" is the share of the left half that is as it was, and the left is hot.
    view = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    values = np.array([[[1.0, 0.0]]], np.float32)
    origin = ViewMap(values, np.array([0, 1]), (8, 8), Box(0, 0, 8, 8))
    maps = FrameMaps([origin], num_frames=2, height=8, width=8)

    def share(versions: Any) -> np.ndarray:
        (of_view,) = versions
        is_left = (of_view == view)[..., :4].all(dim=1)
        return is_left.double().mean(dim=(1, 2, 3)).numpy()

    curves = trace_curves(view[None], maps, probability=share, num_steps=4, order="frame")
    np.testing.assert_allclose(curves.deletion["map"], [1, 0.5, 0, 0, 0])
    np.testing.assert_allclose(curves.insertion["map"], [0, 0.5, 1, 1, 1])
    # By hand: (1 + 0.5) / 2 and 0.5 / 2, and two steps of 0, over four steps.
    assert curves.area("deletion", "map") == pytest.approx(0.25)
    assert curves.area("deletion", "map") < curves.area("deletion", "gaussian")


# ---- Classifier --------------------------------------------------------------------------------


@pytest.fixture
def explained(tiny_cfg: Callable[..., Any], motion_folder: Path) -> Classifier:
    """A classifier of tiny random weights, two clips of three crops."""
    cfg = tiny_cfg(DATA__TEST_CROP_SIZE=64, TEST__NUM_SPATIAL_CROPS=3)
    names = (motion_folder / "classes.txt").read_text().split()
    settings = build_clip_settings(cfg)
    reader = ViewReader(build_clip_reader(cfg, "test"), settings)
    model = build_tiny(num_classes=len(names))
    return Classifier(model, reader, build_normalize(cfg), class_names=names, settings=settings)


@pytest.fixture
def video(motion_folder: Path) -> Path:
    """A video of 32 frames of 64x80 pixels."""
    return motion_folder / "test/left_0000.mp4"


def test_an_explanation_has_the_scores_of_the_prediction(
    explained: Classifier, video: Path
) -> None:
    prediction = explained.predict(video)
    explanation = explained.explain(video, num_steps=2)
    np.testing.assert_allclose(explanation.probabilities, prediction.probabilities, atol=1e-6)
    assert explanation.label == prediction.label
    assert explanation.map.shape == (32, 64, 80)
    assert (explanation.map.min(), explanation.map.max()) == (0, 1)
    assert explanation.counts[0].max() == 3  # three crops of 64 columns of 80 share the middle
    assert explanation.curves is not None
    # Nothing deleted is the prediction, and all deleted is nothing inserted.
    curves = explanation.curves
    assert curves.deletion["map"][0] == pytest.approx(prediction.probability, abs=1e-6)
    assert curves.deletion["map"][-1] == pytest.approx(curves.insertion["map"][0], abs=1e-6)


def test_the_file_holds_the_map_and_all_numbers(
    explained: Classifier, video: Path, tmp_path: Path
) -> None:
    explanation = explained.explain(video, target="up", num_steps=2)
    explanation.save(tmp_path / "map.npz")
    with np.load(tmp_path / "map.npz") as arrays:
        np.testing.assert_allclose(arrays["map"], explanation.map, atol=1e-3)
        np.testing.assert_array_equal(arrays["counts"], explanation.counts)
        assert arrays["class_names"][arrays["target"]] == "up"
        assert arrays["deletion_gaussian"].shape == (3,)
        assert explanation.curves is not None
        area = explanation.curves.area("insertion", "random")
        assert arrays["insertion_random_area"] == pytest.approx(area)


@pytest.mark.parametrize("method", ["rollout", "grad-cam"])
def test_the_model_stays_as_it_was(explained: Classifier, video: Path, method: str) -> None:
    model = explained.model
    frozen = next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        explained.explain(video, method=method, num_steps=0)

    assert not frozen.requires_grad
    assert sum(not parameter.requires_grad for parameter in model.parameters()) == 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


def test_nothing_stays_behind_after_an_error(explained: Classifier, video: Path) -> None:
    model: Any = explained.model
    model.head.register_forward_hook(lambda *arguments: 1 / 0)
    methods: tuple[Any, ...] = (attention_rollout, grad_cam)
    for method in methods:
        with pytest.raises(ZeroDivisionError):
            explained.apply_with_gradient(partial(method, target=0), random_frames())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert "forward_stages" not in vars(model)
    assert all(not module._forward_hooks for module in model.modules() if module is not model.head)
    assert all("attend" not in vars(module) for module in model.modules())


def test_wrong_arguments_are_named(explained: Classifier, video: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no class 'lefd'\. The nearest are left"):
        explained.explain(video, target="lefd")
    with pytest.raises(ValueError, match=r"target is 8\. Use a class from 0 to 7"):
        explained.explain(video, target=8)
    with pytest.raises(ValueError, match="stage is 5, but the model has stages 1 to 4"):
        explained.explain(video, stage=5)
    with pytest.raises(ValueError, match="order is 'video'"):
        explained.explain(video, order="video")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError, match=r"broken\.mp4"):
        explained.explain(tmp_path / "broken.mp4")
    assert math.isfinite(explained.explain(video, num_steps=0).probability)
