"""What build_loader says before a run: classes without videos, and videos that are dropped."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from slowfast.config import CfgNode
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import build_loader
from slowfast.datasets.manifest import Entry

MakeCfg = Callable[..., CfgNode]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, down to what is only information."""
    caplog.set_level(logging.INFO, logger="slowfast")
    return caplog


@pytest.fixture
def listed_cfg(tiny_cfg: MakeCfg, tmp_path: Path) -> MakeCfg:
    """The config of a small run whose lists have the given labels, of 10 classes."""

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
    listed_cfg: MakeCfg, log: pytest.LogCaptureFixture
) -> None:
    cfg = listed_cfg(train=[1, 2, 3, 4, 5, 6, 8, 9], val=[7])
    build_loader(cfg, "train")
    build_loader(cfg, "val")
    build_loader(cfg, "test")
    assert log.messages == [
        "2 of 10 classes have no training videos: a, h",
        "9 of 10 classes have no validation videos: a, b, c, d, e and 4 more",
    ]
    assert {record.levelname for record in log.records} == {"WARNING"}


def test_one_class_without_videos_is_one(
    listed_cfg: MakeCfg, log: pytest.LogCaptureFixture
) -> None:
    build_loader(listed_cfg(train=[*range(9)] * 8, val=[0]), "train")
    assert log.messages == ["1 of 10 classes has no training videos: j"]


def test_a_class_of_bad_videos_alone_has_no_videos(
    listed_cfg: MakeCfg, log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    manifest = tmp_path / "manifest.csv"
    row = Entry("0.mp4", status="empty", reason="0 bytes")
    manifest.write_text(f"{','.join(Entry._fields)}\n{','.join(map(str, row))}\n")
    cfg = listed_cfg(train=[*range(10)], val=[*range(10)], DATA__MANIFEST=manifest)
    for split in ("train", "val"):
        build_loader(cfg, split)
    assert [message for message in log.messages if "classes" in message] == [
        "1 of 10 classes has no training videos: a",
        "1 of 10 classes has no validation videos: a",
    ]


def test_videos_that_fill_no_step_are_counted(
    listed_cfg: MakeCfg, log: pytest.LogCaptureFixture
) -> None:
    cfg = listed_cfg(train=[*range(10)] * 3, val=[0], TRAIN__BATCH_SIZE=16)
    assert build_loader(cfg, "train").num_steps == 1
    assert log.messages == [
        "14 of 30 videos are left out of each epoch (different ones each time), since they do not "
        "fill a step of 16; TRAIN.DROP_LAST False keeps them"
    ]


def test_kept_videos_are_not_counted_as_left_out(
    listed_cfg: MakeCfg, log: pytest.LogCaptureFixture
) -> None:
    labels = [*range(10)] * 3
    settings = {"TRAIN__BATCH_SIZE": 16, "TRAIN__DROP_LAST": False}
    loader = build_loader(listed_cfg(train=labels, val=[0], **settings), "train")
    assert (loader.num_steps, len(loader)) == (2, 2)
    assert [len(batch) for batch in loader.batch_sampler] == [16, 14]
    assert log.messages == []


def test_one_draw_that_fills_no_step_is_one(
    listed_cfg: MakeCfg, log: pytest.LogCaptureFixture
) -> None:
    labels = [*range(10)] * 2 + [0]
    settings = {"TRAIN__BATCH_SIZE": 20, "TRAIN__SAMPLING": "balanced"}
    build_loader(listed_cfg(train=labels, val=[0], **settings), "train")
    (message,) = log.messages
    assert message.startswith("1 of 21 draws is left out of each epoch")


def test_given_videos_are_not_judged(listed_cfg: MakeCfg, log: pytest.LogCaptureFixture) -> None:
    cfg = listed_cfg(train=[0], val=[0])
    some = Annotations([f"{number}.mp4" for number in range(9)], [0] * 9)
    for split in ("train", "val"):
        build_loader(cfg, split, annotations=some)
    assert log.messages == []


@pytest.mark.parametrize("num_samples", [1, 2])
def test_copies_of_a_repeated_video_all_differ(tiny_cfg: MakeCfg, num_samples: int) -> None:
    # One video for a step of 3 parts, each of which shows it.
    settings = {"AUG__ENABLE": True, "AUG__NUM_SAMPLE": num_samples, "TRAIN__DROP_LAST": False}
    cfg = tiny_cfg(**settings, TRAIN__BATCH_SIZE=3)
    whole = build_loader(cfg, "train").dataset.annotations
    given = whole.select([0])
    loader = build_loader(cfg, "train", annotations=given, parts_per_step=3)
    batches = list(loader)
    assert [len(batch.label) for batch in batches] == [num_samples] * 3
    clips = [clip.numpy().tobytes() for batch in batches for clip in batch.frames]
    assert len(set(clips)) == 3 * num_samples
