import csv
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.decode import FrameFolder, VideoFile
from slowfast.datasets.manifest import Entry, check_videos, probe_video, read_manifest
from slowfast.datasets.records import Video
from slowfast.distributed.folder_lock import FolderLock, FolderLockedError
from slowfast.distributed.job import current_job


def open_file(video: Video, *, folder: Path) -> VideoFile:
    return VideoFile(str(folder / video.path))


def open_remote(video: Video, *, address: str) -> VideoFile:
    return VideoFile(f"{address}/{video.path}")


def open_frames(video: Video, *, folder: Path) -> FrameFolder:
    return FrameFolder(str(folder / video.path), template="{:05d}.jpg", num_frames=video.num_frames)


def open_or_fail(video: Video, *, folder: Path) -> VideoFile:
    """As a decoder does with some files."""
    if video.path == "segfault.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    if video.path == "endless.mp4":
        time.sleep(600)
    return open_file(video, folder=folder)


def check(
    folder: Path, *paths: str, opener: Callable[..., Any] = open_file, timeout: float = 60
) -> list[Entry]:
    """Check videos of a folder; return the rows of its manifest, which the check may have added to."""
    manifest = folder / "manifest.csv"
    check_videos(
        Annotations(list(paths), [0] * len(paths)),
        manifest,
        open_video=partial(opener, folder=folder),
        folder=str(folder),
        num_workers=2,
        timeout=timeout,
    )
    with manifest.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(Entry._fields)
    return [Entry(*row) for row in rows]


@pytest.fixture
def videos(tmp_path: Path, write_painted: Callable[..., Path]) -> Path:
    """Two good videos and one of each kind of bad one."""
    folder = tmp_path / "videos"
    (folder / "a class").mkdir(parents=True)
    good = write_painted(folder / "a class/one, two.mp4", 40, g="10")
    write_painted(folder / "slow.mkv", 5, fps=10)
    (folder / "empty.mp4").touch()
    (folder / "cut off.mp4").write_bytes(good.read_bytes()[:1000])
    content = bytearray(good.read_bytes())
    with av.open(str(good)) as container:
        packets = [
            (packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size
        ]
    for position, size in packets[30:]:
        content[position : position + size] = bytes(size)
    (folder / "damaged.mp4").write_bytes(content)
    return folder


def test_what_a_probe_finds(videos: Path) -> None:
    probe = partial(probe_video, open_video=partial(open_file, folder=videos), folder=str(videos))

    entry = probe(Video("a class/one, two.mp4", 0, None))
    stat = (videos / "a class/one, two.mp4").stat()
    assert entry[:4] == ("a class/one, two.mp4", "ok", "", str(stat.st_size))
    assert float(entry.mtime) == stat.st_mtime
    content = (videos / "a class/one, two.mp4").read_bytes()
    assert entry[5:] == (40, "25", 128, 32, "h264", "1", "", hashlib.sha256(content).hexdigest())
    assert probe(Video("slow.mkv", 0, None))[5:12] == (5, "10", 128, 32, "h264", "1", "")

    assert probe(Video("none.mp4", 0, None)) == Entry(
        "none.mp4", "missing", "no such file or folder"
    )
    assert probe(Video("empty.mp4", 0, None))[:4] == ("empty.mp4", "empty", "0 bytes", "0")
    assert probe(Video("cut off.mp4", 0, None))[1:3] == (
        "unreadable",
        "invalid data found when processing input",
    )
    damaged = probe(Video("damaged.mp4", 0, None))
    assert damaged.status == "damaged"
    assert damaged.reason
    assert str(videos) not in damaged.reason
    assert damaged.num_frames == 40


def test_remote_videos_are_probed(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(
        ("localhost", 0), partial(SimpleHTTPRequestHandler, directory=str(videos))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}"
        probe = partial(
            probe_video, open_video=partial(open_remote, address=address), folder=address
        )
        found = [
            probe(Video(path, 0, None))
            for path in ("a class/one, two.mp4", "empty.mp4", "none.mp4")
        ]
        server.shutdown()
    assert [entry.status for entry in found] == ["ok", "empty", "missing"]
    assert (found[0].bytes, found[0].num_frames) == (
        str((videos / "a class/one, two.mp4").stat().st_size),
        40,
    )


def test_frame_folders_are_probed_for_every_file_and_a_damaged_one(tmp_path: Path) -> None:
    for name in ("good", "gap", "bad"):
        (tmp_path / name).mkdir()
        for number in range(1, 8):
            Image.new("RGB", (16, 8)).save(tmp_path / name / f"{number:05d}.jpg")
    (tmp_path / "gap/00003.jpg").unlink()
    (tmp_path / "bad/00007.jpg").write_bytes(b"no image")
    probe = partial(
        probe_video, open_video=partial(open_frames, folder=tmp_path), folder=str(tmp_path)
    )
    good = probe(Video("good", 0, 7))
    assert (good.status, good.bytes, good.num_frames, good.width, good.height) == (
        "ok",
        "",
        7,
        16,
        8,
    )
    assert probe(Video("gap", 0, 7))[1:3] == ("damaged", "00003.jpg: missing (one of 7 frames)")
    assert probe(Video("bad", 0, 7)).status == "damaged"
    assert "00007.jpg" in probe(Video("bad", 0, 7)).reason
    assert probe(Video("good", 0, 8))[1:3] == ("damaged", "00008.jpg: missing (one of 8 frames)")
    assert probe(Video("good", 0, None))[1:6] == ("ok", "", "", good.mtime, 7)
    assert probe(Video("none", 0, 7)).status == "missing"


def test_every_path_gets_one_row_and_the_bad_ones_are_read_back(videos: Path) -> None:
    paths = ["a class/one, two.mp4", "empty.mp4", "slow.mkv", "none.mp4", "a class/one, two.mp4"]
    assert sorted(row.path for row in check(videos, *paths)) == sorted(set(paths))
    manifest = read_manifest(str(videos / "manifest.csv"))
    assert manifest.bad == {
        "empty.mp4": "empty: 0 bytes",
        "none.mp4": "missing: no such file or folder",
    }
    assert manifest.num_checked == 4


def test_a_manifest_of_an_older_version_is_added_to(videos: Path) -> None:
    manifest = videos / "manifest.csv"
    columns = "path,status,reason,bytes,mtime,num_frames,fps,width,height,codec"
    manifest.write_text(f"{columns}\nold.mp4,damaged,why,1,2,3,25,4,5,h264\n")
    check_videos(
        Annotations(["slow.mkv"], [0]),
        manifest,
        open_video=partial(open_file, folder=videos),
        folder=str(videos),
        num_workers=1,
    )
    header, _, row = manifest.read_text().splitlines()
    assert header == columns
    assert row.startswith("slow.mkv,ok,")
    assert row.endswith(",5,10,128,32,h264")
    assert read_manifest(str(manifest)) == ({"old.mp4": "damaged: why"}, 2)


def test_a_decoder_that_dies_or_hangs_costs_one_video(videos: Path) -> None:
    for name in ("segfault.mp4", "endless.mp4"):
        (videos / name).write_bytes((videos / "slow.mkv").read_bytes())
    paths = ["segfault.mp4", "slow.mkv", "endless.mp4", "a class/one, two.mp4"]
    rows = {row.path: row for row in check(videos, *paths, opener=open_or_fail, timeout=1)}
    assert len(rows) == 4
    assert rows["segfault.mp4"][1:3] == ("crashed", "its process was ended by SIGSEGV")
    assert rows["endless.mp4"][1:3] == ("timeout", "not done after 1 s")
    assert rows["segfault.mp4"].bytes == str((videos / "slow.mkv").stat().st_size)
    assert {rows[path].status for path in ("slow.mkv", "a class/one, two.mp4")} == {"ok"}
    # They may have been the machine's fault, and are tried again.
    assert {(row.path, row.status) for row in check(videos, *paths)[4:]} == {
        ("segfault.mp4", "ok"),
        ("endless.mp4", "ok"),
    }
    assert read_manifest(str(videos / "manifest.csv")) == ({}, 4)


def test_only_new_and_changed_files_are_probed_again(videos: Path) -> None:
    paths = ["a class/one, two.mp4", "empty.mp4", "slow.mkv", "none.mp4", "damaged.mp4"]
    assert len(check(videos, *paths)) == 5
    assert len(check(videos, *paths)) == 5
    (videos / "none.mp4").write_bytes((videos / "slow.mkv").read_bytes())
    (videos / "empty.mp4").write_bytes((videos / "slow.mkv").read_bytes())
    os.utime(videos / "slow.mkv", (1, 1))
    rows = check(videos, *paths)[5:]
    assert {(row.path, row.status) for row in rows} == {
        ("none.mp4", "ok"),
        ("empty.mp4", "ok"),
        ("slow.mkv", "ok"),
    }
    (videos / "slow.mkv").unlink()
    assert [row[:2] for row in check(videos, *paths)[8:]] == [("slow.mkv", "missing")]
    assert read_manifest(str(videos / "manifest.csv")).bad.keys() == {"slow.mkv", "damaged.mp4"}
    assert read_manifest(str(videos / "manifest.csv")).num_checked == 5


@pytest.mark.parametrize("cut", [1, 30, 100_000], ids=["its newline", "a part", "the header too"])
def test_a_row_that_a_killed_check_left_unfinished_is_probed_again(videos: Path, cut: int) -> None:
    paths = ["a class/one, two.mp4", "slow.mkv"]
    rows = check(videos, *paths)
    manifest = videos / "manifest.csv"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[: max(len(whole) - cut, 20)])
    if cut < len(whole):
        assert read_manifest(str(manifest)).num_checked == 1
    assert sorted(check(videos, *paths)) == sorted(rows)
    assert read_manifest(str(manifest)) == ({}, 2)


def test_another_file_is_never_taken_for_a_manifest(videos: Path, tmp_path: Path) -> None:
    manifest = videos / "manifest.csv"
    for content in (b"a.mp4,0\nb.mp4,1", (videos / "slow.mkv").read_bytes()):
        manifest.write_bytes(content)
        with pytest.raises(ValueError, match=r"manifest\.csv is no manifest"):
            check(videos, "slow.mkv")
        with pytest.raises(ValueError, match=r"manifest\.csv is no manifest"):
            read_manifest(str(manifest))
        assert manifest.read_bytes() == content
    with pytest.raises(
        FileNotFoundError, match=r"none\.csv: no such manifest; tools/check_data\.py makes one"
    ):
        read_manifest(str(tmp_path / "none.csv"))


def test_a_row_with_columns_missing_is_named(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(",".join(Entry._fields) + "\na.mp4,ok\n")
    message = r"manifest\.csv line 2 is \['a\.mp4', 'ok'\]; expected the columns .*Delete the line"
    with pytest.raises(ValueError, match=message):
        read_manifest(str(manifest))
    for content in ("", "\x00\x01"):
        manifest.write_text(content)
        with pytest.raises(
            ValueError, match=r"manifest\.csv is no manifest; name another file, or make one"
        ):
            read_manifest(str(manifest))


def test_a_second_check_of_the_same_manifest_is_refused(videos: Path) -> None:
    first = FolderLock(videos / "manifest.csv.lock", purpose="check", job=current_job())
    refusal = rf"a check of process {os.getpid()} on host .* is writing here; .*another manifest$"
    with first, pytest.raises(FolderLockedError, match=refusal):
        check(videos, "slow.mkv")
    assert not (videos / "manifest.csv").exists()
    assert len(check(videos, "slow.mkv")) == 1


def test_a_large_manifest_keeps_only_its_bad_rows_in_memory(tmp_path: Path) -> None:
    # 200,000 rows, every hundredth bad and every thousandth good again.
    manifest = tmp_path / "manifest.csv"
    rows = [
        f"{number:07d}.mp4,{'ok' if number % 100 else 'damaged'},,1,2,3,25,4,5,h264,1,,\n"
        for number in range(200_000)
    ]
    mended = [f"{number:07d}.mp4,ok,,1,2,3,25,4,5,h264,1,,\n" for number in range(0, 200_000, 1000)]
    manifest.write_text(",".join(Entry._fields) + "\n" + "".join(rows + mended))
    found = read_manifest(str(manifest))
    assert found.num_checked == 200_000
    assert list(found.bad) == [
        f"{number:07d}.mp4" for number in np.arange(0, 200_000, 100) if number % 1000
    ]


def open_after(video: Video, *, folder: Path) -> VideoFile:
    """The first ones last."""
    time.sleep(0.3 if video.path < "1" else 0)
    return open_file(video, folder=folder)


def test_rows_stand_in_the_order_of_the_list(videos: Path) -> None:
    (videos / "0.mkv").write_bytes((videos / "slow.mkv").read_bytes())
    paths = ["0.mkv", "slow.mkv", "none.mp4", "cut off.mp4", "a class/one, two.mp4"]
    assert [entry.path for entry in check(videos, *paths, opener=open_after)] == paths
