"""A training starts from the weights its config names, and a test never takes random ones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast.config import CfgNode
from slowfast.engine.choose_weights import choose_start_weights, find_problems
from slowfast.utils.checkpoint import save_checkpoint
from slowfast.utils.checkpoint_files import checkpoint_path

TinyCfg = Callable[..., CfgNode]
NAME = "uniformer_small_in1k"


@pytest.fixture(autouse=True)
def _unset_weights_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEIGHTS_DIR", raising=False)


def start_file(checkpoint_path: object = "", *, model_name: str = "Uniformer", folder: Path) -> str:
    weights = choose_start_weights(str(checkpoint_path), pretrain_name=NAME, model_name=model_name)
    return weights.find_file(folder=str(folder))


def test_a_checkpoint_comes_before_the_published_name(tmp_path: Path) -> None:
    (tmp_path / "x.pth").touch()
    (tmp_path / f"{NAME}.pth").touch()
    assert start_file(folder=tmp_path) == str(tmp_path / f"{NAME}.pth")
    assert start_file(tmp_path / "x.pth", folder=tmp_path) == str(tmp_path / "x.pth")
    assert start_file(model_name="r3d_18", folder=tmp_path) == ""


def test_a_config_without_weights_starts_from_random_ones() -> None:
    weights = choose_start_weights("", pretrain_name="", model_name="Uniformer")
    assert weights.find_file(folder="") == ""


def test_missing_weights_are_found_before_a_run_starts(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    assert find_problems(tiny_cfg()) == []
    published = find_problems(tiny_cfg(UNIFORMER__PRETRAIN_NAME=NAME))
    assert f"is '{NAME}', but no folder" in published[0]

    missing = {
        "TRAIN__CHECKPOINT_FILE_PATH": tmp_path / "a.pth",
        "TEST__CHECKPOINT_FILE_PATH": tmp_path / "b.pth",
    }
    keys = [problem.split(" is ")[0] for problem in find_problems(tiny_cfg(**missing))]
    assert keys == ["TRAIN.CHECKPOINT_FILE_PATH", "TEST.CHECKPOINT_FILE_PATH"]

    [problem] = find_problems(tiny_cfg(TRAIN__ENABLE=False))
    assert "there are no weights to test" in problem


def test_weights_that_the_training_will_write_are_no_problem(
    tiny_cfg: TinyCfg, tmp_path: Path
) -> None:
    written = checkpoint_path(str(tmp_path / "run"), epoch=2)
    assert find_problems(tiny_cfg(TEST__CHECKPOINT_FILE_PATH=written)) == []
    assert find_problems(tiny_cfg(TEST__CHECKPOINT_FILE_PATH=written, TRAIN__ENABLE=False)) != []


def test_only_a_new_training_needs_the_start_weights(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg(UNIFORMER__PRETRAIN_NAME=NAME)
    save_checkpoint(checkpoint_path(cfg.OUTPUT_DIR, epoch=1), {"epoch": 1})
    assert find_problems(cfg) == []
    assert find_problems(tiny_cfg(UNIFORMER__PRETRAIN_NAME=NAME, TRAIN__ENABLE=False)) == []
    assert find_problems(tiny_cfg(UNIFORMER__PRETRAIN_NAME=NAME, TRAIN__AUTO_RESUME=False)) != []
