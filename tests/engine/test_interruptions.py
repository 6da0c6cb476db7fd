"""Runs that are killed, stopped and started again end as if nothing had happened."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from slowfast.utils.checkpoint import load_checkpoint, newest_checkpoint
from slowfast.utils.interrupt import INTERRUPTED_STATUS

Serve = Callable[..., list[int]]
SERVER = Path(__file__).with_name("run_server.py")


@pytest.fixture(scope="module")
def serve(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Run tools/run_net.py, and send it a signal at a moment; returns the exit statuses of its processes."""
    server = subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path_factory.mktemp("server"),
    )
    requests, answers = server.stdin, server.stdout
    assert requests is not None
    assert answers is not None

    def run(arguments: list[str], *, num_processes: int, signal: str = "", when: float | str = 0.0) -> list[int]:
        request = {"arguments": arguments, "num_processes": num_processes, "signal": signal, "when": when}
        print(json.dumps(request), file=requests, flush=True)
        statuses: list[int] = json.loads(answers.readline())
        return statuses

    yield run
    requests.close()
    server.wait()


@pytest.fixture
def arguments(repository: Path, tiny_settings: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """A run of 16 epochs with 16 steps each, whose steps are random in every way, and which saves all the time."""

    def make(folder: str, num_processes: int, **overrides: Any) -> list[str]:
        settings: dict[str, Any] = {
            "OUTPUT_DIR": tmp_path / folder,
            "NUM_GPUS": num_processes if num_processes > 1 else 0,
            "DIST_BACKEND": "gloo",
            "TRAIN.BATCH_SIZE": 2,
            "TRAIN.CHECKPOINT_MINUTES": 0.001,
            "TRAIN.KEEP_LAST": 2,
            "TEST.ENABLE": False,
            "AUG.ENABLE": True,
            "MIXUP.ENABLE": True,
            "MODEL.LOSS_FUNC": "soft_cross_entropy",
            "UNIFORMER.DROPOUT_RATE": 0.1,
            "SOLVER.MAX_EPOCH": 16,
            "TRAIN.EVAL_PERIOD": 4,
            "DATA_LOADER.NUM_WORKERS": 1,
        }
        names = {name.replace(".", "__"): value for name, value in settings.items()}
        return ["--cfg", str(repository / "exp/quickstart/config.yaml"), *tiny_settings(**(names | overrides))]

    return make


def assert_same(first: Any, second: Any) -> None:
    """Equal to the bit, through dicts and lists."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def assert_same_end(first: Path, second: Path) -> None:
    states = [load_checkpoint(str(newest_checkpoint(str(folder)))) for folder in (first, second)]
    for part in ("epoch", "step", "model_state", "optimizer_state", "scaler_state"):
        assert_same(states[0][part], states[1][part])
    texts = [(folder / "validation.json").read_text() for folder in (first, second)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("num_processes", "num_kills", "num_stops"),
    [
        pytest.param(1, 20, 5),
        pytest.param(2, 6, 2),
        pytest.param(2, 20, 5, marks=pytest.mark.soak),
    ],
)
def test_a_run_killed_at_random_moments_ends_in_the_same_weights_to_the_bit(
    serve: Serve,
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    num_processes: int,
    num_kills: int,
    num_stops: int,
) -> None:
    assert serve(arguments("quiet", num_processes), num_processes=num_processes) == [0] * num_processes
    rng = random.Random(num_processes)
    signals = ["SIGKILL"] * num_kills + ["SIGTERM"] * num_stops
    rng.shuffle(signals)
    ended = {"SIGKILL": 0, "SIGTERM": 0}
    for signal in signals:
        when = "saving" if signal == "SIGKILL" and rng.random() < 0.5 else rng.uniform(0.0, 1.0)
        statuses = serve(arguments("killed", num_processes), num_processes=num_processes, signal=signal, when=when)
        expected = {"SIGKILL": -9, "SIGTERM": INTERRUPTED_STATUS}[signal]
        assert set(statuses) <= {expected, 0, -15}, "ended by an error"  # -15: before it was ready for signals
        ended[signal] += statuses[0] == expected
    assert ended["SIGKILL"] > 0.6 * num_kills
    assert ended["SIGTERM"] > 0
    assert serve(arguments("killed", num_processes), num_processes=num_processes) == [0] * num_processes
    assert_same_end(tmp_path / "quiet", tmp_path / "killed")
