"""tools/features.py: what it reads, what it writes, and its exit status."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slowfast.config import CfgNode
from slowfast.inference.feature_files import open_features
from tests.inference.conftest import save_random_checkpoint
from tests.tools.load_tool import load_main

main = load_main("features")

TinyCfg = Callable[..., CfgNode]


def test_the_config_in_the_weights_gives_the_lists(
    tiny_cfg: TinyCfg, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny_cfg(TEST__NUM_ENSEMBLE_VIEWS=1)
    save_random_checkpoint(cfg)
    moved = Path(cfg.OUTPUT_DIR).rename(tmp_path / "moved")
    command = [str(moved), "--split", "val", "test", "--per-video", "--stage", "3"]
    assert main([*command, "TEST.NUM_SPATIAL_CROPS", "3"]) == 0

    assert not Path(cfg.OUTPUT_DIR).exists()  # it may be a folder of somebody else
    out = moved / "features"
    val, test = open_features(out / "val"), open_features(out / "test")
    assert val[:].shape == (16, 16)
    assert test[:].shape == (24, 16)
    assert test.record.identity["num_crops"] == 3
    assert f"{out / 'test'}: 24 features of 24 videos of test, each 16" in capsys.readouterr().out


def test_a_config_and_a_folder_can_be_given(
    tiny_cfg: TinyCfg, tmp_path: Path, broken_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny_cfg(DATA__PATH_TO_DATA_DIR=broken_folder, DATA__PATH_PREFIX=broken_folder)
    weights = save_random_checkpoint(cfg, tmp_path / "weights.pyth")
    config = tmp_path / "config.yaml"
    config.write_text(cfg.dump())
    command = [str(weights), "--cfg", str(config), "--tokens", "--out", str(tmp_path / "out")]
    assert main(command) == 3
    printed = capsys.readouterr().out
    assert "no features: " in printed
    assert "30 features of 15 videos of test, each 2 x 16" in printed
    assert np.isfinite(open_features(tmp_path / "out/test")[:]).all()
    assert main([*command, "TEST.ALLOW_UNSCORED", "True"]) == 0  # finished


def test_wrong_usage_has_its_own_status(
    tiny_cfg: TinyCfg, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["w", "--split", "dev"], ["w", "--per-clip", "--per-video"], []):
        with pytest.raises(SystemExit, match="2"):
            main(command)
    capsys.readouterr()

    assert main([str(tmp_path / "none.pyth")]) == 1
    assert "none.pyth" in capsys.readouterr().err
    state = tmp_path / "plain.pyth"
    save_random_checkpoint(tiny_cfg(), state, entries={"cfg": None})
    assert main([str(state)]) == 1
    assert (
        "holds no config, so its model and its clips are unknown. Name the YAML file"
        in capsys.readouterr().err
    )
    save_random_checkpoint(tiny_cfg(), state)
    assert main([str(state)]) == 2
    assert "Name the folder of features with --out" in capsys.readouterr().err
