"""The baselines are the models of torchvision, with its names, sizes, weights and costs."""

import re
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models, video

from slowfast.config import CfgNode, default_cfg, find_problems, load_cfg
from slowfast.datasets.build import build_loader
from slowfast.engine.evaluate import evaluate
from slowfast.engine.train import train
from slowfast.evaluation.result import open_result
from slowfast.models import build as models
from slowfast.models.build import build_model, count_multiply_adds, count_parameters
from slowfast.models.torchvision_models import MODELS as CONSTRUCTORS
from slowfast.models.torchvision_video import NAMES
from slowfast.models.uniformer_config import UNIFORMERS
from slowfast.models.weights import load_weights
from slowfast.models.zoo import published, published_class_names
from slowfast.utils.checkpoint import load_checkpoint
from slowfast.utils.checkpoint_files import newest_checkpoint
from slowfast.utils.published_classes import published_classes

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
    """Function that loads the config of a baseline for a training from random weights."""

    def load(name: str, *overrides: str) -> CfgNode:
        checks = [find_problems, models.find_problems]
        return load_cfg(
            str(repository / f"configs/models/{name}.yaml"),
            ["TEST.ENABLE", "False", *overrides],
            checks=checks,
        )

    return load


def test_all_video_models_of_torchvision_are_available() -> None:
    assert sorted(NAMES) == sorted(list_models(video)) == BASELINES
    assert list(models.MODELS) == [*UNIFORMERS, *NAMES]


@pytest.mark.parametrize("name", BASELINES)
def test_parameter_counts_equal_those_of_torchvision(
    name: str, cfg_of: Callable[..., CfgNode]
) -> None:
    with torch.device("meta"):
        model = build_model(cfg_of(name))
    assert count_parameters(model) == meta_of(name)["num_params"]


@pytest.mark.parametrize("name", BASELINES)
def test_multiply_adds_are_those_of_torchvision_and_the_norms(
    name: str, cfg_of: Callable[..., CfgNode]
) -> None:
    # torchvision does not count norms. It counts 16 frames for all models, although it measured
    # the accuracy of Swin with 32 and that of S3D with 128.
    size = 112 if name.endswith("_18") else 224
    build = partial(build_model, cfg_of(name, "DATA.NUM_FRAMES", "16"))
    giga = count_multiply_adds(build, num_frames=16, size=size) / 1e9
    norms = 0.012 if name.endswith("_18") or name == "s3d" else 0.006
    assert meta_of(name)["_ops"] < giga < (1 + norms) * meta_of(name)["_ops"]


@pytest.mark.parametrize("name", BASELINES)
def test_the_config_has_the_clips_of_the_published_accuracy(
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


def test_published_files_and_accuracies_are_those_of_torchvision() -> None:
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
        assert entry.file.endswith(f"-{entry.sha256}.pth")  # torch.hub verifies these digits.


def test_the_order_of_the_classes_is_that_of_torchvision() -> None:
    for name in BASELINES:
        for weights in get_model_weights(name):
            assert (
                published_class_names(f"/any/{Path(weights.url).name}")
                == weights.meta["categories"]
            )
    assert published_class_names("another.pth") == []


def test_the_head_is_reordered_to_the_classes_of_the_data(
    cfg_of: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "mc3_18-a90a0ba3.pth"
    theirs = get_model("mc3_18", num_classes=400)
    torch.save(theirs.state_dict(), file)
    table = published_classes("kinetics400")
    model = build_model(cfg_of("mc3_18"))
    load_weights(model, str(file))  # Without data, there is nothing to compare.
    assert "the data has no class names" not in caplog.text
    load_weights(model, str(file), class_names=[])
    assert "the data has no class names to compare them with" in caplog.text
    caplog.clear()
    load_weights(model, str(file), class_names=table)
    assert "the data has no class names" not in caplog.text
    order = [meta_of("mc3_18")["categories"].index(name) for name in table]
    frames = torch.randn(1, 3, 2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(frames), theirs.eval()(frames)[:, order])
    assert order[:3] != [0, 1, 2]


def our_model(name: str, **arguments: Any) -> Any:
    """Our model for the clips of torchvision."""
    if name.startswith("mvit"):
        arguments = {"num_frames": 16, "crop_size": 224, **arguments}
    return CONSTRUCTORS[name](**{"num_classes": 400, **arguments})


def small_model(name: str, **arguments: Any) -> Any:
    """Our model for the clips in `CLIPS`, for evaluation."""
    if name.startswith("mvit"):
        arguments |= {"num_frames": 4, "crop_size": 64}
    model = CONSTRUCTORS[name](**arguments).eval()
    if name == "s3d":  # Its pooling takes 7x7 positions, which is slow.
        model.avgpool = nn.AvgPool3d(2, stride=1)
    return model


def test_every_baseline_has_the_layers_of_torchvision() -> None:
    assert [*CONSTRUCTORS] == BASELINES
    for name in BASELINES:
        with torch.device("meta"):
            ours, theirs = our_model(name), get_model(name)
        assert repr(ours) == repr(theirs)

        pairs = zip([*ours.modules()][1:], [*theirs.modules()][1:], strict=True)
        for module, other in pairs:
            for key, value in vars(module).items():
                assert (
                    not isinstance(value, bool | int | float | tuple) or value == vars(other)[key]
                )
        shapes = [
            [(key, tensor.shape) for key, tensor in model.state_dict().items()]
            for model in (ours, theirs)
        ]
        assert shapes[0] == shapes[1]


# ---- Features, heads and stages --------------------------------------------------------------

# A model of each class, with a clip that it takes.
CLIPS = {
    "r2plus1d_18": (1, 3, 4, 32, 32),
    "s3d": (1, 3, 16, 96, 96),
    "swin3d_t": (1, 3, 4, 64, 64),
    "mvit_v1_b": (1, 3, 4, 64, 64),
    "mvit_v2_s": (1, 3, 4, 64, 64),
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_baseline_has_the_methods_of_timm(name: str) -> None:
    torch.manual_seed(0)
    model = small_model(name, num_classes=5)
    mro: tuple[Any, ...] = type(model).__mro__
    bases = [base for base in mro if base.__module__.startswith("torchvision.")]
    forward_of_torchvision = bases[0].forward
    frames = torch.randn(CLIPS[name])
    classified: list[torch.Tensor] = []
    last = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv3d)][-1]
    last.register_forward_pre_hook(lambda layer, inputs: classified.append(inputs[0]))
    with torch.no_grad():
        logits, features = forward_of_torchvision(model, frames), model.forward_features(frames)
        assert torch.equal(model(frames), logits)
        assert torch.equal(model.forward_head(features), logits)

        expected = classified[0]
        if name == "s3d":  # It averages the logits of several positions.
            expected = expected.mean(dim=(2, 3, 4))
        pooled = model.forward_head(features, pre_logits=True)
        assert torch.equal(pooled, expected)
        assert pooled.shape == (1, model.num_features)
        assert features.shape[:2] == (1, model.num_features)

        model.reset_classifier(7)
        assert model.forward_head(features).shape == (1, model.num_classes) == (1, 7)
        model.reset_classifier(0)
        assert torch.equal(model.forward_head(features), pooled)
        assert torch.equal(model(frames), pooled)


@pytest.mark.parametrize("name", CLIPS)
def test_the_stages_of_a_baseline_halve_the_frames(name: str) -> None:
    model = small_model(name, num_classes=0, in_chans=2)
    returned: list[torch.Tensor] = []
    model.get_submodule(model.first_conv).register_forward_hook(
        lambda layer, inputs, output: returned.append(output)
    )
    with torch.no_grad():
        stages = model.forward_stages(torch.randn(CLIPS[name])[:, :2])

    assert len(stages) == 4
    width = stages[0].shape[-1]
    assert [volume.shape[-1] for volume in stages] == [width, width // 2, width // 4, width // 8]
    assert stages[-1].shape[:2] == (1, model.num_features)
    assert returned[0].shape[-1] in (width, 2 * width)
    assert all(volume.isfinite().all() and volume.std() > 0 for volume in stages)


def test_the_last_stage_gives_the_features() -> None:
    model = small_model("swin3d_t", num_classes=5)
    with torch.no_grad():
        frames = torch.randn(1, 3, 4, 64, 64)
        last, features = model.forward_stages(frames)[-1], model.forward_features(frames)
    normalized = model.norm(last.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(features, normalized)


def test_mvit_classifies_only_a_volume_with_its_class_token() -> None:
    model = small_model("mvit_v2_s", num_classes=5)
    features = model.forward_features(torch.randn(1, 3, 4, 64, 64))
    with pytest.raises(ValueError, match=r"\(1, 768, 2, 2, 2\) without the attribute class_token"):
        model.forward_head(features + 0)


def numbered_weights(name: str) -> dict[str, torch.Tensor]:
    """Weights with the names and shapes of torchvision, each filled with its index.

    Such weights take no space in a file.
    """
    with torch.device("meta"):
        state = get_model(name).state_dict()
    return {
        key: torch.tensor(float(n)).expand(tensor.shape)
        for n, (key, tensor) in enumerate(state.items())
    }


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("num_classes", [400, 7])
def test_files_of_torchvision_load_whole_or_without_the_head(
    name: str, num_classes: int, cfg_of: Callable[..., CfgNode], tmp_path: Path
) -> None:
    weights = numbered_weights(name)
    path = str(tmp_path / "x.pth")
    torch.save(weights, path)
    with torch.device("meta"):
        model = build_model(cfg_of(name, "MODEL.NUM_CLASSES", str(num_classes)))
    model.to_empty(device="cpu")

    load_weights(model, path, may_replace_head=True)
    head = {key for key in weights if key.startswith(("fc.", "classifier.", "head."))}
    assert len(head) == 2
    for key, tensor in model.state_dict().items():
        is_kept = num_classes != 400 and key in head
        assert is_kept or (tensor == weights[key].flatten()[0]).all(), key

    if num_classes == 400:
        load_weights(model, path)
        return
    message = "has a head for 400 classes, but the model has one for 7"
    with pytest.raises(ValueError, match=message):
        load_weights(model, path)


def problems_of(name: str, **keys: Any) -> list[str]:
    cfg = default_cfg()
    cfg.MODEL.MODEL_NAME = name
    cfg.DATA.TEST_CROP_SIZE = 224
    cfg.TEST.ENABLE = False
    cfg.merge_from_list(
        list(chain.from_iterable((key.replace("__", "."), value) for key, value in keys.items()))
    )
    return models.find_problems(cfg)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "mvit_v2_s",
            {"DATA__TEST_CROP_SIZE": 256},
            "DATA.TRAIN_CROP_SIZE is 224 and DATA.TEST_CROP_SIZE is 256, but mvit_v2_s learns an "
            "embedding for each position. Use one size for both.",
        ),
        (
            "mvit_v1_b",
            {"DATA__TEST_CROP_SIZE": 100, "DATA__TRAIN_CROP_SIZE": 100},
            "DATA.TRAIN_CROP_SIZE is 100, but mvit_v1_b takes multiples of 32",
        ),
        (
            "mvit_v1_b",
            {"DATA__NUM_FRAMES": 7},
            "DATA.NUM_FRAMES is 7, but mvit_v1_b takes an even number",
        ),
        ("s3d", {"DATA__NUM_FRAMES": 8}, "DATA.NUM_FRAMES is 8, but s3d takes 14 or more"),
        (
            "s3d",
            {"DATA__TEST_CROP_SIZE": 112},
            "DATA.TEST_CROP_SIZE is 112, but s3d takes 224 or more",
        ),
        (
            "r3d_18",
            {"MODEL__CHECKPOINT_NUM": [0, 0, 2, 0]},
            "MODEL.CHECKPOINT_NUM is [0, 0, 2, 0], which r3d_18 does not read",
        ),
        (
            "s3d",
            {"MODEL__HEAD": "mlp"},
            "MODEL.HEAD is 'mlp', which s3d does not have. Use linear, or set MODEL.MODEL_NAME to "
            "Uniformer.",
        ),
        (
            "swin3d_t",
            {"UNIFORMER__DEPTH": [5, 8, 20, 7]},
            "UNIFORMER.DEPTH is [5, 8, 20, 7], which swin3d_t does not read",
        ),
    ],
)
def test_what_a_baseline_cannot_do_is_reported(
    name: str, keys: dict[str, Any], message: str
) -> None:
    assert any(problem.startswith(message) for problem in problems_of(name, **keys))


def test_every_key_that_only_uniformer_reads_is_refused() -> None:
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


def test_a_trained_baseline_gets_the_scores_of_torchvision(
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
            expected.index_add_(0, batch.video_indices, theirs(batch.frames).softmax(dim=1))
    predictions = open_result(tmp_path / "run").predictions("top_probabilities")
    top = np.array(predictions["top_probabilities"].to_pylist())
    means = expected / expected.sum(dim=1, keepdim=True)
    np.testing.assert_allclose(top, means.topk(5).values.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mvit_v2_s", "swin3d_t"])
def test_gradients_reach_all_weights_of_small_clips(
    name: str, cfg_of: Callable[..., CfgNode]
) -> None:
    sizes = ["DATA.NUM_FRAMES", "4", "MODEL.NUM_CLASSES", "3"]
    for key in ("DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE", "DATA.TEST_SHORT_SIDE"):
        sizes += [key, "64"]
    model = build_model(cfg_of(name, *sizes)).train()
    logits = model(torch.randn(2, 3, 4, 64, 64))
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
