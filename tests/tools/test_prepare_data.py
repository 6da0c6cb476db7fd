"""The commands of prepare_data.py, in this process and once in a process that is killed."""

import os
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from slowfast.config import load_cfg
from slowfast.datasets.catalog import build_annotations, build_class_names

Tool = Callable[..., int]


@pytest.fixture
def prepare_data(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Run the tool in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(repository / "tools/prepare_data.py"))["main"]
    return lambda *arguments: main(list(arguments))


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def test_split_prints_a_command_that_trains_on_its_lists(
    prepare_data: Tool, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(
        tmp_path,
        *[f"my videos/{name}/{number}.mp4" for name in ("ant", "bee") for number in range(10)],
    )
    assert prepare_data("split", "my videos", "lists", "--val", "0.2") == 0
    printed = capsys.readouterr()
    summary, command = printed.out.splitlines()
    assert summary == "lists: 12 videos for training, 4 for validation, 4 for the test"
    assert printed.err == (
        "warning: 2 classes have fewer than 3 videos for validation or testing, "
        "too few for a reliable accuracy: ant, bee\n"
    )
    assert command.startswith("train: python tools/run_net.py --cfg configs/own_videos.yaml ")
    cfg = load_cfg(str(repository / "configs/own_videos.yaml"), shlex.split(command)[5:])
    assert [len(build_annotations(cfg, split)) for split in ("train", "val", "test")] == [12, 4, 4]
    assert build_class_names(cfg) == ["ant", "bee"]
    assert (tmp_path / cfg.DATA.PATH_PREFIX / build_annotations(cfg, "train")[0].path).exists()


def test_a_tilde_is_the_home_folder(
    prepare_data: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    touch(tmp_path / "home", *[f"videos/ant/{number}.mp4" for number in range(3)])
    assert prepare_data("split", "~/videos", "~/lists") == 0
    assert (tmp_path / "home/lists/train.csv").exists()


def test_split_names_classes_too_small_for_a_list(
    prepare_data: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, *[f"videos/ant/{number}.mp4" for number in range(20)], "videos/bee/0.mp4")
    assert prepare_data("split", "videos", "lists") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(
        "lists: 15 videos for training, 3 for validation, 3 for the test\n"
    )
    assert printed.err == "warning: 1 class has too few videos to be in all lists: bee\n"


def test_split_counts_one_video_as_one(
    prepare_data: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, *[f"videos/ant/{number}.mp4" for number in range(3)])
    assert prepare_data("split", "videos", "lists") == 0
    assert capsys.readouterr().out.startswith(
        "lists: 1 video for training, 1 for validation, 1 for the test\n"
    )
    assert prepare_data("split", "videos", "others", "--val", "0.6", "--test", "0.4") == 1
    assert "the shares for validation and test are 0.6 and 0.4. Use" in capsys.readouterr().err


def test_a_repeated_split_says_how_many_videos_stayed(
    prepare_data: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path, *[f"videos/ant/{number}.mp4" for number in range(20)])
    assert prepare_data("split", "videos", "lists", "--test", "0") == 0
    assert capsys.readouterr().out.startswith(
        "lists: 17 videos for training, 3 for validation, 0 for the test\n"
    )
    assert not (tmp_path / "lists/test.csv").exists()
    touch(tmp_path, "videos/ant/new.mp4")
    assert prepare_data("split", "videos", "lists", "--test", "0") == 0
    assert capsys.readouterr().out.splitlines()[1] == "20 videos stayed in their lists, 1 added"
    assert prepare_data("split", "videos", "lists", "--test", "0", "--val", "0", "--force") == 0
    assert "warning: there is no val.csv, which training needs" in capsys.readouterr().err
    assert not (tmp_path / "lists/val.csv").exists()


def test_an_invalid_group_pattern_is_wrong_usage(
    prepare_data: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        prepare_data("split", "videos", "lists", "--group-by", "patient[")
    assert error.value.code == 2
    assert "argument --group-by: 'patient[' is no regular expression" in capsys.readouterr().err


def test_folds_print_a_command_for_the_first(
    prepare_data: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(
        tmp_path, *[f"videos/{name}/{number}.mp4" for name in ("ant", "bee") for number in range(9)]
    )
    assert prepare_data("split", "videos", "lists", "--folds", "3") == 0
    *folds, command = capsys.readouterr().out.splitlines()
    assert folds == [
        f"lists/fold{fold}: 12 videos for training, 6 for validation, 0 for the test"
        for fold in (1, 2, 3)
    ]
    assert "DATA.PATH_TO_DATA_DIR 'lists/fold1' DATA.PATH_PREFIX 'videos'" in command
    assert prepare_data("split", "videos", "lists", "--folds", "3", "--val", "0.2") == 2


@pytest.fixture
def something_annotations(tmp_path: Path) -> Path:
    """A folder with annotations of Something-Something V2, as distributed, of two classes."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "something-something-v2-labels.json").write_text(
        '{"Holding something": "0", "Moving something up": "1"}'
    )
    entry = (
        '{"id": "%d", "label": "holding a cup", "template": "Holding [something]", '
        '"placeholders": ["a cup"]}'
    )
    for name, numbers in (("train", range(4)), ("validation", range(4, 6))):
        entries = ",".join(entry % number for number in numbers)
        (folder / f"something-something-v2-{name}.json").write_text(f"[{entries}]")
    return folder


def test_lists_of_a_dataset_hold_the_videos_that_exist(
    prepare_data: Tool,
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    something_annotations: Path,
) -> None:
    touch(tmp_path, *[f"videos/{number}.webm" for number in (0, 2, 3, 4, 5)])
    command = [
        "lists",
        "--dataset",
        "ssv2_official",
        "--annotations",
        "annotations",
        "--videos",
        "videos",
        "lists",
    ]
    splits = ["--splits", "train", "val", "test"]  # the positional folder may follow them
    assert prepare_data(*command[:-1], *splits, "lists", "MODEL.NUM_CLASSES", "2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "train: lists/train.csv, 3 of 4 videos. The other is in missing_train.txt",
        "val: lists/val.csv, 2 of 2 videos",
        "test: lists/test.csv, 2 of 2 videos",
        "these lists are for other programs. Here, train with TRAIN.DATASET ssv2_official, "
        "which samples clips as published",
    ]
    assert (tmp_path / "lists/train.csv").read_text() == "0.webm,0\n2.webm,0\n3.webm,0\n"
    assert (tmp_path / "lists/missing_train.txt").read_text() == "1.webm\n"
    assert (
        tmp_path / "lists/classes.txt"
    ).read_text() == "Holding something\nMoving something up\n"
    assert prepare_data(*command) == 1
    assert "has 2 names, but MODEL.NUM_CLASSES is 400" in capsys.readouterr().err


def test_frame_folders_become_lists_of_something_something(
    prepare_data: Tool,
    repository: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    something_annotations: Path,
) -> None:
    touch(
        tmp_path,
        *[
            f"frames/{number}/img_{n + 1:05d}.jpg"
            for number in (0, 2, 4, 5)
            for n in range(number + 1)
        ],
    )
    command = [
        "lists",
        "--dataset",
        "ssv2_official",
        "--annotations",
        "annotations",
        "--videos",
        "frames",
        "--frames",
    ]
    overrides = ["MODEL.NUM_CLASSES", "2", "DATA.IMAGE_TEMPLATE", "img_{:05d}.jpg"]
    assert prepare_data(*command, "lists", *overrides) == 0
    settings = capsys.readouterr().out.splitlines()[-1]
    assert settings.startswith("train with: TRAIN.DATASET ssv2 TEST.DATASET ssv2 ")
    cfg = load_cfg(str(repository / "configs/ssv2.yaml"), shlex.split(settings)[2:])
    train = build_annotations(cfg, "train")
    assert [train[row][:3] for row in range(len(train))] == [("0", 0, 1), ("2", 0, 3)]
    test = build_annotations(cfg, "test")
    assert [test[row][:3] for row in range(len(test))] == [("4", 0, 5), ("5", 0, 6)]
    assert build_class_names(cfg) == ["Holding something", "Moving something up"]


def test_the_test_list_may_be_the_validation_list(prepare_data: Tool, tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("val", "de"), ("test", "fg")):
        touch(tmp_path, *[f"videos/{name}_000001_000011.mp4" for name in names])
        rows = "".join(f'"abseiling",{name},1,11,{split}\n' for name in names)
        (tmp_path / f"{split}.csv").write_text(
            "label,youtube_id,time_start,time_end,split\n" + rows
        )
    command = [
        "lists",
        "--dataset",
        "kinetics_official",
        "--annotations",
        ".",
        "--videos",
        "videos",
    ]
    assert prepare_data(*command, "--test-from", "val", "lists") == 0
    assert (tmp_path / "lists/test.csv").read_text() == (tmp_path / "lists/val.csv").read_text()
    assert prepare_data(*command, "lists2", "--splits", "test") == 0
    assert (
        tmp_path / "lists2/test.csv"
    ).read_text() == "f_000001_000011.mp4,341\ng_000001_000011.mp4,341\n"  # as published
    assert {path.name for path in (tmp_path / "lists2").iterdir()} == {"test.csv", "classes.txt"}


def test_video_datasets_are_not_listed_as_frames(
    prepare_data: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "lists",
        "--dataset",
        "kinetics_official",
        "--annotations",
        ".",
        "--videos",
        ".",
        "--frames",
        "lists",
    ]
    assert prepare_data(*command) == 1
    assert "Only Something-Something is trained on frame folders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resize", "a", "b", "--crf", "52"], "argument --crf: 52 is out of range. Use 0 to 51"),
        (["frames", "a", "b", "--workers", "0"], "--workers: 0 is out of range. Use 1 or more"),
        (["frames", "a", "b", "--quality", "x"], "--quality: invalid whole number value: 'x'"),
        (["split", "a", "b", "--val", "nan"], "--val: nan is out of range. Use 0 to 1"),
        (["resiz", "a", "b"], "invalid choice: 'resiz'"),
    ],
)
def test_wrong_usage_ends_in_status_2(
    prepare_data: Tool, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as error:
        prepare_data(*arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_dataset_is_wrong_usage(
    prepare_data: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["lists", "--dataset", "kinetic", "--annotations", ".", "--videos", ".", "lists"]
    assert prepare_data(*command) == 2
    assert capsys.readouterr().err.startswith("error: --dataset is 'kinetic'. Choose from ")


def test_resize_and_frames_count_the_outcomes(
    prepare_data: Tool,
    tmp_path: Path,
    write_painted: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "videos").mkdir()
    write_painted(tmp_path / "videos/a.mkv", 10)
    write_painted(tmp_path / "videos/b.mp4", 10)
    assert prepare_data("resize", "videos", "small", "--short-side", "16", "--workers", "1") == 0
    assert capsys.readouterr().out == "small: 2 videos, 2 resized\n"
    with av.open("small/a.mp4") as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (64, 16)
    assert (
        prepare_data("frames", "videos", "frames", "--template", "{:03d}.jpg", "--fps", "25") == 0
    )
    assert capsys.readouterr().out == "frames: 2 videos, 2 written\n"
    assert len(list((tmp_path / "frames/a").glob("0??.jpg"))) == 10

    (tmp_path / "videos/c.mp4").touch()
    assert prepare_data("resize", "videos", "small", "--short-side", "16") == 1
    assert capsys.readouterr().out.splitlines() == [
        "small: 3 videos, 1 failed, 2 there already",
        "failures, with reasons: small/resize_failed.csv. The same command tries them again",
    ]
    assert prepare_data("resize", "none", "small") == 1
    assert capsys.readouterr().err.endswith("error: none: no such folder, or no videos in it\n")


def test_a_killed_resize_leaves_whole_videos_and_resumes(
    prepare_data: Tool, repository: Path, tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    (tmp_path / "videos").mkdir()
    video = write_painted(tmp_path / "videos/0.mkv", 120)
    for number in range(1, 100):
        os.link(video, tmp_path / f"videos/{number}.mkv")
    command = [
        sys.executable,
        str(repository / "tools/prepare_data.py"),
        "resize",
        "videos",
        "small",
    ]
    process = subprocess.Popen([*command, "--workers", "2"], cwd=tmp_path)
    deadline = time.monotonic() + 240  # it takes seconds, but the machine may be busy
    while len(list(tmp_path.glob("small/*.mp4"))) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("small/*.mp4")}
    assert len(before) < 100
    assert prepare_data("resize", "videos", "small") == 0
    after = sorted(tmp_path.glob("small/*"))
    assert {path.name for path in after} == {
        *(f"{number}.mp4" for number in range(100)),
        "resize.json",
    }
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for path in after[:-1]:
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == 120
