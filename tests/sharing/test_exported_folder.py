"""Exported folders: what their files say, what they never hold, and that they are whole."""

import getpass
import hashlib
import json
import os
import pwd
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from slowfast import load
from slowfast.config import CfgNode
from slowfast.utils.checkpoint_files import checkpoint_path
from tests.inference.conftest import save_random_checkpoint
from tests.sharing.conftest import TRAINED, Export, Run


def content_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_config_json_describes_the_model(new_run: Run, export: Export, tmp_path: Path) -> None:
    assert export(new_run(), tmp_path / "out") == 0
    content = content_of(tmp_path / "out")
    assert content["model"]["num_classes"] == 8
    assert content["clip"] == {
        "num_frames": 4,
        "sampling_rate": 3,
        "sampling": "dense",
        "target_fps": 0.0,
        "short_side": 32,
        "crop_size": 32,
        "num_clips": 2,
        "num_crops": 1,
        "fusion": "sum",
    }
    assert content["normalization"] == {"mean": [0.45] * 3, "std": [0.225] * 3}
    assert content["channel_order"] == "RGB"
    assert content["class_names"][:2] == ["left", "right"]
    weights = (tmp_path / "out/model.safetensors").read_bytes()
    assert content["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()


def test_the_card_has_the_result_of_the_run(new_run: Run, export: Export, tmp_path: Path) -> None:
    run = new_run(is_tested=True)
    assert export(run, tmp_path / "out", "--license", "mit") == 0
    test = json.loads((run / "test/metrics.json").read_text())
    card = card_of(tmp_path / "out")
    low, high = test["intervals"]["top1"]
    assert f"| Top-1 accuracy | {test['top1']:.1f} % | {low:.1f} to {high:.1f} % |" in card
    names = [entry["name"] for entry in test["classes"]]
    pair = test["most_confused"][0]
    assert f"| {names[pair['label']]} | {names[pair['prediction']]} | {pair['count']} |" in card
    assert "32 videos of 8 classes." in card
    assert "2 epochs, started from random weights." in card
    assert "| SOLVER.BASE_LR | `0.001` |" in card

    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "mit"
    assert metadata["pipeline_tag"] == "video-classification"
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == round(test["top1"], 2)
    assert content_of(tmp_path / "out")["metrics"]["top1"] == test["top1"]

    # The Python object has the same folder, and so has an export of the export.
    load(run).save(tmp_path / "saved")
    load(tmp_path / "saved").save(tmp_path / "again")
    for folder in ("saved", "again"):
        assert content_of(tmp_path / folder) == content_of(tmp_path / "out")


def test_only_metrics_of_these_weights_are_in_the_card(
    new_run: Run,
    tiny_cfg: Callable[..., CfgNode],
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = new_run(is_tested=True)
    classifier = load(run)
    with torch.no_grad():
        classifier.model.get_parameter("head.bias").add_(1)
    classifier.save(tmp_path / "changed")
    (tmp_path / "config.yaml").write_text(tiny_cfg(DATA__TEST_CROP_SIZE=48).dump())
    load(run, config=tmp_path / "config.yaml").save(tmp_path / "other clips")

    newer = checkpoint_path(str(run), epoch=2)
    save_random_checkpoint(tiny_cfg(), newer, entries={**TRAINED, "epoch": 3})
    capsys.readouterr()
    assert export(run, tmp_path / "newer") == 0
    assert f"of other weights, {checkpoint_path(str(run), epoch=1)}" in capsys.readouterr().err
    for name in ("changed", "other clips", "newer"):
        assert content_of(tmp_path / name)["metrics"] is None
        assert "No test result belongs to these weights" in card_of(tmp_path / name)


def test_the_temperature_travels_with_the_weights(new_run: Run, tmp_path: Path) -> None:
    classifier = load(new_run())
    classifier.temperature = 1.25
    classifier.save(tmp_path / "out")
    assert load(tmp_path / "out").temperature == 1.25

    config = tmp_path / "out/config.json"
    for wrong in (0, -1, True, "hot", [1]):
        config.write_text(json.dumps(content_of(tmp_path / "out") | {"temperature": wrong}))
        with pytest.raises(ValueError, match=r"config\.json: temperature is .*, not a positive"):
            load(tmp_path / "out")


def test_a_run_without_a_test_has_no_accuracy(
    new_run: Run, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(new_run(entries={}), tmp_path / "out") == 0
    assert "no accuracy: the run has no result of a finished test" in capsys.readouterr().err
    card = card_of(tmp_path / "out")
    assert "their accuracy is unknown" in card
    assert "The recipe is not known" in card
    assert "model-index" not in card


def test_nothing_of_this_machine_is_exported(
    new_run: Run, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "somebody-known")
    template = str(tmp_path / "videos/{path}")
    run = new_run(is_tested=True, DATA__VIDEO_TEMPLATE=template, MODEL__WEIGHTS_DIR=tmp_path)
    tested = json.loads((run / "test/metrics.json").read_text())
    assert export(run, tmp_path / "out") == 0

    secrets = {getpass.getuser(), pwd.getpwuid(os.getuid()).pw_name, socket.gethostname()}
    secrets |= {str(Path.home()), os.getcwd(), str(tmp_path), str(run), ".mp4", "PATH_TO_DATA_DIR"}
    secrets |= {tested["list"], *(tested["run_by"][name] for name in ("command", "cwd", "path"))}
    long_secrets = [secret.encode() for secret in secrets if len(secret) > 3]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 3
    for path in files:
        content = path.read_bytes().replace(b'predict("video.mp4")', b"")
        assert not [secret for secret in long_secrets if secret in content], path.name
        assert b"\xff\xd8\xff" not in content  # no JPEG


def test_frames_are_those_of_mistakes(new_run: Run, export: Export, tmp_path: Path) -> None:
    run = new_run(is_tested=True)
    assert export(run, tmp_path / "out", "--with-frames") == 0
    card = card_of(tmp_path / "out")
    images = sorted((tmp_path / "out/frames").iterdir())
    assert [path.name for path in images] == [f"{number}.jpg" for number in range(1, 9)]
    assert all(f"![frames](frames/{path.name}) | " in card for path in images)
    with Image.open(images[0]) as image:
        assert image.size == (4 * 112, 112)
        assert not image.getexif()
    assert str(tmp_path) not in card
    assert ".mp4 " not in card


def test_frames_need_a_test(
    new_run: Run, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(new_run(), tmp_path / "out", "--with-frames") == 1
    assert "--with-frames shows videos of the test, but the run has no" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_refused(
    new_run: Run, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run = new_run()
    assert export(run, out) == 1
    assert f"error: {out}: exists already. Delete it, or choose another" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_an_export_that_fails_leaves_nothing(
    new_run: Run, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, parent = new_run(), tmp_path / "shared"
    parent.mkdir()
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space")))
    assert export(run, parent / "out") == 1
    assert not list(parent.iterdir())


def test_a_path_in_a_key_of_your_own_is_refused(new_run: Run, tmp_path: Path) -> None:
    classifier = load(new_run())
    classifier.config["MINE.PRIOR"] = ["a", str(tmp_path / "prior.npy")]
    with pytest.raises(ValueError, match=r"MINE.PRIOR is '/.*prior.npy', a path of this machine"):
        classifier.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_odd_class_names_stay_in_their_cells(new_run: Run, export: Export, tmp_path: Path) -> None:
    names = ["a|b", "<script>", "*bold*", "{{ config }}", "a\nb", "`x`", "日本", "\x1b[2J"]
    assert export(new_run(entries={"class_names": names}), tmp_path / "out") == 0
    card = card_of(tmp_path / "out")
    assert "| 0 | a\\|b |\n| 1 | &lt;script> |\n| 2 | \\*bold\\* |" in card
    assert "| 3 | \\{\\{ config \\}\\} |\n| 4 | a b |\n| 5 | \\`x\\` |\n| 6 | 日本 |" in card
    assert "\x1b" not in card
    assert load(tmp_path / "out").class_names == names


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["out.safetensors", "--push", "a/b"], 2, "--push is for a folder, but"),
        (["out.pth", "--license", "mit"], 2, "--license is for a folder, but"),
        (["out.pyth"], 1, "the suffix of a weights file is .safetensors or .pth"),
    ],
)
def test_options_of_folders_are_refused_for_files(
    arguments: list[str],
    status: int,
    message: str,
    export: Export,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, *options = arguments
    assert export(tmp_path / "run", tmp_path / output, *options) == status
    assert message in capsys.readouterr().err
