"""Selection: the best probe on the validation videos is tested once, on other videos."""

from pathlib import Path

import numpy as np
import pytest
import torch

from slowfast.probing.labeled_features import (
    LabeledFeatures,
    check_same_features,
    have_same_list,
    hold_out,
    label_features,
)
from slowfast.probing.probes import Schedule, make_grid
from slowfast.probing.selection import ProbeReport, ProbeScore, select_probe
from tests.probing.labeled_clusters import write_clusters

SCHEDULE = Schedule(num_epochs=2, batch_size=16)


def select(train: LabeledFeatures, val: LabeledFeatures, test: LabeledFeatures) -> ProbeReport:
    grid = make_grid(["linear"], lrs=[1e-5, 0.03, 3e38], weight_decays=[0.0])
    return select_probe(
        grid, train=train, val=val, test=test, schedule=SCHEDULE, device=torch.device("cpu")
    )


def test_the_test_videos_take_no_part_in_the_selection(tmp_path: Path) -> None:
    train = label_features(write_clusters(tmp_path / "train"))
    val = label_features(write_clusters(tmp_path / "val", seed=1))
    unreadable = {4: "4.mp4: broken"}
    test = write_clusters(tmp_path / "test", seed=2, unreadable=unreadable)
    wrong = write_clusters(tmp_path / "wrong", seed=2, label_shift=1)
    report = select(train, val, label_features(test))
    other = select(train, val, label_features(wrong))

    assert report.best == other.best == 1
    assert report.scores == other.scores
    assert report.metrics.top1 > 80 > 20 > other.metrics.top1
    assert report.metrics.num_unreadable == 1
    assert report.metrics.num_scored == 29
    low, high = report.metrics.intervals["top1"]
    assert low < report.metrics.top1 <= high


def test_a_probe_that_diverges_is_never_the_best(tmp_path: Path) -> None:
    train = label_features(write_clusters(tmp_path / "train"))
    report = select(train, train, train)
    assert report.scores[2].as_json()["nll"] is None
    assert [score.settings.lr for score in report.scores] == [1e-5, 0.03, 3e38]

    settings = report.scores[0].settings
    ranked = sorted(
        [ProbeScore(settings, 99.0, np.inf), ProbeScore(settings, 50.0, 2.0),
         ProbeScore(settings, 60.0, 3.0), ProbeScore(settings, 60.0, 1.0)],
        key=lambda score: score.rank,
    )  # fmt: skip
    assert [(score.top1, score.nll) for score in ranked] == [
        (60.0, 1.0), (60.0, 3.0), (50.0, 2.0), (99.0, np.inf),
    ]  # fmt: skip


def test_if_all_diverge_nothing_is_selected(tmp_path: Path) -> None:
    train = label_features(write_clusters(tmp_path / "train"))
    grid = make_grid(["linear"], lrs=[3e38], weight_decays=[0.0])
    with pytest.raises(FloatingPointError, match=r"every probe diverged.*--lr"):
        select_probe(
            grid, train=train, val=train, test=train, schedule=SCHEDULE, device=torch.device("cpu")
        )


def test_each_class_gives_a_share_of_its_videos_away(tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [20, 4, 1])
    labeled = label_features(write_clusters(tmp_path, num_videos=25, labels=labels))
    fit, held_out = hold_out(labeled, fraction=0.25, seed=3)
    assert np.bincount(fit.labels, minlength=3).tolist() == [15, 3, 1]
    assert np.bincount(held_out.labels, minlength=3).tolist() == [5, 1, 0]
    assert sorted([*fit.videos, *held_out.videos]) == list(range(25))

    again = hold_out(labeled, fraction=0.25, seed=3)[1]
    other = hold_out(labeled, fraction=0.25, seed=4)[1]
    assert again.videos.tolist() == held_out.videos.tolist() != other.videos.tolist()
    single = labeled.select(np.array([24]))
    with pytest.raises(ValueError, match="no class has two videos"):
        hold_out(single, fraction=0.25, seed=3)


def test_features_of_another_kind_are_refused(tmp_path: Path) -> None:
    train = write_clusters(tmp_path / "train")
    check_same_features(train, write_clusters(tmp_path / "a", per_video=3))
    with pytest.raises(ValueError, match=r"another kind \(other weights_sha256, stage\)"):
        check_same_features(train, write_clusters(tmp_path / "b", weights_sha256="x", stage=3))
    with pytest.raises(ValueError, match=r"other shape \(8,\) and \(4,\)"):
        check_same_features(train, write_clusters(tmp_path / "c", shape=(4,)))
    assert have_same_list(train, train)
    assert not have_same_list(train, write_clusters(tmp_path / "d"))


def test_videos_without_labels_train_no_probe(tmp_path: Path) -> None:
    labels = np.arange(30) % 3
    unlabeled = write_clusters(tmp_path / "a", labels=labels)
    label_features(unlabeled)
    broken = dict.fromkeys(range(30), "broken")
    with pytest.raises(ValueError, match="no video has features"):
        label_features(write_clusters(tmp_path / "b", unreadable=broken))
    with pytest.raises(ValueError, match="30 of 30 videos have no label"):
        label_features(write_clusters(tmp_path / "c", labels=np.full(30, -1)))
