"""tools/probe.py: its table, its files, and a checkpoint that is tested like any other."""

from collections.abc import Callable
from pathlib import Path

import pytest
import simplejson
import torch

from slowfast.config import CfgNode, parse_cfg
from slowfast.models.heads import build_head
from slowfast.trained import load
from slowfast.utils.checkpoint import load_checkpoint
from tests.engine.outputs import evaluate_labeled
from tests.inference.extractions import extract
from tests.probing.labeled_clusters import CLASS_NAMES, write_clusters
from tests.tools.load_tool import load_main

main = load_main("probe")


def test_the_table_the_result_and_the_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("train", "test")):
        write_clusters(tmp_path / name, seed=seed)
    grid = ["--head", "linear", "mlp", "--lr", "0.01", "0.1", "--weight-decay", "0"]
    command = [str(tmp_path / "train"), str(tmp_path / "test"), *grid, "--epochs", "3"]
    assert main([*command, "--hold-out", "0.2"]) == 0

    result = simplejson.loads((tmp_path / "probe/probe.json").read_text())
    assert (result["num_train"], result["num_val"], result["hold_out"]) == (24, 6, 0.2)
    assert [(probe["head"], probe["lr"]) for probe in result["probes"]] == [
        ("linear", 0.01), ("linear", 0.1), ("mlp", 0.01), ("mlp", 0.1),
    ]  # fmt: skip
    assert result["best"] in result["probes"]
    low, high = result["test"]["intervals"]["top1"]
    top1 = result["test"]["top1"]
    printed = capsys.readouterr().out
    assert f"test: top-1 {top1:.2f} (95 % interval {low:.2f} to {high:.2f})" in printed
    assert printed.count("  best\n") == 1

    state = load_checkpoint(tmp_path / "probe/head.safetensors")
    assert state["class_names"] == CLASS_NAMES
    head = build_head(result["best"]["head"], num_features=8, num_classes=3)
    head.load_state_dict(state["model_state"])
    assert main(command) == 1
    assert "probe.json: exists already" in capsys.readouterr().err


def test_wrong_usage_is_refused_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("train", "test")):
        write_clusters(tmp_path / name, seed=seed)
    train, test = str(tmp_path / "train"), str(tmp_path / "test")
    assert main([train, train]) == 1
    assert "which the probes are trained on" in capsys.readouterr().err
    assert main([train, test, "--val", test]) == 1
    assert "selected on the test videos" in capsys.readouterr().err
    assert main([train, test, "--head", "attentive"]) == 1
    assert "tools/features.py --tokens" in capsys.readouterr().err
    assert main([train, test, "--device", "toaster"]) == 2
    assert "--device toaster: there is no such device" in capsys.readouterr().err
    assert main([train, test, "--export", "x.onnx"]) == 2
    assert "the suffix of a checkpoint is .pyth or .pth" in capsys.readouterr().err
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_the_exported_model_is_tested_like_any_other(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, kind: str
) -> None:
    cfg = tiny_cfg(TEST__NUM_ENSEMBLE_VIEWS=1)
    for split in ("train", "test"):
        extract(cfg, split, split=split, tokens=kind == "attentive")
    run, exported = Path(cfg.OUTPUT_DIR), tmp_path / "probed.pyth"
    grid = ["--head", kind, "--lr", "0.03", "--weight-decay", "0", "--epochs", "20"]
    assert main([str(run / "train"), str(run / "test"), *grid, "--export", str(exported)]) == 0
    result = simplejson.loads((run / "probe/probe.json").read_text())

    state = load_checkpoint(exported)
    given = parse_cfg(state["cfg"], origin="exported")
    assert kind == given.MODEL.HEAD
    assert state["class_names"] == load(exported).class_names
    backbone = load_checkpoint(run / "checkpoints/checkpoint_epoch_00001.pyth")["model_state"]
    kept = [name for name in backbone if not name.startswith(("head.", "pool."))]
    assert all(torch.equal(state["model_state"][name], backbone[name]) for name in kept)

    tested = tiny_cfg(
        OUTPUT_DIR=tmp_path / "tested",
        TEST__CHECKPOINT_FILE_PATH=exported,
        TEST__NUM_ENSEMBLE_VIEWS=1,
        MODEL__HEAD=kind,
    )
    metrics = evaluate_labeled(tested)
    assert metrics.top1 == result["test"]["top1"]
    assert metrics.nll == pytest.approx(result["test"]["nll"], rel=1e-5)


def test_a_head_of_another_stage_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("train", "test")):
        write_clusters(tmp_path / name, seed=seed, stage=3)
    command = [str(tmp_path / "train"), str(tmp_path / "test")]
    assert main([*command, "--export", str(tmp_path / "x.pyth")]) == 1
    assert "the features are of stage 3" in capsys.readouterr().err
