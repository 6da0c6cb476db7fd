"""Logs of build_loader before a run: classes without videos, and dropped videos."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slowfast.config import CfgNode
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import build_loader, find_problems
from slowfast.datasets.manifest import Entry

MakeCfg = Callable[..., CfgNode]


@pytest.fixture
def info_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, including messages of the level INFO."""
    caplog.set_level(logging.INFO, logger="slowfast")
    return caplog


@pytest.fixture
def make_listed_cfg(tiny_cfg: MakeCfg, tmp_path: Path) -> MakeCfg:
    """Builder of a config whose lists have the given labels, of 10 classes."""

    def make(*, train: list[int], val: list[int], **overrides: object) -> CfgNode:
        for split, labels in {"train": train, "val": val}.items():
            rows = [f"{number}.mp4,{label}\n" for number, label in enumerate(labels)]
            (tmp_path / f"{split}.csv").write_text("".join(rows))
        (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in "abcdefghij"))
        settings = {
            "DATA__PATH_TO_DATA_DIR": tmp_path,
            "DATA__CLASS_NAMES": tmp_path / "classes.txt",
            "MODEL__NUM_CLASSES": 10,
        }
        return tiny_cfg(**(settings | overrides))

    return make


def test_classes_without_videos_are_named(
    make_listed_cfg: MakeCfg, info_log: pytest.LogCaptureFixture
) -> None:
    cfg = make_listed_cfg(train=[1, 2, 3, 4, 5, 6, 8, 9], val=[7])
    build_loader(cfg, "train")
    build_loader(cfg, "val")
    build_loader(cfg, "test")
    assert info_log.messages == [
        "2 of 10 classes have no training videos: a, h",
        "9 of 10 classes have no validation videos: a, b, c, d, e and 4 more",
    ]
    assert {record.levelname for record in info_log.records} == {"WARNING"}


def test_one_class_without_videos_is_one(
    make_listed_cfg: MakeCfg, info_log: pytest.LogCaptureFixture
) -> None:
    build_loader(make_listed_cfg(train=[*range(9)] * 8, val=[0]), "train")
    assert info_log.messages == ["1 of 10 classes has no training videos: j"]


def test_a_class_of_unreadable_videos_has_no_videos(
    make_listed_cfg: MakeCfg, info_log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    manifest = tmp_path / "manifest.csv"
    row = Entry("0.mp4", status="empty", reason="0 bytes")
    manifest.write_text(f"{','.join(Entry._fields)}\n{','.join(map(str, row))}\n")
    cfg = make_listed_cfg(train=[*range(10)], val=[*range(10)], DATA__MANIFEST=manifest)
    for split in ("train", "val"):
        build_loader(cfg, split)
    assert [message for message in info_log.messages if "classes" in message] == [
        "1 of 10 classes has no training videos: a",
        "1 of 10 classes has no validation videos: a",
    ]


def test_videos_of_two_lists_are_named_before_a_run(
    make_listed_cfg: MakeCfg, info_log: pytest.LogCaptureFixture
) -> None:
    assert find_problems(make_listed_cfg(train=[0, 1, 2], val=[0, 1])) == []
    assert info_log.messages == [
        "2 of 2 videos of val are also in train: 0.mp4, 1.mp4",
        "2 of 2 videos of test are also in train: 0.mp4, 1.mp4",
    ]


def test_videos_that_fill_no_step_are_counted(
    make_listed_cfg: MakeCfg, info_log: pytest.LogCaptureFixture
) -> None:
    cfg = make_listed_cfg(train=[*range(10)] * 3, val=[0], TRAIN__BATCH_SIZE=16)
    assert build_loader(cfg, "train").num_steps == 1
    assert info_log.messages == [
        "each epoch drops 14 of 30 videos, chosen at random, as an incomplete step of 16; "
        "TRAIN.DROP_LAST False keeps it"
    ]


def test_kept_videos_are_not_counted_as_dropped(
    make_listed_cfg: MakeCfg, info_log: pytest.LogCaptureFixture
) -> None:
    labels = [*range(10)] * 3
    settings = {"TRAIN__BATCH_SIZE": 16, "TRAIN__DROP_LAST": False}
    loader = build_loader(make_listed_cfg(train=labels, val=[0], **settings), "train")
    assert (loader.num_steps, len(loader)) == (2, 2)
    assert [len(batch) for batch in loader.batch_sampler] == [16, 14]
    assert info_log.messages == []


def test_one_draw_that_fills_no_step_is_one(
    make_listed_cfg: MakeCfg, info_log: pytest.LogCaptureFixture
) -> None:
    labels = [*range(10)] * 2 + [0]
    settings = {"TRAIN__BATCH_SIZE": 20, "TRAIN__SAMPLING": "balanced"}
    build_loader(make_listed_cfg(train=labels, val=[0], **settings), "train")
    (message,) = info_log.messages
    assert message.startswith("each epoch drops 1 of 21 draws, ")


def test_given_annotations_are_not_checked(
    make_listed_cfg: MakeCfg, info_log: pytest.LogCaptureFixture
) -> None:
    cfg = make_listed_cfg(train=[0], val=[0])
    some = Annotations([f"{number}.mp4" for number in range(9)], [0] * 9)
    for split in ("train", "val"):
        build_loader(cfg, split, annotations=some)
    assert info_log.messages == []


@pytest.mark.parametrize("num_samples", [1, 2])
def test_copies_of_a_repeated_video_all_differ(tiny_cfg: MakeCfg, num_samples: int) -> None:
    # One video for a step of 3 micro-batches, each of which shows it.
    settings = {"AUG__ENABLE": True, "AUG__NUM_SAMPLE": num_samples, "TRAIN__DROP_LAST": False}
    cfg = tiny_cfg(**settings, TRAIN__BATCH_SIZE=3)
    whole = build_loader(cfg, "train").dataset.annotations
    given = whole.select([0])
    loader = build_loader(cfg, "train", annotations=given, micro_batches_per_step=3)
    batches = list(loader)
    assert [len(batch.labels) for batch in batches] == [num_samples] * 3

    clips = {clip.numpy().tobytes() for clip in torch.cat([batch.frames for batch in batches])}
    assert len(clips) == 3 * num_samples
