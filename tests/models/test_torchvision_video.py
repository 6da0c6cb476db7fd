"""The baselines are torchvision's models, whole: its names, sizes, weights, clips and costs."""

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import get_model, get_model_weights, list_models, video

from slowfast.config import CfgNode, default_cfg, find_problems, load_cfg
from slowfast.datasets.build import build_loader
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from slowfast.models import build as models
from slowfast.models.build import build_model, count_multiply_adds, count_parameters
from slowfast.models.torchvision_video import NAMES, build_mvit
from slowfast.models.weights import load_weights
from slowfast.models.zoo import published, published_class_names
from slowfast.utils.checkpoint import load_checkpoint, newest_checkpoint

BASELINES = [
    "mc3_18",
    "mvit_v1_b",
    "mvit_v2_s",
    "r2plus1d_18",
    "r3d_18",
    "s3d",
    "swin3d_b",
    "swin3d_s",
    "swin3d_t",
]


def meta_of(name: str) -> dict[str, Any]:
    return get_model_weights(name).DEFAULT.meta


@pytest.fixture
def cfg_of(repository: Path) -> Callable[..., CfgNode]:
    """The config file of a baseline, to train it from random weights, with overrides."""

    def load(name: str, *overrides: str) -> CfgNode:
        checks = [find_problems, models.find_problems]
        return load_cfg(
            str(repository / f"configs/models/{name}.yaml"),
            ["TEST.ENABLE", "False", *overrides],
            checks=checks,
        )

    return load


def test_all_video_models_of_torchvision_are_there() -> None:
    assert sorted(NAMES) == sorted(list_models(video)) == BASELINES
    assert list(models.MODELS) == ["Uniformer", *NAMES]


@pytest.mark.parametrize("name", BASELINES)
def test_parameters_equal_those_that_torchvision_publishes(
    name: str, cfg_of: Callable[..., CfgNode]
) -> None:
    with torch.device("meta"):
        model = build_model(cfg_of(name))
    assert count_parameters(model) == meta_of(name)["num_params"]


@pytest.mark.parametrize("name", BASELINES)
def test_multiply_adds_are_those_that_torchvision_publishes_and_the_norms(
    name: str, cfg_of: Callable[..., CfgNode]
) -> None:
    # torchvision counts no norms, and 16 frames whatever the accuracy was measured with: 32 for Swin, 128 for S3D.
    size = 112 if name.endswith("_18") else 224
    giga = (
        count_multiply_adds(cfg_of(name, "DATA.NUM_FRAMES", "16"), num_frames=16, size=size) / 1e9
    )
    norms = 0.012 if name.endswith("_18") or name == "s3d" else 0.006
    assert meta_of(name)["_ops"] < giga < (1 + norms) * meta_of(name)["_ops"]


@pytest.mark.parametrize("name", BASELINES)
def test_the_config_takes_the_clips_that_torchvision_measured_with(
    name: str, cfg_of: Callable[..., CfgNode]
) -> None:
    cfg, weights = cfg_of(name), get_model_weights(name).DEFAULT
    view = weights.transforms()
    assert [cfg.DATA.TEST_CROP_SIZE] * 2 == [cfg.DATA.TRAIN_CROP_SIZE] * 2 == view.crop_size
    assert min(view.resize_size) == cfg.DATA.TEST_SHORT_SIDE
    assert (view.mean, view.std) == (cfg.DATA.MEAN, cfg.DATA.STD)
    measured = dict(re.findall(r"`(\w+)=([\d.]+)`", weights.meta["_docs"]))
    assert float(measured["frame_rate"]) == cfg.DATA.TARGET_FPS
    assert (int(measured["clip_len"]), 1) == (cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE)
    assert (int(measured["clips_per_video"]), 1) == (
        cfg.TEST.NUM_ENSEMBLE_VIEWS,
        cfg.TEST.NUM_SPATIAL_CROPS,
    )


def test_published_files_and_accuracies_are_those_that_torchvision_states() -> None:
    stated = {
        Path(weights.url).name: (weights.url, weights.meta["_metrics"]["Kinetics-400"]["acc@1"])
        for name in BASELINES
        for weights in get_model_weights(name)
    }
    others = {
        name: entry for name, entry in published().items() if not name.startswith("uniformer_")
    }
    assert others.keys() == {*BASELINES, "swin3d_b_22k"}
    assert {entry.file: (entry.page, entry.top1) for entry in others.values()} == stated
    for name, entry in others.items():
        assert entry.file.startswith(name.removesuffix("_22k"))
        assert entry.file.endswith(f"-{entry.sha256}.pth")  # as torch.hub verifies them


def test_the_order_of_the_classes_is_the_one_that_torchvision_states() -> None:
    for name in BASELINES:
        for weights in get_model_weights(name):
            assert (
                published_class_names(f"/any/{Path(weights.url).name}")
                == weights.meta["categories"]
            )
    assert published_class_names("another.pth") == []


def test_the_head_is_brought_into_the_order_of_the_data(
    cfg_of: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mc3_18-a90a0ba3.pth"
    theirs = get_model("mc3_18", num_classes=400)
    torch.save(theirs.state_dict(), file)
    table = (
        files("slowfast.datasets").joinpath("class_names/kinetics400.txt").read_text().splitlines()
    )
    model = build_model(cfg_of("mc3_18"))
    load_weights(model, str(file))
    assert "the data has no names to compare them with" in caplog.text
    caplog.clear()
    load_weights(model, str(file), class_names=table)
    assert "the data has no names" not in caplog.text
    order = [meta_of("mc3_18")["categories"].index(name) for name in table]
    frames = torch.randn(1, 3, 2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(frames), theirs.eval()(frames)[:, order])
    assert order[:3] != [0, 1, 2]


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s"])
def test_mvit_of_any_size_is_that_of_torchvision_at_its_size(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = (
            build_mvit(name, num_classes=400, num_frames=16, crop_size=224),
            get_model(name),
        )
    assert repr(ours) == repr(theirs)
    for module, other in zip(ours.modules(), theirs.modules(), strict=True):
        plain = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, bool | int | float | tuple)
        }
        assert plain == {key: vars(other)[key] for key in plain}
    shapes = [
        {key: tensor.shape for key, tensor in model.state_dict().items()}
        for model in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]


def numbered_weights(name: str) -> dict[str, torch.Tensor]:
    """Weights as torchvision names and shapes them, each filled with its number, which takes no room on the disk."""
    with torch.device("meta"):
        state = get_model(name).state_dict()
    return {
        key: torch.tensor(float(n)).expand(tensor.shape)
        for n, (key, tensor) in enumerate(state.items())
    }


@pytest.mark.parametrize("name", BASELINES)
def test_files_of_torchvision_load_whole_or_but_for_the_head(
    name: str, cfg_of: Callable[..., CfgNode], tmp_path: Path
) -> None:
    weights = numbered_weights(name)
    torch.save(weights, tmp_path / "x.pth")
    for num_classes in (400, 7):
        with torch.device("meta"):
            model = build_model(cfg_of(name, "MODEL.NUM_CLASSES", str(num_classes)))
        model.to_empty(device="cpu")
        load_weights(model, str(tmp_path / "x.pth"), may_replace_head=True)
        head = {
            key
            for key in weights
            if num_classes != 400 and key.startswith(("fc.", "classifier.", "head."))
        }
        assert len(head) == (2 if num_classes != 400 else 0)
        for key, tensor in model.state_dict().items():
            assert (tensor == weights[key].flatten()[0]).all() or key in head, key
        with (
            pytest.raises(
                ValueError, match="has a head for 400 classes, but the model has one for 7"
            )
            if head
            else torch.no_grad()
        ):
            load_weights(model, str(tmp_path / "x.pth"))


def problems_of(name: str, **keys: Any) -> list[str]:
    cfg = default_cfg()
    cfg.MODEL.MODEL_NAME = name
    cfg.DATA.TEST_CROP_SIZE = 224
    cfg.TEST.ENABLE = False
    cfg.merge_from_list(
        [part for key, value in keys.items() for part in (key.replace("__", "."), value)]
    )
    return models.find_problems(cfg)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "mvit_v2_s",
            {"DATA__TEST_CROP_SIZE": 256},
            "DATA.TRAIN_CROP_SIZE is 224 and DATA.TEST_CROP_SIZE is 256, but mvit_v2_s learns a position for each "
            "place; use one size for both",
        ),
        (
            "mvit_v1_b",
            {"DATA__TEST_CROP_SIZE": 100, "DATA__TRAIN_CROP_SIZE": 100},
            "DATA.TRAIN_CROP_SIZE is 100; mvit_v1_b takes multiples of 32",
        ),
        (
            "mvit_v1_b",
            {"DATA__NUM_FRAMES": 7},
            "DATA.NUM_FRAMES is 7; mvit_v1_b takes an even number",
        ),
        ("s3d", {"DATA__NUM_FRAMES": 8}, "DATA.NUM_FRAMES is 8; s3d takes 14 or more"),
        ("s3d", {"DATA__TEST_CROP_SIZE": 112}, "DATA.TEST_CROP_SIZE is 112; s3d takes 224 or more"),
        (
            "r3d_18",
            {"MODEL__CHECKPOINT_NUM": [0, 0, 2, 0]},
            "MODEL.CHECKPOINT_NUM is [0, 0, 2, 0], which r3d_18 does not read",
        ),
        (
            "swin3d_t",
            {"UNIFORMER__DEPTH": [5, 8, 20, 7]},
            "UNIFORMER.DEPTH is [5, 8, 20, 7], which swin3d_t does not read",
        ),
    ],
)
def test_what_a_baseline_cannot_do_is_said(name: str, keys: dict[str, Any], message: str) -> None:
    assert any(problem.startswith(message) for problem in problems_of(name, **keys))


def test_every_key_of_uniformer_alone_is_refused() -> None:
    assert problems_of("r3d_18") == []
    others = {bool: True, int: 8, float: 0.5, list: [1, 2, 3, 4], type(None): 0.5, str: "x"}
    changes = {
        f"UNIFORMER__{key}": others[type(value)] for key, value in default_cfg().UNIFORMER.items()
    }
    changes |= {"UNIFORMER__QKV_BIAS": False, "MODEL__USE_CHECKPOINT": True}
    for key, value in changes.items():
        assert [problem.split(" is ")[0] for problem in problems_of("r3d_18", **{key: value})] == [
            key.replace("__", ".")
        ]


def test_a_baseline_trains_and_is_tested_as_torchvision_would_score_it(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    uniformer = {
        f"UNIFORMER__{key}": value
        for key, value in default_cfg().UNIFORMER.items()
        if value not in (None, "")
    }
    cfg = tiny_cfg(
        MODEL__MODEL_NAME="mc3_18",
        DATA__ENSEMBLE_METHOD="probabilities",
        SOLVER__MAX_EPOCH=1,
        **uniformer,
    )
    assert models.find_problems(cfg) == []
    train(cfg)
    result = evaluate(cfg)
    assert result.num_scored == result.num_videos == 24

    checkpoint = newest_checkpoint(cfg.OUTPUT_DIR)
    assert checkpoint is not None
    theirs = get_model("mc3_18", num_classes=8).eval()
    theirs.load_state_dict(load_checkpoint(checkpoint)["model_state"])
    expected = torch.zeros(24, 8)
    with torch.no_grad():
        for batch in build_loader(cfg, "test"):
            expected.index_add_(0, batch.video, theirs(batch.frames).softmax(dim=1))
    scores = np.load(tmp_path / "run/test/scores.npz")["scores"]
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mvit_v2_s", "swin3d_t"])
def test_gradients_reach_all_weights_of_small_clips(
    name: str, cfg_of: Callable[..., CfgNode]
) -> None:
    size = [
        "DATA.NUM_FRAMES",
        "4",
        "DATA.TRAIN_CROP_SIZE",
        "64",
        "DATA.TEST_CROP_SIZE",
        "64",
        "MODEL.NUM_CLASSES",
        "3",
    ]
    model = build_model(cfg_of(name, *size, "DATA.TEST_SHORT_SIDE", "64")).train()
    logits = model(torch.randn(2, 3, 4, 64, 64))
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
