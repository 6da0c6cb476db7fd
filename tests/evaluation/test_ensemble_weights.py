"""Weights that minimize the NLL, compared with a fine grid and with scipy."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from slowfast.evaluation import ensemble_weights
from slowfast.evaluation.ensemble import make_ensemble, write_ensemble
from slowfast.evaluation.ensemble_weights import check_same_members, choose_weights
from slowfast.evaluation.members import MemberScores, read_members
from slowfast.evaluation.result import Result, open_result
from tests.evaluation.results import one_hot, write_test

NUM_VIDEOS, NUM_CLASSES = 200, 5
LABELS = np.random.default_rng(0).integers(NUM_CLASSES, size=NUM_VIDEOS)


def noisy_logits(*, noise: float, seed: int) -> NDArray[np.float32]:
    """Return logits of two views that know the labels, with noise."""
    rng = np.random.default_rng(seed)
    logits = 2 * np.eye(NUM_CLASSES)[LABELS][:, None] + rng.normal(
        scale=noise, size=(NUM_VIDEOS, 2, NUM_CLASSES)
    )
    return logits.astype(np.float32)


def nll_of(logits: list[NDArray[np.float32]], combine: str) -> Callable[[NDArray], float]:
    """Return the NLL as a function of the weights."""
    views = np.stack(logits).astype(float)  # (M, N, V, K)
    values = views if combine == "logits" else softmax(views, axis=3)
    means = values.mean(axis=2)

    def nll(weights: NDArray) -> float:
        mixed = np.tensordot(weights, means, axes=1)
        log_probabilities = log_softmax(mixed, axis=1) if combine == "logits" else np.log(mixed)
        return -float(log_probabilities[np.arange(NUM_VIDEOS), LABELS].mean())

    return nll


def write_members(folder: Path, noises: list[float]) -> tuple[list[Result], list[NDArray]]:
    logits = [noisy_logits(noise=noise, seed=number) for number, noise in enumerate(noises, 1)]
    results = [
        write_test(folder / str(number), views, LABELS.tolist(), weights_sha256=str(number) * 64)
        for number, views in enumerate(logits)
    ]
    return results, logits


@pytest.mark.parametrize("combine", ["logits", "probabilities"])
@pytest.mark.parametrize("noises", [[1.5, 2.0], [3.0, 1.0], [1.0, 30.0]])
def test_two_weights_are_the_best_of_a_fine_grid(
    tmp_path: Path, combine: str, noises: list[float]
) -> None:
    results, logits = write_members(tmp_path, noises)
    found = choose_weights(results, combine=combine)
    nll = nll_of(logits, combine)

    best = 0.5
    for spread in (0.5, 0.01, 0.0002):
        grid = np.clip(np.linspace(best - spread, best + spread, 101), 0, 1)
        best = min(grid, key=lambda weight: nll(np.array([weight, 1 - weight])))
    assert found.weights[0] == pytest.approx(best, abs=1e-5)
    assert found.nll == pytest.approx(nll(np.array([best, 1 - best])), abs=1e-9)
    assert found.equal_nll == pytest.approx(nll(np.array([0.5, 0.5])))
    assert found.num_videos == NUM_VIDEOS


@pytest.mark.parametrize("combine", ["logits", "probabilities"])
def test_three_weights_agree_with_scipy(tmp_path: Path, combine: str) -> None:
    results, logits = write_members(tmp_path, [1.5, 2.0, 2.5])
    found = choose_weights(results, combine=combine)
    expected = minimize(
        nll_of(logits, combine),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-12},
    )
    assert found.weights == pytest.approx(expected.x, abs=1e-3)
    assert found.nll <= expected.fun + 1e-9
    assert sum(found.weights) == pytest.approx(1)


def test_a_useless_member_gets_no_weight(tmp_path: Path) -> None:
    good = one_hot([0, 1, 0, 1], 2)
    results = [
        write_test(tmp_path / "a", good, [0, 1, 0, 1]),
        write_test(tmp_path / "b", -good, [0, 1, 0, 1]),
    ]
    for combine in ("logits", "probabilities"):
        assert choose_weights(results, combine=combine).weights == (1, 0)


def test_equal_members_keep_equal_weights(tmp_path: Path) -> None:
    results, _ = write_members(tmp_path, [1.0])
    assert choose_weights(results * 2, combine="logits").weights == (0.5, 0.5)


def test_members_that_exclude_labels_share_the_weight(tmp_path: Path) -> None:
    # Each gives the label of one of the two videos a probability of e**-2000, which is 0.
    results = [
        write_test(tmp_path / "a", [[2000, 0], [2000, 0]], [0, 1]),
        write_test(tmp_path / "b", [[0, 2000], [0, 2000]], [0, 1]),
    ]
    assert choose_weights(results, combine="probabilities").weights == (0.5, 0.5)


@pytest.mark.filterwarnings("error")
def test_a_step_that_excludes_a_label_is_shortened(tmp_path: Path) -> None:
    # The first member gives every label 1/10. The second one gives 99 labels 1 and one 0. The NLL
    # -log(w / 10) - 99 log(w / 10 + 1 - w) is lowest at w = 1/90.
    certain = np.tile([2000.0, 0.0], (100, 1))
    certain[0] = [0, 2000]
    results = [
        write_test(tmp_path / "a", np.tile([0, np.log(9)], (100, 1)), [0] * 100),
        write_test(tmp_path / "b", certain, [0] * 100),
    ]
    found = choose_weights(results, combine="probabilities")
    assert found.weights == pytest.approx((1 / 90, 89 / 90), abs=1e-5)


@pytest.mark.parametrize("combine", ["logits", "probabilities"])
def test_the_scores_are_read_about_ten_times(
    tmp_path: Path, combine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, _ = write_members(tmp_path, [1.5, 2.0, 2.5])
    passes = []

    def read_and_count(*args: Any, **kwargs: Any) -> Iterator[MemberScores]:
        passes.append(1)
        return read_members(*args, **kwargs)

    monkeypatch.setattr(ensemble_weights, "read_members", read_and_count)
    choose_weights(results, combine=combine)
    assert 2 <= len(passes) <= 8


def test_weights_are_chosen_on_videos_that_all_scored(tmp_path: Path) -> None:
    results, _ = write_members(tmp_path / "all", [1.5, 2.0])
    scored = [
        write_test(
            tmp_path / str(number),
            noisy_logits(noise=noise, seed=number + 1)[:],
            LABELS.tolist(),
            unreadable=dict.fromkeys(range(number, 20, 2), "broken"),
        )
        for number, noise in enumerate([1.5, 2.0])
    ]
    rest = [
        write_test(
            tmp_path / f"rest {number}",
            noisy_logits(noise=noise, seed=number + 1)[20:],
            LABELS[20:].tolist(),
        )
        for number, noise in enumerate([1.5, 2.0])
    ]
    found = choose_weights(scored, combine="logits")
    assert found.num_videos == 180
    assert found == choose_weights(rest, combine="logits")
    assert found.weights != choose_weights(results, combine="logits").weights


# ---- Refused results -------------------------------------------------------------------------


@pytest.fixture
def tested(tmp_path: Path) -> list[Result]:
    """The members on the list of the ensemble."""
    return [
        write_test(tmp_path / f"test {number}", one_hot([0], 5), [0], weights_sha256=number * 64)
        for number in ("0", "1")
    ]


def test_results_of_the_members_are_accepted(tested: list[Result], tmp_path: Path) -> None:
    tuning, _ = write_members(tmp_path, [1.5, 2.0])
    check_same_members(tested, tuning)


def test_results_in_another_order_are_refused(tested: list[Result], tmp_path: Path) -> None:
    tuning, _ = write_members(tmp_path, [1.5, 2.0])
    message = r"member 1 is .*test 0, but .*1 is a result of other weights: .* 1111.* and not 0000"
    with pytest.raises(ValueError, match=message):
        check_same_members(tested, tuning[::-1])


def test_too_few_results_are_refused(tested: list[Result], tmp_path: Path) -> None:
    tuning, _ = write_members(tmp_path, [1.5, 2.0])
    with pytest.raises(ValueError, match="cannot choose weights on 1 result for 2 members"):
        check_same_members(tested, tuning[:1])


def test_the_list_of_the_ensemble_is_refused(tested: list[Result]) -> None:
    with pytest.raises(ValueError, match=r"are results of the same videos\. Weights that are"):
        check_same_members(tested, tested)


def test_tuning_lists_that_differ_are_refused(tested: list[Result], tmp_path: Path) -> None:
    tuning = [
        write_test(tmp_path / "x", one_hot([1], 5), [1], weights_sha256="0" * 64, paths=["x"]),
        write_test(tmp_path / "y", one_hot([1], 5), [1], weights_sha256="1" * 64, paths=["y"]),
    ]
    check_same_members(tested, tuning)
    with pytest.raises(ValueError, match=r"different lists: row 0 \(from 0\) is 'x'"):
        choose_weights(tuning, combine="logits")


def test_an_ensemble_can_be_tuned_as_a_member(tmp_path: Path) -> None:
    lists = []
    for name, rows in (("test", 50), ("val", 80)):
        results = [
            write_test(
                tmp_path / f"{name} {number}",
                noisy_logits(noise=2, seed=number)[:rows],
                LABELS[:rows].tolist(),
                weights_sha256=str(number) * 64,
            )
            for number in (1, 2, 3)
        ]
        folder = tmp_path / f"{name} ensemble"
        write_ensemble(make_ensemble(results[:2], weights=[1, 2]), folder)
        lists.append([open_result(folder), results[2]])
    check_same_members(*lists)
