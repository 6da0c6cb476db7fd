"""Loading: from a checkpoint, a run, an exported folder or a name to a classifier."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slowfast.api import create_model
from slowfast.config import CfgNode
from slowfast.models.build import build_model
from slowfast.trained import load
from slowfast.utils.checkpoint import load_checkpoint, save_checkpoint, save_weights
from slowfast.utils.checkpoint_files import checkpoint_path
from tests.inference.conftest import save_random_checkpoint

TinyCfg = Callable[..., CfgNode]
Run = Callable[..., Path]
CLIP = np.random.default_rng(0).integers(256, size=(12, 40, 48, 3), dtype=np.uint8)


def logits_of(source: str | Path, **options: Any) -> np.ndarray:
    return load(source, **options).predict(CLIP).logits


def test_every_form_of_a_model_gives_the_same_logits(
    new_run: Run, tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
    run = new_run()
    checkpoint = checkpoint_path(str(run), epoch=1)
    expected = logits_of(checkpoint)
    assert np.array_equal(logits_of(str(run)), expected)

    load(run).save(tmp_path / "exported")
    assert np.array_equal(logits_of(tmp_path / "exported"), expected)
    assert np.array_equal(logits_of(tmp_path / "exported/model.safetensors"), expected)

    state = load_checkpoint(checkpoint)
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, state["model_state"], class_names=state["class_names"])
    config = tmp_path / "config.yaml"
    config.write_text(tiny_cfg().dump())
    assert np.array_equal(logits_of(weights, config=config), expected)


def test_an_exported_folder_names_no_path_of_this_machine(new_run: Run, tmp_path: Path) -> None:
    load(new_run(DATA__ENSEMBLE_METHOD="max")).save(tmp_path / "exported")
    text = (tmp_path / "exported/config.json").read_text()
    assert str(tmp_path) not in text
    assert "motion" not in text
    content = json.loads(text)
    assert content["class_names"][0] == "left"
    assert load(tmp_path / "exported").settings.fusion == "max"
    with pytest.raises(FileExistsError, match="exported: exists already"):
        load(tmp_path / "exported").save(tmp_path / "exported")


def test_a_run_gives_its_newest_checkpoint_or_its_best(new_run: Run, tiny_cfg: TinyCfg) -> None:
    run, cfg = new_run(), tiny_cfg()
    best = build_model(cfg)
    torch.nn.init.constant_(best.head.bias, 5.0)  # type: ignore[union-attr, arg-type]
    save_random_checkpoint(cfg, run / "best.pyth", entries={"model_state": best.state_dict()})
    newest = logits_of(checkpoint_path(str(run), epoch=1))
    assert np.array_equal(logits_of(run), newest)
    assert np.array_equal(logits_of(run, best=True), logits_of(run / "best.pyth"))
    assert not np.array_equal(logits_of(run, best=True), newest)


def test_ema_weights_are_loaded_as_in_a_test(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg()
    state = build_model(cfg).state_dict()
    ema_state = {**state, "head.bias": torch.full((8,), 9.0)}
    path = save_random_checkpoint(cfg, entries={"ema_state": ema_state})
    assert load(path).model.state_dict()["head.bias"].tolist() == [9.0] * 8
    assert load(path, ema=False).model.state_dict()["head.bias"].tolist() != [9.0] * 8


def test_class_names_may_be_given(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    path = save_random_checkpoint(tiny_cfg(), entries={"class_names": []})
    names = [f"class {number}" for number in range(8)]
    assert load(path, class_names=names).class_names == names
    (tmp_path / "names.txt").write_text("\n".join(names))
    assert load(path, class_names=tmp_path / "names.txt").class_names == names


def test_loading_warns_of_nothing(new_run: Run, caplog: pytest.LogCaptureFixture) -> None:
    load(new_run())
    assert not caplog.records


def test_bf16_is_used_on_request(new_run: Run) -> None:
    run = new_run()
    classifier = load(run, precision="bf16")
    low = classifier.predict(CLIP).logits
    assert not np.array_equal(low, logits_of(run))
    assert low == pytest.approx(logits_of(run), abs=0.05)
    assert np.array_equal(
        classifier.to("cpu", precision="off").predict(CLIP).logits, logits_of(run)
    )


def test_a_device_that_is_not_there_is_named(new_run: Run) -> None:
    run = new_run()
    with pytest.raises(ValueError, match=r"the device 'banana' cannot be used: "):
        load(run, device="banana")
    classifier = load(run)
    with pytest.raises(ValueError, match=r"the device 'cuda:99' cannot be used: "):
        classifier.to("cuda:99")
    assert classifier.device.type == "cpu"
    classifier.predict(CLIP)


# ---- What cannot be loaded -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"class_names": []}, r"names no classes. Give 8 names in .*class_names=\[...\]"),
        ({"class_names": ["a", "b"]}, "has 2 class names, but the head has 8 classes"),
        ({"cfg": None}, "holds no config.*Name the YAML file of the experiment: config="),
        ({"cfg": "MODEL: {ARCHITECTURE: slow}"}, "MODEL.ARCHITECTURE is not a key.*\n.*config="),
        ({"cfg": "MODEL: ["}, "not a YAML file.*\n.*config="),
        ({"cfg": "MODEL: {MODEL_NAME: Uniformer_xl}"}, "MODEL_NAME is 'Uniformer_xl'. Choose one"),
        ({"cfg": "_BASE_: /etc/passwd"}, "_BASE_ has no meaning here"),
        ({"cfg": "{MODEL: {NUM_CLASSES: 8}}"}, "does not fit this model"),
        ({"model_state": {}}, "holds no weights"),
    ],
)
def test_what_a_checkpoint_lacks_is_named(
    entries: dict[str, Any], message: str, tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
    path = save_random_checkpoint(tiny_cfg(), tmp_path / "odd.pyth", entries=entries)
    with pytest.raises(ValueError, match=rf"(?s)odd.pyth.*{message}"):
        load(path)


def test_a_given_config_replaces_one_of_another_version(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    old = {"cfg": "MODEL: {ARCHITECTURE: slow}"}
    path = save_random_checkpoint(tiny_cfg(), tmp_path / "old.pyth", entries=old)
    (tmp_path / "config.yaml").write_text(tiny_cfg().dump())
    assert load(path, config=tmp_path / "config.yaml").settings.num_frames == 4


def test_folders_and_files_without_a_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}: holds no model. Name a checkpoint"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'typo.pyth': no such file of weights"):
        load("typo.pyth")
    with pytest.raises(FileNotFoundError, match=r"nearest published name is uniformer_small_k400"):
        load("uniformer_small_k400")
    (tmp_path / "a.pyth").write_text("no weights")
    with pytest.raises(ValueError, match=r"a.pyth: "):
        load(tmp_path / "a.pyth")
    with pytest.raises(ValueError, match=r"precision is 'int8'\. Choose one of: off, bf16"):
        load(tmp_path, precision="int8")


def test_an_exported_folder_without_its_config_is_named(new_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    load(new_run()).save(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has model.safetensors, but not the config.json"):
        load(folder)
    with pytest.raises(ValueError, match=r"model.safetensors: holds no config.*--cfg in a tool"):
        load(folder / "model.safetensors")


def test_a_folder_of_an_earlier_version_loads(new_run: Run, tmp_path: Path) -> None:
    run, folder = new_run(), tmp_path / "exported"
    load(run).save(folder)
    content = json.loads((folder / "config.json").read_text())
    old = ("library", "format", "version", "class_names", "settings")
    (folder / "config.json").write_text(json.dumps({name: content[name] for name in old}))
    assert np.array_equal(logits_of(folder), logits_of(run))
    load(folder).save(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["metrics"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"library": "transformers"}, "was not exported by this framework"),
        ({"format": 7, "version": "9.1"}, r"has format 7, but .* reads 1. Upgrade .* version 9.1"),
        ({"format": "?"}, r"has format '\?', but this version reads 1. Export the model again"),
        ({"class_names": "left"}, "lacks its class names or settings"),
        (
            {"settings": {"MODEL.COLOR": "red"}, "version": "9.1"},
            "(?s)MODEL.COLOR is not a key.*of version 9.1, and this is .*: upgrade",
        ),
        ({"channel_order": "BGR"}, "channel_order is 'BGR', but its settings give 'RGB'"),
        ({"normalization": {"mean": [0.5]}}, r"mean is \[0.5\], but its settings give \[0.45, "),
    ],
)
def test_odd_exported_folders_are_refused(
    change: dict[str, Any], message: str, new_run: Run, tmp_path: Path
) -> None:
    load(new_run()).save(tmp_path / "exported")
    path = tmp_path / "exported/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "exported")


def test_published_weights_need_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no file uniformer_small_k400_8x8.pth\. Download"):
        load("uniformer_small_k400_8x8")

    model = create_model("uniformer_small")
    path = tmp_path / "uniformer_small_k400_8x8.pth"
    torch.save(model.state_dict(), path)
    for source in ("uniformer_small_k400_8x8", path):
        classifier = load(source)
        settings = classifier.settings
        assert (settings.num_frames, settings.sampling_rate, settings.num_clips) == (8, 8, 4)
        assert classifier.class_names[:2] == ["riding a bike", "marching"]
    found = classifier.model.get_parameter("head.weight")
    assert torch.equal(found, model.get_parameter("head.weight"))


def test_weights_of_images_classify_no_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    save_checkpoint(tmp_path / "uniformer_small_in1k.pth", {"model": {}})
    with pytest.raises(ValueError, match="holds an image model, which classifies no videos"):
        load("uniformer_small_in1k")


# ---- What loading imports --------------------------------------------------------------------

HEAVY = [
    "timm",
    "torchvision",
    "slowfast.engine",
    "matplotlib",
    "tensorboard",
    "pandas",
    "submitit",
]
SCRIPT = """
import json, sys
import slowfast
first = sorted(sys.modules)
classifier = slowfast.load(sys.argv[1])
import numpy as np
classifier.predict(np.zeros((4, 32, 32, 3), np.uint8))
print(json.dumps([first, sorted(sys.modules)]))
"""


def test_prediction_imports_no_training(new_run: Run) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(new_run())], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    at_import, at_end = json.loads(result.stdout)
    assert not {"torch", "numpy", "av"} & {*at_import}
    assert not {*HEAVY} & {*at_end}
