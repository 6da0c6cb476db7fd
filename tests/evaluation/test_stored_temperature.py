"""A stored temperature: when a test uses it, and when it is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from slowfast.config import CfgNode
from slowfast.config import find_problems as find_config_problems
from slowfast.engine.choose_weights import find_problems
from slowfast.engine.evaluate import evaluate
from slowfast.evaluation.result import Result, open_result
from slowfast.evaluation.stored_temperature import (
    fit_to_result,
    read_temperature,
    temperature_path,
    write_temperature,
)
from slowfast.models.build import build_model
from slowfast.utils.checkpoint import save_checkpoint
from tests.engine.outputs import evaluate_labeled
from tests.evaluation.results import write_test

TinyCfg = Callable[..., CfgNode]
SHA256 = "a" * 64


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """Path of weights that have a temperature."""
    result = write_test(
        tmp_path / "result",
        [[6, 0]] * 4,
        [0, 0, 0, 1],
        weights_sha256=SHA256,
        settings={"TEST.EMA": True},
    )
    path = str(tmp_path / "x.pyth")
    write_temperature(temperature_path(path), fit_to_result(result), weights=path)
    return path


def test_a_temperature_is_read_again(weights: str) -> None:
    temperature = read_temperature(weights, weights_sha256=SHA256, ema=True)
    assert temperature == pytest.approx(6 / np.log(3))


def test_other_weights_have_no_temperature(weights: str) -> None:
    with pytest.raises(ValueError, match=r"x\.pyth\.temperature\.json: belongs to other weights"):
        read_temperature(weights, weights_sha256="b" * 64, ema=True)
    with pytest.raises(ValueError, match=r"was fitted with TEST\.EMA True, but TEST\.EMA is False"):
        read_temperature(weights, weights_sha256=SHA256, ema=False)


def test_weights_without_a_temperature_are_refused(tmp_path: Path) -> None:
    message = (
        r"no temperature of .*y\.pyth: .*y\.pyth\.temperature\.json does not exist\. Run tools"
    )
    with pytest.raises(FileNotFoundError, match=message):
        read_temperature(str(tmp_path / "y.pyth"), weights_sha256=SHA256, ema=True)
    with pytest.raises(FileNotFoundError, match="the weights are an address: https"):
        read_temperature("https://example.org/y.pyth", weights_sha256=SHA256, ema=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("version", 2, "has version 2, and not 1"),
        ("temperature", 0, "the temperature is 0"),
        ("temperature", -1.5, r"the temperature is -1\.5"),
        ("temperature", None, "the temperature is None"),
        ("temperature", "2", "the temperature is '2'"),
        ("temperature", True, "the temperature is True"),
    ],
)
def test_an_edited_file_is_refused(weights: str, name: str, value: object, message: str) -> None:
    path = temperature_path(weights)
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(ValueError, match=message):
        read_temperature(weights, weights_sha256=SHA256, ema=True)


@pytest.mark.parametrize("content", ["", "[1, 2]", "{"])
def test_a_damaged_file_is_refused(weights: str, content: str) -> None:
    temperature_path(weights).write_text(content)
    with pytest.raises(ValueError, match=r"x\.pyth\.temperature\.json: "):
        read_temperature(weights, weights_sha256=SHA256, ema=True)


# ---- Tests that use it -----------------------------------------------------------------------


def save_random_weights(cfg: CfgNode, path: Path) -> Path:
    torch.manual_seed(3)
    save_checkpoint(path, {"model_state": build_model(cfg).state_dict()})
    return path


def read_log_probabilities(result: Result, temperature: float) -> np.ndarray:
    shards = result.record.shards(result.folder)
    logits = np.concatenate([scores.logits for scores in shards.read()]).astype(float)
    return log_softmax(logits.mean(axis=1) / temperature, axis=1)


def test_a_calibrated_test_uses_the_temperature(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    path = save_random_weights(tiny_cfg(), tmp_path / "x.pyth")
    settings = {"TEST__CHECKPOINT_FILE_PATH": path, "TRAIN__ENABLE": False}
    plain = evaluate_labeled(tiny_cfg(**settings))
    result = open_result(tmp_path / "run")
    assert result.metrics["temperature"] is None
    stored = fit_to_result(result)
    assert stored.before.nll == pytest.approx(plain.nll)
    write_temperature(temperature_path(str(path)), stored, weights=str(path))

    calibrated = evaluate_labeled(tiny_cfg(**settings, TEST__CALIBRATED=True))
    metrics = open_result(tmp_path / "run").metrics
    assert metrics["temperature"] == stored.temperature
    assert metrics["test_id"] == result.record.test_id  # the same scores
    assert calibrated.top1 == plain.top1
    assert calibrated.nll == pytest.approx(stored.after.nll)
    assert calibrated.nll < plain.nll

    videos = result.predictions("label", "nll", "top_probabilities")
    labels = videos["label"].to_numpy()
    expected = read_log_probabilities(result, stored.temperature)
    nlls = -expected[np.arange(len(labels)), labels]
    np.testing.assert_allclose(videos["nll"].to_numpy(), nlls, rtol=1e-5)
    found = np.array(videos["top_probabilities"].to_pylist())
    highest = np.sort(np.exp(expected), axis=1)[:, :-6:-1]
    np.testing.assert_allclose(found, highest, rtol=1e-5)

    assert evaluate_labeled(tiny_cfg(**settings)).nll == plain.nll


def test_a_test_refuses_a_temperature_of_older_weights(
    tiny_cfg: TinyCfg, tmp_path: Path, weights: str
) -> None:
    save_random_weights(tiny_cfg(), Path(weights))
    settings = {"TEST__CHECKPOINT_FILE_PATH": weights, "TEST__CALIBRATED": True}
    with pytest.raises(ValueError, match="belongs to other weights"):
        evaluate(tiny_cfg(**settings))
    assert not (tmp_path / "run/test").exists()


def test_a_missing_temperature_is_found_before_a_run(tiny_cfg: TinyCfg, tmp_path: Path) -> None:
    path = save_random_weights(tiny_cfg(), tmp_path / "y.pyth")
    named = {"TEST__CHECKPOINT_FILE_PATH": path, "TEST__CALIBRATED": True}
    (problem,) = find_problems(tiny_cfg(**named, TRAIN__ENABLE=False))
    assert problem.startswith("TEST.CALIBRATED is True, but there is no temperature of")

    (problem,) = find_problems(tiny_cfg(TEST__CALIBRATED=True))
    assert problem.startswith("TEST.CALIBRATED is True, but the training writes the weights")


def test_a_temperature_is_no_problem_before_a_run(tiny_cfg: TinyCfg, weights: str) -> None:
    Path(weights).touch()
    named = {"TEST__CHECKPOINT_FILE_PATH": weights, "TEST__CALIBRATED": True}
    assert find_problems(tiny_cfg(**named, TRAIN__ENABLE=False)) == []


def test_a_temperature_needs_sums_of_logits(tiny_cfg: TinyCfg) -> None:
    cfg = tiny_cfg()
    cfg.defrost()
    cfg.TEST.CALIBRATED = True
    assert find_config_problems(cfg) == []
    cfg.DATA.ENSEMBLE_METHOD = "max"
    assert find_config_problems(cfg) == [
        "TEST.CALIBRATED is True, but DATA.ENSEMBLE_METHOD is 'max'. A temperature is fitted to "
        "sums of logits. Use sum, or TEST.CALIBRATED False"
    ]
