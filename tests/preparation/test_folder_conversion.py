"""Conversion of a folder of videos: failures, results of earlier runs, and names that clash."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from slowfast.preparation.convert import resize_videos


def resize(videos: Path, out: Path, **settings: Any) -> dict[str, int]:
    return dict(resize_videos(videos, out, num_workers=2, **settings).counts)


def test_failed_videos_are_listed_and_tried_again(
    videos: Path, tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    good = write_painted(videos / "good.mkv", 10)
    (videos / "text.mp4").write_text("not a video")
    write_painted(videos / "long.mp4", 60, g="10")
    content = bytearray((videos / "long.mp4").read_bytes())
    with av.open(str(videos / "long.mp4")) as container:
        packets = [
            (packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size
        ]
    for position, size in packets[30:40]:
        content[position : position + size] = bytes(size)
    (videos / "damaged.mkv").write_bytes(content)

    result = resize_videos(videos, tmp_path / "out", num_workers=2)
    assert result.counts == {"copied": 1, "resized": 1, "failed": 2}
    assert result.failed_path == tmp_path / "out/resize_failed.csv"

    with result.failed_path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "reason"]
    reasons = dict(rows)
    assert reasons.keys() == {"text.mp4", "damaged.mkv"}
    assert reasons["text.mp4"] == "invalid data found when processing input"
    assert {path.name for path in (tmp_path / "out").glob("*.mp4")} == {"good.mp4", "long.mp4"}

    for name in reasons:
        (videos / name).write_bytes(good.read_bytes())
    again = resize_videos(videos, tmp_path / "out", num_workers=2)
    assert again.counts == {"there already": 2, "resized": 2}
    assert again.failed_path is None
    assert not (tmp_path / "out/resize_failed.csv").exists()


def test_a_failed_video_with_a_name_not_in_utf_8_is_listed(videos: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(videos) + b"/caf\xe9.mp4")).write_text("not a video")
    result = resize_videos(videos, tmp_path / "out", num_workers=1)
    assert result.counts == {"failed": 1}
    assert result.failed_path is not None
    assert b"caf\xe9.mp4,invalid data" in result.failed_path.read_bytes()


def test_existing_results_are_kept_unless_truncated(
    videos: Path, tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    for name in ("one", "two"):
        write_painted(videos / f"{name}.mkv", 10)
    resize(videos, tmp_path / "out")
    one, two = (tmp_path / f"out/{name}.mp4" for name in ("one", "two"))
    before = one.stat().st_mtime_ns
    whole = two.read_bytes()

    two.write_bytes(whole[:-100])
    assert resize(videos, tmp_path / "out") == {"there already": 1, "resized": 1}
    assert one.stat().st_mtime_ns == before
    assert two.read_bytes() == whole


def test_results_of_other_settings_are_never_mixed(
    videos: Path, tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    write_painted(videos / "one.mkv", 10)
    resize(videos, tmp_path / "out")
    with pytest.raises(
        FileExistsError, match=r'out was made with \{"short_side": 320, "crf": 18\}'
    ):
        resize(videos, tmp_path / "out", crf=23)
    assert json.loads((tmp_path / "out/resize.json").read_text()) == {"short_side": 320, "crf": 18}


def test_two_videos_never_become_one(
    videos: Path, tmp_path: Path, write_painted: Callable[..., Path]
) -> None:
    write_painted(videos / "one.mkv", 10)
    write_painted(videos / "one.mp4", 10)
    with pytest.raises(
        ValueError, match=r"one\.mkv and .*one\.mp4 would both become .*out/one\.mp4. Rename one"
    ):
        resize(videos, tmp_path / "out")


def test_folders_may_have_a_colon_in_their_names(
    tmp_path: Path, write_painted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("12:30").mkdir()
    write_painted(tmp_path / "12:30/a.mp4", 5)
    done = resize_videos(Path("12:30"), Path("0:0"), short_side=16, num_workers=1)
    assert done == ({"resized": 1}, None)
    assert Path("0:0/a.mp4").is_file()
