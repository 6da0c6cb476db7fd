"""DATA.UINT8: batches of uint8 differ from batches of float32 by rounding alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slowfast.config import CfgNode
from slowfast.datasets.boxes import Box
from slowfast.datasets.build import build_loader, build_normalize
from slowfast.datasets.normalization import Normalize, Uint8Clips
from slowfast.datasets.records import Unfilled
from slowfast.datasets.resize import resize_into
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from tests.engine.outputs import read_logits

TinyCfg = Callable[..., CfgNode]
HALF_A_LEVEL = 0.5 / 255 / 0.225  # of a normalized pixel


def test_a_resized_pixel_is_rounded_by_hand() -> None:
    planes = np.array([[[[10, 13, 255, 255]]]], dtype=np.uint8).repeat(3, axis=0)
    out = torch.empty(3, 1, 1, 8, dtype=torch.uint8)
    scaling = Uint8Clips().scaling
    resize_into(out, planes, size=(1, 8), window=Box(0, 0, 1, 8), scaling=scaling)

    # The weights are a quarter and three quarters: 10.75, 12.25, 73.5, 194.5.
    assert out[0, 0, 0].tolist() == [10, 11, 12, 74, 195, 255, 255, 255]


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_batches_differ_by_rounding_alone(tiny_cfg: TinyCfg, split: str, mode: str) -> None:
    settings: dict[str, Any] = {
        "AUG__ENABLE": True,
        "AUG__RE_PROB": 0.7,
        "AUG__RE_COUNT": 2,
        "AUG__NUM_SAMPLE": 2,
    }
    batches = {}
    for as_uint8 in (False, True):
        cfg = tiny_cfg(DATA__UINT8=as_uint8, AUG__RE_MODE=mode, **settings)
        batches[as_uint8] = next(iter(build_loader(cfg, split)))

    plain, rounded = batches[False], batches[True]
    assert rounded.frames.nbytes * 4 == plain.frames.nbytes
    assert rounded.labels.tolist() == plain.labels.tolist()
    assert not plain.unfilled
    frames = build_normalize(cfg)(rounded.frames, rounded.unfilled)
    torch.testing.assert_close(frames, plain.frames, rtol=0, atol=HALF_A_LEVEL + 1e-5)

    if split == "train":
        assert 4 < len(rounded.unfilled) < 16
    for clip, boxes, _ in rounded.unfilled:
        for box in boxes:
            rows, columns = box.slices
            erased = frames[clip, :, :, rows, columns]
            assert torch.equal(erased, plain.frames[clip, :, :, rows, columns])


def test_noise_has_mean_0_and_std_1_after_normalization() -> None:
    normalize = Normalize(mean=[0.45] * 3, std=[0.225] * 3, erase_mode="pixel")
    frames = torch.full((2, 3, 4, 64, 64), 255, dtype=torch.uint8)
    clips = normalize(frames, [Unfilled(1, [Box(0, 0, 64, 32)], seed=3)])

    noise = clips[1, :, :, :, :32]
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert noise.abs().max() > 3  # out of the range of pixels

    assert torch.equal(clips[0], clips[0, :, :, :1, :1].expand(3, 4, 64, 64))
    assert clips[0, 0, 0, 0, 0].item() == pytest.approx((1 - 0.45) / 0.225)


def test_float_batches_pass_unchanged() -> None:
    frames = torch.randn(1, 3, 1, 2, 2)
    assert Normalize(mean=[0.45] * 3, std=[0.225] * 3, erase_mode="pixel")(frames) is frames


def test_a_run_on_uint8_scores_almost_as_one_on_float32(tiny_cfg: TinyCfg) -> None:
    settings = {"DATA_LOADER__NUM_WORKERS": 1, "AUG__ENABLE": True, "BN__USE_PRECISE_STATS": True}
    trained = tiny_cfg(DATA__UINT8=True, **settings)
    train(trained)

    scores = []
    for as_uint8 in (False, True):
        evaluate(tiny_cfg(DATA__UINT8=as_uint8))
        scores.append(read_logits(Path(trained.OUTPUT_DIR)))
    np.testing.assert_allclose(scores[1], scores[0], atol=0.01)
    assert not np.array_equal(scores[1], scores[0])
