"""Models by name: what is created, from which weights, with which clips, and what is refused."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slowfast
from slowfast.config import CfgNode, default_cfg, load_cfg
from slowfast.config.tree import value_at
from slowfast.models.build import MODELS, Model, add_model
from slowfast.models.recipes import MODEL_RECIPES, same_weights, weights_recipe
from slowfast.models.uniformer import UniFormer
from slowfast.models.zoo import published
from slowfast.utils.checkpoint import save_checkpoint


def numbered(**settings: Any) -> dict[str, Tensor]:
    """Weights of a UniFormer-S, each filled with its index plus 1. They take no space in a file."""
    with torch.device("meta"):
        state = UniFormer(**{"num_classes": 400, **settings}).state_dict()
    tensors = {}
    for index, (name, tensor) in enumerate(state.items()):
        if not name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(index + 1.0).expand(tensor.shape)
    return tensors


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A file like that of published weights, without the counters of BatchNorm."""
    path = tmp_path / "uniformer_small_k400_16x4.pth"
    torch.save({"model": numbered()}, path)
    return str(path)


@pytest.fixture
def added() -> Iterator[Callable[[str, Model], None]]:
    """Function that adds a model for one test."""
    before = dict(MODELS)
    yield add_model
    for name in MODELS.keys() - before.keys():
        del MODELS[name]


# ---- Names -----------------------------------------------------------------------------------


def test_models_are_listed_with_those_of_users(added: Callable[[str, Model], None]) -> None:
    added("Tiny", Model(lambda cfg: nn.Linear(1, 1)))
    names = slowfast.list_models()
    assert names[:3] == ["uniformer_small", "uniformer_base", "uniformer_xxs"]
    assert names[-2:] == ["swin3d_t", "Tiny"]
    assert "Uniformer" not in names


# Keys that say which model it is, and how it is tested.
RECIPE_KEYS = (
    "MODEL.MODEL_NAME",
    "UNIFORMER.EMBED_DIM",
    "UNIFORMER.DEPTH",
    "UNIFORMER.HEAD_DIM",
    "UNIFORMER.MLP_RATIO",
    "UNIFORMER.SPLIT",
    "UNIFORMER.STD",
    "DATA.NUM_FRAMES",
    "DATA.SAMPLING_RATE",
    "DATA.USE_OFFSET_SAMPLING",
    "DATA.TARGET_FPS",
    "DATA.MEAN",
    "DATA.STD",
    "DATA.REVERSE_INPUT_CHANNEL",
    "DATA.IMAGE_TEMPLATE",
    "DATA.TRAIN_CROP_SIZE",
    "DATA.TEST_CROP_SIZE",
    "DATA.TEST_SHORT_SIDE",
    "DATA.ENSEMBLE_METHOD",
    "TEST.DATASET",
    "TEST.NUM_ENSEMBLE_VIEWS",
    "TEST.NUM_SPATIAL_CROPS",
)


def values_of(cfg: CfgNode, *more: str) -> dict[str, Any]:
    return {key: value_at(cfg, key) for key in (*RECIPE_KEYS, *more)}


def cfg_with(*recipes: Mapping[str, Any]) -> CfgNode:
    cfg = default_cfg()
    for recipe in recipes:
        cfg.merge_from_list([item for pair in recipe.items() for item in pair])
    return cfg


@pytest.mark.parametrize("name", MODEL_RECIPES)
def test_a_recipe_is_the_config_of_the_model(name: str, repository: Path, tmp_path: Path) -> None:
    short_names = {"uniformer_small": "uniformer_s", "uniformer_base": "uniformer_b"}
    model = f"{repository}/configs/models/{short_names.get(name, name)}.yaml"
    bases = [f"{repository}/configs/recipe.yaml", model] if name in short_names else [model]
    (tmp_path / "x.yaml").write_text(f"_BASE_: {bases}")
    expected = load_cfg(str(tmp_path / "x.yaml"), checks=())
    drop_path = "UNIFORMER.DROP_DEPTH_RATE"
    assert values_of(cfg_with(MODEL_RECIPES[name]), drop_path) == values_of(expected, drop_path)


@pytest.mark.parametrize("name", [name for name, entry in published().items() if entry.experiment])
def test_published_weights_are_tested_as_in_their_experiment(name: str, repository: Path) -> None:
    entry = published()[name]
    file = repository / "exp" / entry.experiment / "config.yaml"
    cfg = cfg_with(MODEL_RECIPES[entry.model], weights_recipe(entry))
    expected = load_cfg(str(file), checks=())
    if expected.MODEL.MODEL_NAME == "Uniformer_light":  # It differs only under autocast.
        assert same_weights(cfg.MODEL.MODEL_NAME, expected.MODEL.MODEL_NAME)
        cfg.MODEL.MODEL_NAME = expected.MODEL.MODEL_NAME
    assert values_of(cfg, "MODEL.NUM_CLASSES") == values_of(expected, "MODEL.NUM_CLASSES")


def test_weights_are_listed_with_their_clips_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEIGHTS_DIR", raising=False)
    records = {record.name: record for record in slowfast.list_weights()}
    assert [record for record in records.values() if record.path] == []
    assert {record.model for record in records.values()} <= {*slowfast.list_models()}

    dense = records["uniformer_base_k600_16x4"]
    assert (dense.model, dense.dataset, dense.top1) == ("uniformer_base", "Kinetics-600", 84.0)
    assert (dense.num_frames, dense.sampling_rate) == (16, 4)
    segments = records["uniformer_small_sthv2_32_prek400"]
    assert (segments.num_frames, segments.sampling_rate) == (32, 0)
    assert records["uniformer_small_in1k"].num_frames == 0
    baseline = records["swin3d_b_22k"]
    assert (baseline.model, baseline.num_frames, baseline.sampling_rate) == ("swin3d_b", 32, 1)

    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    (tmp_path / dense.file).touch()
    found = [record for record in slowfast.list_weights() if record.path]
    assert [(record.name, record.path) for record in found] == [
        ("uniformer_base_k600_16x4", str(tmp_path / dense.file))
    ]


# ---- Models with random weights --------------------------------------------------------------


def test_a_model_of_one_channel_has_the_clips_of_its_arguments() -> None:
    model: Any = slowfast.create_model(
        "uniformer_small", num_classes=3, in_chans=1, num_frames=12, crop_size=112, drop_path=1
    )
    assert model.num_classes == 3
    assert model.blocks4[-1].drop_path.rate == 1
    assert model(torch.randn(2, 1, 2, 32, 32)).shape == (2, 3)
    assert model.default_cfg == {
        "num_frames": 12,
        "sampling_rate": 8,
        "target_fps": 0.0,
        "short_side": 112,
        "crop_size": 112,
        "mean": [0.45],
        "std": [0.225],
        "channel_order": None,
    }


def test_a_baseline_has_the_clips_of_torchvision() -> None:
    model: Any = slowfast.create_model("r3d_18", num_classes=0, in_chans=4)
    assert model.eval()(torch.randn(1, 4, 2, 16, 16)).shape == (1, model.num_features) == (1, 512)
    assert model.default_cfg == {
        "num_frames": 16,
        "sampling_rate": 1,
        "target_fps": 15.0,
        "short_side": 128,
        "crop_size": 112,
        "mean": [0.43216, 0.394666, 0.37645, 0.43216],
        "std": [0.22803, 0.22145, 0.216989, 0.22803],
        "channel_order": None,
    }
    small: Any = slowfast.create_model("r3d_18", crop_size=56)
    assert (small.default_cfg["short_side"], small.num_classes) == (64, 400)
    assert small.default_cfg["channel_order"] == "RGB"


def test_mvit_is_built_for_the_clips_of_the_arguments() -> None:
    model: Any = slowfast.create_model("mvit_v2_s", num_classes=2, num_frames=4, crop_size=64)
    assert model.eval()(torch.randn(1, 3, 4, 64, 64)).shape == (1, 2)


# ---- Models with trained weights -------------------------------------------------------------


def test_published_weights_fill_the_whole_model(
    weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    model: Any = slowfast.create_model("uniformer_small", weights=weights)
    expected = numbered()
    ours = model.state_dict()
    for name, tensor in ours.items():
        assert (tensor == (expected[name].flatten()[0] if name in expected else 0)).all(), name
        assert tensor.device.type == "cpu"
    assert model.num_classes == 400
    assert (model.default_cfg["num_frames"], model.default_cfg["sampling_rate"]) == (16, 4)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    reference = UniFormer(num_classes=400).state_dict()
    assert [tensor.stride() for tensor in ours.values()] == [
        tensor.stride() for tensor in reference.values()
    ]


@pytest.mark.parametrize("arguments", [{"num_classes": 3}, {"head": "mlp"}, {"head": "attentive"}])
def test_another_head_stays_random_with_one_line(
    weights: str, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any]
) -> None:
    with caplog.at_level(logging.INFO):
        model: Any = slowfast.create_model("uniformer_small", weights=weights, **arguments)
    lines = [message for message in caplog.messages if "the head keeps its random" in message]
    assert len(lines) == 1
    assert model.num_classes == arguments.get("num_classes", 400)

    expected = numbered()
    for name, tensor in model.state_dict().items():
        if name.startswith(("head.", "pool.")):
            assert tensor.abs().max() < 0.2 or name.endswith(("norm1.weight", "norm2.weight"))
            assert tensor.std() > 0 or tensor.dim() == 1, name
        elif name in expected:
            assert (tensor == expected[name].flatten()[0]).all(), name


def test_without_classes_the_weights_give_features(weights: str) -> None:
    model: Any = slowfast.create_model("uniformer_small", weights=weights, num_classes=0)
    assert not [name for name in model.state_dict() if name.startswith("head")]
    assert (model.norm.weight == numbered()["norm.weight"].flatten()[0]).all()


def test_weights_are_adapted_to_the_channels(
    weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        gray: Any = slowfast.create_model("uniformer_small", weights=weights, in_chans=1)
    (line,) = [message for message in caplog.messages if "adapted to the channels" in message]
    assert "1 adapted to the channels of the frames" in line
    value = numbered()["patch_embed1.proj.weight"].flatten()[0]
    assert (gray.patch_embed1.proj.weight == 3 * value).all()

    torch.save(gray.state_dict(), weights)
    again: Any = slowfast.create_model("uniformer_small", weights=weights)
    assert again.patch_embed1.proj.weight.shape == (64, 1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"patch_embed1\.proj\.weight .*for \(64, 3, 3, 4, 4\)"):
        slowfast.create_model("uniformer_small", weights=weights, in_chans=3)


def test_something_weights_take_segments_in_bgr(tmp_path: Path) -> None:
    path = tmp_path / "uniformer_small_sthv2_16_prek400.pth"
    torch.save(numbered(num_classes=174), path)
    model: Any = slowfast.create_model("uniformer_small", weights=path)
    assert model.num_classes == 174
    assert model.default_cfg["channel_order"] == "BGR"
    assert model.default_cfg["sampling_rate"] is None
    assert model.default_cfg["num_frames"] == 16


def test_a_checkpoint_brings_its_config_and_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = {"MODEL.NUM_CLASSES": 2, "MODEL.HEAD": "mlp", "UNIFORMER.SPLIT": True}
    cfg = cfg_with(overrides, {"DATA.NUM_FRAMES": 5, "DATA.TEST_CROP_SIZE": 96})
    state = numbered(num_classes=2, head="mlp", split=True)
    path = tmp_path / "x.pyth"
    save_checkpoint(
        path, {"model_state": state, "class_names": ["a", "b"], "cfg": cfg.dump(), "format": 1}
    )
    model: Any = slowfast.create_model("uniformer_small", weights=path)
    assert model.num_classes == 2
    assert (model.head.fc2.bias == state["head.fc2.bias"].flatten()[0]).all()
    assert (model.default_cfg["num_frames"], model.default_cfg["crop_size"]) == (5, 96)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    message = r"x\.pyth: was trained with MODEL\.MODEL_NAME Uniformer, but r3d_18 has r3d_18"
    with pytest.raises(ValueError, match=message):
        slowfast.create_model("r3d_18", weights=path)
    message = r"with UNIFORMER\.DEPTH \[3, 4, 8, 3\], but uniformer_base has \[5, 8, 20, 7\]"
    with pytest.raises(ValueError, match=message):
        slowfast.create_model("uniformer_base", weights=path)


# ---- Models of users -------------------------------------------------------------------------


class Plain(nn.Module):
    """A model without the methods of timm."""

    def __init__(self, num_classes: int, in_chans: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv3d(in_chans, 4, 1)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        return self.fc(self.stem(frames).mean(dim=(2, 3, 4)))


def test_an_added_model_is_created_and_lacks_what_it_has_not(
    added: Callable[[str, Model], None], tmp_path: Path
) -> None:
    added("Plain", Model(lambda cfg: Plain(cfg.MODEL.NUM_CLASSES)))
    added("Any", Model(lambda cfg, in_chans: Plain(cfg.MODEL.NUM_CLASSES, in_chans)))
    model: Any = slowfast.create_model("Plain", num_classes=2)
    assert model(torch.randn(1, 3, 2, 4, 4)).shape == (1, 2)
    assert model.default_cfg["num_frames"] == 8
    wide: Any = slowfast.create_model("Any", in_chans=5)
    assert wide.stem.weight.shape[1] == 5

    torch.save(model.state_dict(), tmp_path / "x.pth")
    again: Any = slowfast.create_model("Plain", num_classes=2, weights=tmp_path / "x.pth")
    assert torch.equal(again.fc.weight, model.fc.weight)
    names = ["a", "b"]
    torch.save({"model_state": model.state_dict(), "class_names": names}, tmp_path / "y.pth")
    again = slowfast.create_model("Plain", weights=tmp_path / "y.pth")
    assert torch.equal(again.fc.weight, model.fc.weight)

    with pytest.raises(
        ValueError, match=r"the model Plain has no method reset_classifier\. Add it"
    ):
        slowfast.create_model("Plain", num_classes=0)
    with pytest.raises(ValueError, match="in_chans is 5, but Plain takes frames with 3 channels"):
        slowfast.create_model("Plain", in_chans=5)
    with pytest.raises(ValueError, match=r"head is 'mlp', which Plain does not have\. Use linear"):
        slowfast.create_model("Plain", head="mlp")


# ---- Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("UniFormer-smal", {}, "no model 'UniFormer-smal'. The nearest names are uniformer_small"),
        ("Uniformer", {}, "no model 'Uniformer'. The nearest names are uniformer_"),
        ("", {}, "no model ''. slowfast.list_models"),
        ("Uniformer_light", {}, "no model 'Uniformer_light'. The nearest names are uniformer_xs"),
        ("uniformer_xs", {"head": "mlp"}, "head is 'mlp', which Uniformer_light_fp32 does not"),
        ("r3d_18", {"num_classes": -1}, "num_classes is -1. Use a whole number of 0 or more"),
        ("r3d_18", {"num_classes": 2.0}, "num_classes is 2.0. Use a whole number"),
        ("r3d_18", {"in_chans": 0}, "in_chans is 0. Use a whole number of 1 or more"),
        ("r3d_18", {"in_chans": True}, "in_chans is True"),
        ("r3d_18", {"num_frames": "8"}, "num_frames is '8'"),
        ("mvit_v1_b", {"num_frames": 7}, "mvit_v1_b: num_frames is 7, but mvit_v1_b takes an even"),
        ("mvit_v1_b", {"crop_size": 100}, "crop_size is 100, but mvit_v1_b takes multiples of 32"),
        ("s3d", {"num_frames": 8}, "s3d: num_frames is 8, but s3d takes 14 or more"),
        ("uniformer_small", {"crop_size": 16}, "crop_size is 16, but .* takes 32 or more"),
        ("s3d", {"drop_path": 0.1}, "drop_path is 0.1, but only UniFormer has it, not s3d"),
        ("uniformer_small", {"drop_path": 2}, "drop_path is 2. Use a number from 0 to 1"),
        ("uniformer_small", {"drop_path": True}, "drop_path is True. Use a number from 0 to 1"),
        ("uniformer_small", {"weights": True}, "weights is True. Use a published name, a path"),
        ("uniformer_small", {"head": "conv"}, "head is 'conv'. Choose one of: linear, mlp"),
        ("r3d_18", {"head": "mlp"}, "head is 'mlp', which r3d_18 does not have. Use linear"),
    ],
)
def test_what_cannot_be_created_is_named(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        slowfast.create_model(name, **arguments)
    assert "DATA." not in str(error.value)


def test_unknown_weights_are_named_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTS_DIR", raising=False)
    message = "weights is 'uniformer_small_k400_16x5': no such file .* uniformer_small_k400_16x"
    with pytest.raises(FileNotFoundError, match=message):
        slowfast.create_model("uniformer_small", weights="uniformer_small_k400_16x5")
    message = "weights is 'uniformer_small_k400_8x8', but .* Download it from https://"
    with pytest.raises(FileNotFoundError, match=message):
        slowfast.create_model("uniformer_small", weights="uniformer_small_k400_8x8")


# ---- Imports ---------------------------------------------------------------------------------

SCRIPT = """
import sys
import slowfast
assert {"create_model", "list_models", "list_weights"} <= set(dir(slowfast))
assert "torch" not in sys.modules
model = slowfast.create_model("uniformer_small", weights=sys.argv[1])
heavy = {"timm", "torchvision", "torch._dynamo", "sympy", "slowfast.engine"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_creating_a_model_imports_nothing_heavy(weights: str, repository: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, weights]
    result = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    assert result.returncode == 0, result.stderr
