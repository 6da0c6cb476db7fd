"""Checks of videos with check_data.py, in this process and once in a process that is killed."""

import csv
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import pytest

from slowfast.datasets.manifest import STATUSES, read_manifest
from slowfast.preparation.check_report import OUTCOMES

Tool = Callable[..., int]


@pytest.fixture
def check_data(repository: Path, tmp_path: Path) -> Tool:
    """Run the tool with the lists and videos in the folder of the test."""
    main = runpy.run_path(str(repository / "tools/check_data.py"))["main"]

    def call(*arguments: str) -> int:
        return main(
            ["--cfg", str(repository / "configs/kinetics.yaml"), *settings(tmp_path), *arguments]
        )

    return call


def settings(folder: Path) -> list[str]:
    return ["DATA.PATH_TO_DATA_DIR", str(folder), "DATA.PATH_PREFIX", str(folder / "videos")]


@pytest.fixture
def lists_with_missing(tmp_path: Path, write_painted: Callable[..., Path]) -> Path:
    """A folder with lists of ten videos. One of each list is missing, another of train is empty."""
    (tmp_path / "videos").mkdir()
    write_painted(tmp_path / "videos/0.mp4", 8)
    for number in range(1, 9):
        os.link(tmp_path / "videos/0.mp4", tmp_path / f"videos/{number}.mp4")
    (tmp_path / "videos/8.mp4").unlink()
    (tmp_path / "videos/8.mp4").touch()
    (tmp_path / "train.csv").write_text(
        "".join(f"{number}.mp4,1\n" for number in (0, 1, 2, 3, 8, 9))
    )
    for split in ("val", "test"):
        (tmp_path / f"{split}.csv").write_text(
            "".join(f"{number}.mp4,2\n" for number in (4, 5, 6, 9))
        )
    return tmp_path


def test_all_splits_are_checked_and_summarized(
    lists_with_missing: Path, check_data: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_data("--workers", "2") == 1
    printed = capsys.readouterr().out.splitlines()
    title = [
        "split",
        "listed",
        "ok",
        "missing",
        "empty",
        "unreadable",
        "damaged",
        "truncated",
        "timeout",
        "crashed",
    ]
    assert [line.split() for line in printed[:4]] == [
        title,
        ["train", "6", "4", "1", "1", "0", "0", "0", "0", "0"],
        ["val", "4", "3", "1", "0", "0", "0", "0", "0", "0"],
        ["test", "4", "3", "1", "0", "0", "0", "0", "0", "0"],
    ]
    assert printed[4:8] == [
        "  train  8.mp4: empty: 0 bytes",
        "  train  9.mp4: missing: no such file or folder",
        "  val  9.mp4: missing: no such file or folder",
        "  test  9.mp4: missing: no such file or folder",
    ]
    assert printed[8:] == [
        f"missing videos were searched for in DATA.PATH_PREFIX: {lists_with_missing}/videos",
        "without DATA.MANIFEST:",
        "  missing, empty: training replaces it with another video, testing does not score it",
        "  2 of 6 training videos is more than DATA.MAX_BAD_FRACTION, 0.01: "
        "training stops with an error",
        f"manifest: {lists_with_missing}/manifest.csv",
        *printed[-1:],
    ]
    assert printed[-1].endswith(f"DATA.MANIFEST {lists_with_missing}/manifest.csv")
    assert read_manifest(str(lists_with_missing / "manifest.csv")).unreadable.keys() == {
        "8.mp4",
        "9.mp4",
    }
    assert read_manifest(str(lists_with_missing / "manifest.csv")).num_checked == 9


def write_tagged(path: Path, **tags: Any) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))


def test_hdr_and_non_square_pixels_are_counted(
    lists_with_missing: Path, check_data: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    tags: list[dict[str, Any]] = [
        {"color_trc": 16},
        {"color_trc": 16, "sample_aspect_ratio": Fraction(4, 3)},
    ]
    tags += [{"color_trc": 18}, {"color_trc": 1}, {"sample_aspect_ratio": Fraction(100, 99)}]
    for number, video_tags in enumerate(tags):
        write_tagged(lists_with_missing / f"videos/new {number}.mp4", **video_tags)
    (lists_with_missing / "train.csv").write_text(
        "".join(f"new {number}.mp4,1\n" for number in (0, 1, 2, 3, 4, 2))
    )
    (lists_with_missing / "val.csv").write_text("new 1.mp4,1\n")
    (lists_with_missing / "test.csv").write_text("0.mp4,1\n")
    assert check_data("--workers", "1") == 0
    assert [
        line.strip() for line in capsys.readouterr().out.splitlines() if "read as stored" in line
    ] == [
        "train  HDR (HLG): 2, HDR (PQ): 2, non-square pixels: 1 (read as stored)",
        "val  HDR (PQ): 1, non-square pixels: 1 (read as stored)",
    ]
    with (lists_with_missing / "manifest.csv").open(newline="") as file:
        rows = {
            row["path"]: (row["sample_aspect_ratio"], row["hdr"]) for row in csv.DictReader(file)
        }
    assert rows["new 1.mp4"] == ("4/3", "PQ")
    assert rows["0.mp4"] == ("1", "")


def test_the_outcome_of_every_status_is_known() -> None:
    assert [*OUTCOMES] == [*STATUSES]


def test_overrides_may_follow_the_splits(
    lists_with_missing: Path, check_data: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    (lists_with_missing / "other.csv").write_text("0.mp4,1\n")
    template = ("DATA.LABEL_PATH_TEMPLATE", "other.csv")
    assert check_data("--workers", "1", "--splits", "train", "val", *template) == 0
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:3]]
    assert rows == [["train", "1", "1"], ["val", "1", "1"]]
    assert check_data("--splits=val", "--workers", "1", "--splits", "val", *template) == 0
    with pytest.raises(SystemExit) as error:
        check_data("--splits", "trian", *template)
    assert error.value.code == 2
    assert "argument --splits: invalid choice: 'trian'" in capsys.readouterr().err


def test_doubtful_lists_are_reported(
    lists_with_missing: Path, check_data: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    (lists_with_missing / "videos/copy.mp4").write_bytes(
        (lists_with_missing / "videos/0.mp4").read_bytes()
    )
    (lists_with_missing / "train.csv").write_text("0.mp4,1\n1.mp4,1\n0.mp4,2\n")
    (lists_with_missing / "val.csv").write_text("copy.mp4,1\n")
    (lists_with_missing / "names.txt").write_text("\x1b[31mhop\nrun\nwalk\n")
    settings = ("MODEL.NUM_CLASSES", "3", "DATA.CLASS_NAMES", str(lists_with_missing / "names.txt"))
    assert check_data("--workers", "1", "--splits", "train", "val", *settings) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert [line for line in warnings if line.startswith("warning: ")] == [
        "warning: 1 of 1 video of val is also in train: copy.mp4 (as 0.mp4)",
        "warning: 1 video of train has two labels: 1.mp4 (1 and 2 as 0.mp4)",
        "warning: 1 of 3 classes has no training videos: \\x1b[31mhop",
    ]


def test_truncated_videos_fail_unless_allowed(
    lists_with_missing: Path,
    check_data: Tool,
    capsys: pytest.CaptureFixture[str],
    write_painted: Callable[..., Path],
) -> None:
    content = write_painted(lists_with_missing / "videos/whole.mkv", 50, g="10").read_bytes()
    (lists_with_missing / "videos/half\x1b[2J.mkv").write_bytes(content[: int(len(content) * 0.6)])
    (lists_with_missing / "val.csv").write_text("0.mp4,1\nhalf\x1b[2J.mkv,1\n")
    arguments = ("--splits", "val", "--workers", "1")
    assert check_data(*arguments) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["val", "2", "1", "0", "0", "0", "0", "1", "0", "0"]
    assert re.fullmatch(
        r"  val  half\\x1b\[2J\.mkv: truncated: ends at [01]\.\d\d of 2\.00 s", printed[2]
    )

    assert check_data(*arguments, "DATA.ALLOW_TRUNCATED", "True") == 0
    assert "truncated: ends at" in capsys.readouterr().out  # it is still said
    manifest = str(lists_with_missing / "manifest.csv")
    assert read_manifest(manifest).unreadable.keys() == {"half\x1b[2J.mkv"}
    assert not read_manifest(manifest, allow_truncated=True).unreadable


def test_the_exit_status_is_0_if_ok_1_if_not_2_if_misused(
    lists_with_missing: Path, check_data: Tool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (lists_with_missing / "val.csv").write_text("0.mp4,1\n")
    assert (
        check_data("--splits", "val", "--manifest", str(tmp_path / "new/m.csv"), "--workers", "1")
        == 0
    )
    assert "DATA.MANIFEST" not in capsys.readouterr().out
    assert (tmp_path / "new/m.csv").exists()
    assert check_data("DATA.PATH_TO_DATA_DIR", str(lists_with_missing / "none")) == 1
    assert "none/train.csv: no such file" in capsys.readouterr().err
    assert check_data("--manifest", str(lists_with_missing / "val.csv"), "--splits", "val") == 1
    assert "val.csv is not a manifest" in capsys.readouterr().err
    for arguments in (["--workers", "0"], ["--timeout", "0"], ["--splits", "none"]):
        with pytest.raises(SystemExit) as error:
            check_data(*arguments)
        assert error.value.code == 2
    assert "argument --workers: 0 is out of range. Use 1 or more" in capsys.readouterr().err


def test_a_manifest_is_a_local_file(
    lists_with_missing: Path,
    check_data: Tool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(lists_with_missing / "cache"))
    with ThreadingHTTPServer(
        ("localhost", 0), partial(SimpleHTTPRequestHandler, directory=str(lists_with_missing))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}"
        assert check_data("DATA.PATH_TO_DATA_DIR", address, "--workers", "1") == 1
        server.shutdown()
    assert (
        f"{address} cannot hold the manifest. Name a local file with --manifest"
        in capsys.readouterr().err
    )


NUM_MANY = 600


@pytest.fixture
def list_of_many_videos(tmp_path: Path, write_painted: Callable[..., Path]) -> Path:
    """A folder with a list of many videos."""
    (tmp_path / "videos").mkdir()
    video = write_painted(tmp_path / "videos/0.mp4", 100)
    for number in range(1, NUM_MANY):
        os.link(video, tmp_path / f"videos/{number}.mp4")
    (tmp_path / "train.csv").write_text("".join(f"{number}.mp4,1\n" for number in range(NUM_MANY)))
    return tmp_path


def wait_for_rows(manifest: Path, num_rows: int) -> None:
    deadline = time.monotonic() + 240  # it takes seconds, but the machine may be busy
    while not manifest.exists() or manifest.read_text().count("\n") <= num_rows:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_all_are_checked_once(manifest: Path) -> None:
    with manifest.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert sorted(row[0] for row in rows) == sorted(f"{number}.mp4" for number in range(NUM_MANY))
    assert {row[1] for row in rows} == {"ok"}


def test_a_killed_check_is_resumed(
    list_of_many_videos: Path, repository: Path, check_data: Tool
) -> None:
    command = [
        sys.executable,
        str(repository / "tools/check_data.py"),
        "--workers",
        "1",
        "--splits",
        "train",
    ]
    process = subprocess.Popen(
        [
            *command,
            "--cfg",
            str(repository / "configs/kinetics.yaml"),
            *settings(list_of_many_videos),
        ]
    )
    wait_for_rows(list_of_many_videos / "manifest.csv", 20)
    process.kill()
    process.wait()
    assert 18 < read_manifest(str(list_of_many_videos / "manifest.csv")).num_checked < NUM_MANY
    assert check_data("--splits", "train") == 0
    assert_all_are_checked_once(list_of_many_videos / "manifest.csv")


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_prints_one_line_and_the_check_is_resumed(
    list_of_many_videos: Path, check_data: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    def press() -> None:
        wait_for_rows(list_of_many_videos / "manifest.csv", 20)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    assert check_data("--splits", "train", "--workers", "1") == 130
    assert capsys.readouterr().err.endswith("\nstopped. The same command resumes the check\n")
    assert 18 < read_manifest(str(list_of_many_videos / "manifest.csv")).num_checked < NUM_MANY
    assert check_data("--splits", "train") == 0
    assert_all_are_checked_once(list_of_many_videos / "manifest.csv")
