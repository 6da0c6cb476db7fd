"""The command line of run_net.py: what it does, and the error for each mistake."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from slowfast.config import default_cfg


class Result(NamedTuple):
    """The exit status and output of a process."""

    status: int
    stdout: str
    stderr: str


Run = Callable[..., Result]
Quickstart = Callable[..., list[str]]


@pytest.fixture
def run_net(serve: Callable[..., list[int]], tmp_path: Path) -> Run:
    """Run the command in a process that has done the imports."""

    def run(*arguments: str) -> Result:
        said, errors = tmp_path / "said", tmp_path / "errors"
        (status,) = serve([*arguments], num_processes=1, output=said, errors=errors)
        return Result(status, said.read_text(), errors.read_text())

    return run


@pytest.fixture
def quickstart(repository: Path, tiny_settings: Callable[..., list[str]]) -> Quickstart:
    """Return the arguments of a tiny quickstart experiment, with overrides."""
    return lambda **overrides: [
        "--cfg",
        str(repository / "exp/quickstart/config.yaml"),
        *tiny_settings(**overrides),
    ]


SLOW_IMPORTS = """
import sys
import torch
imported_by_torch = set(sys.modules)
from slowfast.commands.run_net import main
assert main(sys.argv[1:]) == 0
slow = {"torch._dynamo", "sympy", "torchvision", "timm", "tensorboard", "matplotlib", "onnx"}
print("slow imports:", *sorted(slow & set(sys.modules) - imported_by_torch))
"""


def test_a_training_imports_no_compiler_and_no_extras(quickstart: Quickstart) -> None:
    settings = {"TRAIN__REHEARSE": True, "AUG__ENABLE": True, "DATA_LOADER__NUM_WORKERS": 1}
    arguments = quickstart(**settings, SOLVER__MAX_EPOCH=1)
    command = [sys.executable, "-c", SLOW_IMPORTS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "slow imports:"


def test_training_and_testing_in_one_command_with_two_processes(
    quickstart: Quickstart, repository: Path, tmp_path: Path
) -> None:
    settings = {"NUM_GPUS": 2, "DIST_BACKEND": "gloo", "DATA_LOADER__NUM_WORKERS": 1}
    arguments = quickstart(**settings, TEST__REPORT=True)
    command = [sys.executable, str(repository / "tools/run_net.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr

    assert "with 2 processes on CPU" in result.stdout
    assert "ETA" in result.stdout
    assert "all classes" in result.stdout

    files = {
        str(path.relative_to(tmp_path / "run"))
        for path in (tmp_path / "run").rglob("*")
        if path.is_file()
    }
    assert files == {
        "best.pyth",
        "config.yaml",
        "run.json",
        "stdout.log",
        "validation.json",
        "validation_metrics.json",
        "checkpoints/checkpoint_epoch_00001.pyth",
        "checkpoints/checkpoint_epoch_00002.pyth",
        "test/config.yaml",
        "test/metrics.json",
        "test/predictions.csv",
        "test/predictions.parquet",
        "test/report.html",
        "test/scores/start_00001_rank_00000.arrows",
        "test/scores/start_00001_rank_00001.arrows",
        "test/test.json",
    }


def test_print_config_prints_the_effective_tree(run_net: Run, quickstart: Quickstart) -> None:
    result = run_net(*quickstart(SOLVER__BASE_LR=0.125), "--print-config")
    tree = yaml.safe_load(result.stdout)
    assert tree["SOLVER"]["BASE_LR"] == 0.125
    assert tree["DATA"]["SAMPLING_RATE"] == 3
    assert tree.keys() == default_cfg().keys()


@pytest.mark.parametrize("name", ["train_net.py", "test_net.py"])
def test_the_published_names_of_the_tool_work(repository: Path, name: str) -> None:
    command = [
        sys.executable,
        str(repository / "tools" / name),
        "--cfg",
        str(repository / "configs/kinetics.yaml"),
    ]
    result = subprocess.run(
        [*command, "--print-config"], capture_output=True, text=True, timeout=60
    )
    assert yaml.safe_load(result.stdout)["MODEL"]["NUM_CLASSES"] == 400


def test_all_mistakes_are_reported_together_at_the_start(
    run_net: Run, quickstart: Quickstart, tmp_path: Path
) -> None:
    mistakes = {
        "NUM_GPUS": 7,
        "DATA__PATH_TO_DATA_DIR": tmp_path / "none",
        "MODEL__MODEL_NAME": "Unifomer",
        "MODEL__FREEZE": "[blocks1]",  # Without a model, there are no names.
    }
    result = run_net(*quickstart(**mistakes, SOLVER__LR_POLICY="cosin"))
    assert result.status == 1
    assert "Traceback" not in result.stderr
    for message in (
        "SOLVER.LR_POLICY is 'cosin'. Choose from cosine, steps_with_relative_lrs",
        "TRAIN.BATCH_SIZE is 8, which NUM_GPUS=7 processes cannot share equally. "
        "Use a multiple of 7",
        "MODEL.MODEL_NAME is 'Unifomer'. Choose one of: Uniformer",
        "none/train.csv: no such file. Check DATA.PATH_TO_DATA_DIR",
        "NUM_GPUS is 7, but this machine has",
    ):
        assert message in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"TRAIN__ENABLE": False},
            "there are no weights to test: TEST.CHECKPOINT_FILE_PATH is empty",
        ),
        (
            {"UNIFORMER__PRETRAIN_NAME": "uniformer_small_in1k", "MODEL__WEIGHTS_DIR": "/none"},
            "UNIFORMER.PRETRAIN_NAME is 'uniformer_small_in1k', but /none has no file "
            "uniformer_small_in1k.pth. "
            "Download it from https://",
        ),
        (
            {"MODEL__FREEZE": "[block1]"},
            "MODEL.FREEZE: 'block1' matches no module or parameter of UniFormer. "
            "The nearest names are blocks1",
        ),
        ({"DATA__PATH_PREFIX": "/none"}, "no such file. Check DATA.PATH_PREFIX"),
        (
            {"MODEL__NUM_CLASSES": 5, "DATA__CLASS_NAMES": ""},
            "line 6 has the label 5, but MODEL.NUM_CLASSES=5",
        ),
        (
            {"TRAIN__BATCH_SIZE": 64},
            "32 videos cannot be shared by 1 process with 64 videos per step",
        ),
    ],
)
def test_a_mistake_ends_in_one_message(
    run_net: Run, quickstart: Quickstart, overrides: dict[str, Any], message: str
) -> None:
    result = run_net(*quickstart(**overrides))
    assert result.status == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_config_file_is_named(run_net: Run) -> None:
    result = run_net("--cfg", "none.yaml")
    assert result.status == 1
    assert result.stderr.startswith("error: ")
    assert "none.yaml" in result.stderr
