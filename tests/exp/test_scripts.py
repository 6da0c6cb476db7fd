"""The scripts of each experiment: what they name, what they start, and what they ask for."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.exp.experiments import EXPERIMENTS, ROOT, load_experiment, run_script
from tests.exp.small_run import SmallRun

Serve = Callable[..., list[int]]


@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_scripts_name_a_folder_of_lists_and_no_hyperparameter(exp: str) -> None:
    lists = EXPERIMENTS[exp].lists
    for name, call in (("run.sh", "train_and_test"), ("test.sh", "test_weights")):
        *_, last = lines = (ROOT / "exp" / exp / name).read_text().splitlines()
        words = last.split()
        assert (words[0], words[1], words[-1]) == (call, lists, '"$@"')
        assert set(words[2:-1:2]) <= {"NUM_SHARDS"}
        assert "set -euo pipefail" in lines
        assert not re.search(r"\b(SOLVER|UNIFORMER|AUG|MIXUP|MODEL|BN|DATA)\.", "\n".join(lines))


@pytest.mark.parametrize("exp", EXPERIMENTS)
def test_only_several_machines_are_queued_by_default(exp: str, tmp_path: Path) -> None:
    def command(name: str, **environment: str) -> list[str]:
        """Return the command that a script ends in, as `echo` prints it in place of Python."""
        environment |= {"PYTHON": "echo", "DATA_DIR": str(tmp_path)}
        done = run_script(exp, name, "A.KEY", "value", folder=tmp_path, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    run_net, submit = str(ROOT / "tools/run_net.py"), str(ROOT / "tools/submit.py")
    cfg = str(ROOT / "exp" / exp / "config.yaml")
    needs_several = load_experiment(exp).NUM_SHARDS > 1  # submit.py reads it there.
    trained, tested = command("run.sh"), command("test.sh")
    assert trained[:3] == [submit if needs_several else run_net, "--cfg", cfg]
    assert tested[:3] == [run_net, "--cfg", cfg]
    assert trained[-2:] == tested[-2:] == ["A.KEY", "value"]
    assert ("NUM_SHARDS" in tested) == needs_several  # One machine is enough for a test.

    assert command("run.sh", SUBMIT="")[:3] == [run_net, "--cfg", cfg]
    options = "--qos high --timeout 60"
    queued = command("run.sh", SUBMIT="yes", PARTITION="gpu", SUBMIT_ARGS=options)
    assert queued[:9] == [submit, "--partition", "gpu", *options.split(), "--cfg", cfg]


def test_a_run_without_data_ends_in_one_message(small_run: Callable[..., SmallRun]) -> None:
    run = small_run("uniformer_s8x8_k400")
    message = f"uniformer_s8x8_k400: {ROOT}/data_list/k400 is not a folder. Set DATA_DIR"
    remedies = {
        "DATA.PATH_TO_DATA_DIR",
        "VIDEO_DIR",
        "DATA.PATH_PREFIX",
        "WEIGHTS_DIR",
        "MODEL.WEIGHTS_DIR",
    }
    for name in ("run.sh", "test.sh"):
        result = run.script(name, DATA_DIR="", VIDEO_DIR="", WEIGHTS_DIR="")
        assert result.returncode == 1
        assert result.stderr.startswith(message)
        assert {word for word in remedies if word not in result.stderr} == set()

    result = run.script("run.sh", VIDEO_DIR="/no videos")
    assert result.returncode == 1
    message = "/no videos is not a folder. Set VIDEO_DIR (or the key DATA.PATH_PREFIX)"
    assert message in result.stderr
    assert not run.output.exists()


def test_a_run_without_lists_ends_in_one_message(
    small_run: Callable[..., SmallRun], tmp_path: Path, serve: Serve
) -> None:
    run = small_run("uniformer_s8x8_k400", serve=serve)
    lists = ("DATA.PATH_TO_DATA_DIR", str(tmp_path))
    result = run.script("run.sh", *lists, DATA_DIR="/nowhere", WEIGHTS_DIR="")
    assert result.returncode == 1
    assert f"{tmp_path}/train.csv: no such file. Check DATA.PATH_TO_DATA_DIR" in result.stderr
    assert "UNIFORMER.PRETRAIN_NAME is 'uniformer_small_in1k'" in result.stderr
    assert "MODEL.WEIGHTS_DIR" in result.stderr
    assert "environment variable WEIGHTS_DIR" in result.stderr
    assert "Traceback" not in result.stderr

    # A test does not need the weights that a training starts from.
    result = run.script("test.sh", WEIGHTS_DIR="")
    assert result.returncode == 1
    assert "there are no weights to test: TEST.CHECKPOINT_FILE_PATH" in result.stderr
    assert "PRETRAIN_NAME" not in result.stderr
    assert "Traceback" not in result.stderr
    assert not (run.output / "checkpoints").exists()
