"""A test that is killed at any moment continues, and ends with the same bits."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from slowfast.config import CfgNode
from slowfast.evaluation.result import open_result
from slowfast.models.build import build_model
from slowfast.utils.checkpoint import save_checkpoint
from tests.engine.outputs import read_logits

Serve = Callable[..., list[int]]


@pytest.fixture
def make_command(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, num_videos: int
) -> Callable[[str], list[str]]:
    """The arguments of a test of some videos, by the name of its output folder."""
    given = tiny_cfg()
    rows = Path(given.DATA.PATH_TO_DATA_DIR, "test.csv").read_text().splitlines()
    lists = tmp_path / "lists"
    lists.mkdir()
    repeated = [rows[number % len(rows)] for number in range(num_videos)]
    (lists / "test.csv").write_text("\n".join(repeated))

    torch.manual_seed(3)
    weights = tmp_path / "weights.pyth"
    save_checkpoint(weights, {"model_state": build_model(given).state_dict()})

    def make(name: str) -> list[str]:
        cfg = tiny_cfg(
            TRAIN__ENABLE=False,
            DIST_BACKEND="gloo",
            DATA__PATH_TO_DATA_DIR=lists,
            OUTPUT_DIR=tmp_path / name,
            TEST__CHECKPOINT_FILE_PATH=weights,
            TEST__NUM_ENSEMBLE_VIEWS=1,
            TEST__BATCH_SIZE=32,
        )
        path = tmp_path / f"{name}.yaml"
        path.write_text(cfg.dump())
        return ["--cfg", str(path), "OUTPUT_DIR", str(tmp_path / name)]

    return make


@pytest.mark.parametrize(
    ("num_processes", "num_kills", "num_videos"),
    [
        (2, 2, 203),
        pytest.param(1, 10, 1003, marks=pytest.mark.soak),
        pytest.param(2, 10, 1003, marks=pytest.mark.soak),
    ],
)
def test_a_test_that_is_killed_ends_with_the_same_bits(
    make_command: Callable[[str], list[str]],
    serve: Serve,
    tmp_path: Path,
    num_processes: int,
    num_kills: int,
    num_videos: int,
) -> None:
    assert serve(make_command("quiet"), num_processes=1) == [0]
    quiet = tmp_path / "quiet"
    num_bytes = sum(path.stat().st_size for path in quiet.glob("test/scores/*"))

    rng = random.Random(num_processes)
    command, output = make_command("hit"), tmp_path / "output"
    for moment in sorted(rng.uniform(0, 0.9) for _ in range(num_kills)):
        statuses = serve(
            command,
            num_processes=num_processes,
            output=output,
            signal="SIGKILL",
            when=f"{int(moment * num_bytes)} bytes of scores",
        )
        assert -9 in statuses, output.read_text()
        torn = rng.choice(sorted((tmp_path / "hit/test/scores").glob("*")))
        with open(torn, "ab") as file:  # as if the machine had stopped in the middle of a write
            file.write(rng.randbytes(rng.randrange(100)))

    # Another number of processes than before, and in the end one more start of a finished test.
    statuses = serve(command, num_processes=3 - num_processes, output=output)
    assert set(statuses) == {0}, output.read_text()
    assert "continuing the test: " in output.read_text()
    assert np.array_equal(read_logits(tmp_path / "hit"), read_logits(quiet))
    found, expected = (open_result(folder) for folder in (tmp_path / "hit", quiet))
    assert found.predictions().equals(expected.predictions())
    assert found.metrics["num_scored"] == num_videos
    for name in ("top1", "nll", "ece", "intervals", "confusion", "views"):
        assert found.metrics[name] == expected.metrics[name], name


@pytest.mark.parametrize("num_videos", [203])
def test_a_test_that_lacks_its_result_alone_scores_nothing_again(
    make_command: Callable[[str], list[str]], serve: Serve, tmp_path: Path, num_videos: int
) -> None:
    command, output = make_command("hit"), tmp_path / "output"
    assert serve(command, num_processes=1) == [0]
    metrics = tmp_path / "hit/test/metrics.json"
    expected = open_result(tmp_path / "hit").metrics
    metrics.unlink()

    assert serve(command, num_processes=1, output=output) == [0]
    message = f"continuing the test: {num_videos} of {num_videos} videos are scored already"
    assert message in output.read_text()
    found = open_result(tmp_path / "hit").metrics
    assert (found["top1"], found["nll"]) == (expected["top1"], expected["nll"])
