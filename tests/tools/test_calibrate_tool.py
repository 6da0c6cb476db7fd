"""The files, output and exit status of tools/calibrate.py."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from slowfast.evaluation.ensemble import make_ensemble, write_ensemble
from slowfast.evaluation.result import Result, open_result
from tests.evaluation.results import write_test
from tests.tools.load_tool import load_main

calibrate = load_main("calibrate")

# Three of four videos are right, so that the best probability of a prediction is 3/4. The mean
# logits differ by 6: 6 / T = log(3).
LOGITS = np.tile(np.array([[[4, 0], [8, 0]]]), (4, 1, 1))
TEMPERATURE = 6 / np.log(3)


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """A test of two views with too large logits, with its weights."""
    weights = tmp_path / "x.pyth"
    weights.write_bytes(b"weights")
    checksum = hashlib.sha256(b"weights").hexdigest()
    return write_test(
        tmp_path / "run/test", LOGITS, [0, 0, 0, 1], weights=weights, weights_sha256=checksum
    )


def test_a_temperature_is_stored_with_the_weights(
    result: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate([str(tmp_path / "run")]) == 0
    stored = json.loads((tmp_path / "x.pyth.temperature.json").read_text())
    assert stored["temperature"] == pytest.approx(TEMPERATURE)
    assert stored["num_videos"] == 4
    assert stored["weights_sha256"] == result.record.identity["weights_sha256"]
    assert stored["test_id"] == result.record.test_id
    assert stored["list"] == "test.csv"

    certain, label = 1 / (1 + np.exp(-6)), np.array([0.75, 0.25])
    before = -(label @ np.log([certain, 1 - certain]))
    assert stored["before"]["nll"] == pytest.approx(before)
    assert stored["before"]["nll"] == pytest.approx(result.metrics["nll"])
    assert stored["before"]["ece"] == pytest.approx(100 * (certain - 0.75))
    assert stored["after"]["nll"] == pytest.approx(-(label @ np.log([0.75, 0.25])))
    assert stored["after"]["ece"] == pytest.approx(0, abs=1e-4)

    output = capsys.readouterr().out
    assert "4 of 4 videos have scores" in output
    assert f"temperature 5.4614: {tmp_path}/x.pyth.temperature.json" in output


def test_unscored_videos_take_no_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logits = np.concatenate([LOGITS, LOGITS])
    logits = logits.astype(float)
    logits[5] = np.inf
    unreadable = dict.fromkeys((4, 6, 7), "broken")
    write_test(tmp_path / "a", logits, [0, 0, 0, 1] * 2, unreadable=unreadable)
    assert calibrate([str(tmp_path / "a"), "--output", str(tmp_path / "t.json")]) == 0
    assert "4 of 8 videos have scores" in capsys.readouterr().out
    stored = json.loads((tmp_path / "t.json").read_text())
    assert stored["temperature"] == pytest.approx(TEMPERATURE)


def test_other_weights_are_refused(
    result: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(result.record.weights).write_bytes(b"newer")
    assert calibrate([str(result.folder)]) == 1
    assert "x.pyth: is another file than the one that" in capsys.readouterr().err
    assert not (tmp_path / "x.pyth.temperature.json").exists()


def test_missing_weights_need_an_output(
    result: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(result.record.weights).unlink()
    assert calibrate([str(result.folder)]) == 1
    assert "test are gone" in capsys.readouterr().err
    assert calibrate([str(result.folder), "--output", str(tmp_path / "t.json")]) == 0
    assert (tmp_path / "t.json").is_file()


def test_an_address_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_test(tmp_path / "a", LOGITS, [0, 0, 0, 1], weights="https://example.org/x.pyth")
    assert calibrate([str(tmp_path / "a")]) == 1
    assert "its weights are an address, https://example.org/x.pyth" in capsys.readouterr().err


def test_an_ensemble_needs_an_output(
    result: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ensemble(make_ensemble([result], weights=[1]), tmp_path / "new")
    assert open_result(tmp_path / "new").record.weights == result.record.weights
    assert calibrate([str(tmp_path / "new")]) == 1
    assert "is a result of an ensemble" in capsys.readouterr().err
    assert calibrate([str(tmp_path / "new"), "--output", str(tmp_path / "t.json")]) == 0


def test_a_folder_without_a_result_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate([str(tmp_path)]) == 1
    assert "holds no metrics.json" in capsys.readouterr().err
