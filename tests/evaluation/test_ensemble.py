"""Ensembles of results: numbers by hand, unscored videos, streaming, kills and refusals."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from slowfast.distributed.folder_lock import FolderLock, FolderLockedError
from slowfast.distributed.job import current_job
from slowfast.evaluation import ensemble as ensemble_module
from slowfast.evaluation.ensemble import (
    combine_scores,
    make_ensemble,
    normalize_weights,
    weights_checksum,
    write_ensemble,
)
from slowfast.evaluation.members import read_members
from slowfast.evaluation.result import Result, open_result
from slowfast.evaluation.shards import ShardError
from tests.evaluation.results import one_hot, write_test


def random_logits(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 3


def read_logits(result: Result) -> NDArray[np.float32]:
    """Return the logits of all views of all videos of a result."""
    shards = result.record.shards(result.folder)
    return np.concatenate([scores.logits for scores in shards.read()])


def write(folder: Path, members: list[Result], weights: list[float], combine: str) -> Result:
    assert write_ensemble(make_ensemble(members, weights=weights, combine=combine), folder)
    return open_result(folder)


@pytest.fixture
def members(tmp_path: Path) -> list[Result]:
    """Two results of 30 videos and 4 classes, with 3 views in groups of 5 and one view in groups
    of 4 videos."""
    labels = np.random.default_rng(0).integers(4, size=30).tolist()
    return [
        write_test(
            tmp_path / "a", random_logits(1, 30, 3, 4), labels, views_per_forward=15, weights="a"
        ),
        write_test(
            tmp_path / "b",
            random_logits(2, 30, 4),
            labels,
            weights="b",
            weights_sha256="b" * 64,
        ),
    ]


def test_two_videos_by_hand(tmp_path: Path) -> None:
    # Means over the views: [2, 1] and [0, 1]. With weights 1/4 and 3/4: [0.5, 1].
    members = [
        write_test(tmp_path / "a", [[[3, 0], [1, 2]]], [1]),
        write_test(tmp_path / "b", [[[0, 2], [0, 0]]], [1]),
    ]
    result = write(tmp_path / "new", members, [1, 3], "logits")
    assert read_logits(result).tolist() == [[[0.5, 1]]]
    assert result.metrics["top1"] == 100
    assert result.metrics["nll"] == pytest.approx(np.log1p(np.exp(-0.5)))


def test_probabilities_by_hand(tmp_path: Path) -> None:
    # Softmax of log(p) is p: 0.8 and 0.4 of two views are 0.6, and the other member says 0.1.
    views = np.log([[[0.8, 0.2], [0.4, 0.6]]])
    members = [
        write_test(tmp_path / "a", views, [0]),
        write_test(tmp_path / "b", np.log([[0.1, 0.9]]), [0]),
    ]
    result = write(tmp_path / "new", members, [4, 1], "probabilities")
    assert softmax(read_logits(result)[0, 0]) == pytest.approx([0.5, 0.5])
    assert result.metrics["nll"] == pytest.approx(np.log(2))


@pytest.mark.parametrize("combine", ["logits", "probabilities"])
def test_ensembles_agree_with_scipy(
    members: list[Result], tmp_path: Path, combine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble_module, "_VIDEOS_PER_RECORD", 7)
    result = write(tmp_path / "new", members, [2, 1], combine)
    logits = [read_logits(member).astype(float) for member in members]
    if combine == "logits":
        means = [views.mean(axis=1) for views in logits]
        expected = softmax((2 * means[0] + means[1]) / 3, axis=1)
    else:
        means = [softmax(views, axis=2).mean(axis=1) for views in logits]
        expected = (2 * means[0] + means[1]) / 3

    found = softmax(read_logits(result)[:, 0].astype(float), axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    labels = members[0].predictions("label")["label"].to_numpy()
    assert result.metrics["top1"] == 100 * np.mean(expected.argmax(axis=1) == labels)
    nll = -np.log(expected[np.arange(30), labels]).mean()
    assert result.metrics["nll"] == pytest.approx(nll, rel=1e-6)


@pytest.mark.parametrize("fusion", ["sum", "probabilities"])
def test_an_ensemble_of_one_result_is_that_result(tmp_path: Path, fusion: str) -> None:
    labels = np.random.default_rng(0).integers(4, size=30).tolist()
    member = write_test(tmp_path / "a", random_logits(1, 30, 3, 4), labels, fusion=fusion)
    combine = "logits" if fusion == "sum" else fusion
    result = write(tmp_path / "new", [member], [1], combine)
    for name in ("top1", "top5", "mean_class_accuracy", "macro_f1"):
        assert result.metrics[name] == member.metrics[name]
    assert result.metrics["nll"] == pytest.approx(member.metrics["nll"], rel=1e-6)


def test_an_ensemble_can_be_a_member(members: list[Result], tmp_path: Path) -> None:
    inner = write(tmp_path / "inner", members, [1, 1], "logits")
    outer = write(tmp_path / "outer", [inner, members[0]], [1, 1], "logits")
    direct = write(tmp_path / "direct", members, [3, 1], "logits")
    np.testing.assert_allclose(read_logits(outer), read_logits(direct), rtol=1e-5)


def test_a_member_without_weight_changes_nothing(members: list[Result], tmp_path: Path) -> None:
    for combine in ("logits", "probabilities"):
        result = write(tmp_path / combine, members, [1, 0], combine)
        alone = write(tmp_path / f"{combine} alone", members[:1], [1], combine)
        assert np.array_equal(read_logits(result), read_logits(alone))


def test_tiny_probabilities_do_not_underflow() -> None:
    scores = np.log([[[1e-300, 1.0]], [[1e-300, 1.0]]]) * 3  # log-probabilities of 1e-900
    found = combine_scores(scores, [0.5, 0.5], combine="probabilities")
    assert found[0, 0] == pytest.approx(3 * np.log(1e-300))


def test_logarithms_outside_of_float32_are_cut(tmp_path: Path) -> None:
    member = write_test(tmp_path / "a", [[3e38, -3e38]], [0])  # a logarithm of -6e38
    result = write(tmp_path / "new", [member], [1], "probabilities")
    assert result.metrics["num_scored"] == 1


def test_the_bits_do_not_depend_on_the_groups(tmp_path: Path) -> None:
    logits, labels = random_logits(1, 20, 2, 3), [0] * 20
    tables = []
    for size in (1, 6, 40):
        member = write_test(tmp_path / f"{size}", logits, labels, views_per_forward=size)
        other = write_test(tmp_path / f"{size} b", logits[::-1], labels, views_per_forward=4)
        result = write(tmp_path / f"{size} new", [member, other], [0.3, 0.7], "probabilities")
        tables.append(read_logits(result))
    assert np.array_equal(tables[0], tables[1])
    assert np.array_equal(tables[0], tables[2])


# ---- Videos without scores -------------------------------------------------------------------


def test_a_video_that_a_member_lacks_is_unscored(tmp_path: Path) -> None:
    logits = one_hot([0, 0, 0, 0], 2)
    infinite = logits.copy()
    infinite[3] = np.inf
    members = [
        write_test(tmp_path / "a", logits, [0, 0, 0, 0], unreadable={1: "1.mp4: broken"}),
        write_test(tmp_path / "b", infinite, [0, 0, 0, 0], unreadable={1: "?", 2: "2.mp4: gone"}),
    ]
    result = write(tmp_path / "new", members, [1, 1], "logits")
    reasons = result.predictions("reason")["reason"].to_pylist()
    assert reasons == [
        "",
        f"member 1 ({tmp_path}/a): 1.mp4: broken",
        f"member 2 ({tmp_path}/b): 2.mp4: gone",
        f"member 2 ({tmp_path}/b): its scores are not finite",
    ]
    assert (result.metrics["num_videos"], result.metrics["num_scored"]) == (4, 1)
    assert (result.metrics["top1"], result.metrics["top1_listed"]) == (100, 25)


def test_a_repaired_video_is_scored_by_the_next_call(tmp_path: Path) -> None:
    logits = one_hot([0, 1], 2)
    broken = write_test(tmp_path / "a", logits, [0, 1], unreadable={1: "broken"})
    assert write(tmp_path / "new", [broken], [1], "logits").metrics["num_scored"] == 1

    shutil.rmtree(tmp_path / "a")
    repaired = write_test(tmp_path / "a", logits, [0, 1])  # the same test ID
    assert write(tmp_path / "new", [repaired], [1], "logits").metrics["num_scored"] == 2


def test_no_common_video_is_an_error(tmp_path: Path) -> None:
    members = [
        write_test(tmp_path / str(row), one_hot([0, 0], 2), [0, 0], unreadable={row: "broken"})
        for row in (0, 1)
    ]
    with pytest.raises(ValueError, match=r"no video of 2 has scores\. .* member 1"):
        write(tmp_path / "new", members, [1, 1], "logits")


# ---- Folders ---------------------------------------------------------------------------------


def test_the_same_ensemble_is_finished(members: list[Result], tmp_path: Path) -> None:
    write(tmp_path / "new", members, [2, 1], "logits")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "new").rglob("*")}
    # The weights are relative: 4 and 2 are 2 and 1.
    assert not write_ensemble(make_ensemble(members, weights=[4, 2]), tmp_path / "new")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "new").rglob("*")} == before


@pytest.mark.parametrize("change", ["weights", "combine", "order"])
def test_a_folder_of_another_ensemble_is_refused(
    members: list[Result], tmp_path: Path, change: str
) -> None:
    write(tmp_path / "new", members, [2, 1], "logits")
    other = make_ensemble(
        members[::-1] if change == "order" else members,
        weights=[1, 1] if change == "weights" else [2, 1],
        combine="probabilities" if change == "combine" else "logits",
    )
    with pytest.raises(FileExistsError, match=r"new: holds another result \(other .*\)\. Choose"):
        write_ensemble(other, tmp_path / "new")


def test_a_folder_with_other_files_is_refused(members: list[Result], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    ensemble = make_ensemble(members, weights=[1, 1])
    with pytest.raises(FileExistsError, match=r"is not empty\. Choose another folder"):
        write_ensemble(ensemble, tmp_path)
    with pytest.raises(FileExistsError, match="holds another result"):
        write_ensemble(ensemble, members[0].folder)
    assert open_result(members[0].folder).record == members[0].record


def test_a_second_writer_is_refused(members: list[Result], tmp_path: Path) -> None:
    ensemble = make_ensemble(members, weights=[1, 1])
    with (
        FolderLock(tmp_path / "new.lock", purpose="ensemble", job=current_job()),
        pytest.raises(FolderLockedError, match="use another folder"),
    ):
        write_ensemble(ensemble, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert write_ensemble(ensemble, tmp_path / "new")
    assert not (tmp_path / "new.lock").exists()


def test_an_ensemble_continues_after_a_kill(
    members: list[Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble_module, "_VIDEOS_PER_RECORD", 7)
    whole = write(tmp_path / "whole", members, [2, 1], "logits")

    # What a kill leaves: no metrics, and a shard with two records and the start of a third one.
    killed = tmp_path / "killed"
    shutil.copytree(whole.folder, killed)
    (killed / "metrics.json").unlink()
    (shard,) = (killed / "scores").iterdir()
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])

    continued = write(killed, members, [2, 1], "logits")
    assert np.array_equal(read_logits(continued), read_logits(whole))
    sizes = [path.stat().st_size for path in sorted((killed / "scores").iterdir())]
    assert len(sizes) == 2
    assert max(sizes) < len(content)  # the second start wrote only what was missing
    assert continued.metrics["nll"] == whole.metrics["nll"]
    assert continued.predictions() == whole.predictions()


def test_a_torn_shard_of_a_member_is_refused(members: list[Result], tmp_path: Path) -> None:
    (shard,) = (members[1].folder / "scores").iterdir()
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ShardError, match="start_00001"):
        write(tmp_path / "new", members, [1, 1], "logits")
    assert not (tmp_path / "new/metrics.json").exists()


def test_an_edited_shard_of_a_member_is_refused(members: list[Result], tmp_path: Path) -> None:
    (shard,) = (members[1].folder / "scores").iterdir()
    content = shard.read_bytes()
    value = read_logits(members[1])[13, 0, 2].tobytes()
    assert content.count(value) == 1
    shard.write_bytes(content.replace(value, np.float32(50).tobytes()))
    with pytest.raises(ShardError, match="is damaged"):
        write(tmp_path / "new", members, [1, 1], "logits")


# ---- Refused members and weights -------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"cannot use 1 weight \(1\) for 2 results"),
        ([1.0, 2.0, 3.0], r"cannot use 3 weights \(1 2 3\) for 2 results"),
        ([2.0, -1.0], r"the weights are 2 -1\. Use numbers of 0 or more, not all 0"),
        ([0.0, 0.0], "the weights are 0 0"),
        ([np.nan, 1.0], "the weights are nan 1"),
        ([np.inf, 1.0], "the weights are inf 1"),
    ],
)
def test_wrong_weights_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalize_weights(weights, num_members=2)


def test_members_of_another_list_are_refused(members: list[Result], tmp_path: Path) -> None:
    labels = members[0].predictions("label")["label"].to_pylist()
    labels[29] = (labels[29] + 1) % 4
    other = write_test(tmp_path / "other", random_logits(3, 30, 4), labels)
    with pytest.raises(ValueError, match=r"different lists: row 29 \(from 0\)"):
        make_ensemble([members[0], other], weights=[1, 1])


def test_members_of_other_classes_are_refused(members: list[Result], tmp_path: Path) -> None:
    labels = members[0].predictions("label")["label"].to_pylist()
    names = ["class 0", "class 1", "class 3", "class 2"]
    other = write_test(tmp_path / "other", random_logits(3, 30, 4), labels, class_names=names)
    with pytest.raises(ValueError, match=r"class 2 \(from 0\) is 'class 2' in the first"):
        make_ensemble([members[0], other], weights=[1, 1])


def test_the_checksum_stands_for_members_and_weights(members: list[Result], tmp_path: Path) -> None:
    def checksum(members: list[Result], weights: list[float], combine: str = "logits") -> str:
        record = make_ensemble(members, weights=weights, combine=combine).make_record()
        return str(record.identity["weights_sha256"])

    elsewhere = [
        write_test(
            tmp_path / f"elsewhere {number}",
            random_logits(number, 5, 4),
            [0] * 5,
            weights_sha256=weights_checksum(member),
        )
        for number, member in enumerate(members)
    ]
    assert checksum(members, [1, 1]) == checksum(elsewhere, [1, 1])
    assert checksum(members, [1, 1]) != checksum(members, [1, 2])
    assert checksum(members, [1, 1]) != checksum(members, [1, 1], "probabilities")
    assert checksum(members, [1, 1]) != checksum(members[::-1], [1, 1])


def test_memory_does_not_grow_with_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slowfast.evaluation.summary._BYTES_AT_ONCE", 1 << 16)

    def peak(num_videos: int) -> int:
        labels = [0] * num_videos
        results = [
            write_test(
                tmp_path / f"{num_videos} {size}",
                random_logits(size, num_videos, 50),
                labels,
                views_per_forward=size,
            )
            for size in (30, 80)
        ]
        tracemalloc.start()
        for scores in read_members(results, combine="probabilities"):
            del scores
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(8000) < 1.3 * peak(2000)


def test_log_probabilities_of_the_ensemble_are_normalized() -> None:
    scores = log_softmax(random_logits(1, 3, 50, 10).astype(float), axis=2)
    found = combine_scores(scores, [0.2, 0.3, 0.5], combine="probabilities")
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-12)
