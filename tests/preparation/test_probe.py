"""Probing of videos: what is found, and how the results enter the manifest."""

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
import pytest
from PIL import Image

from slowfast.datasets.annotations import Annotations
from slowfast.datasets.decode import FrameFolder, VideoFile
from slowfast.datasets.manifest import Entry, read_manifest
from slowfast.datasets.records import Video
from slowfast.distributed.folder_lock import FolderLock, FolderLockedError
from slowfast.distributed.job import current_job
from slowfast.preparation.probe import check_videos, probe_video


def open_file(video: Video, *, folder: Path) -> VideoFile:
    return VideoFile(str(folder / video.path))


def open_remote(video: Video, *, address: str) -> VideoFile:
    return VideoFile(f"{address}/{video.path}")


def open_frames(video: Video, *, folder: Path) -> FrameFolder:
    return FrameFolder(str(folder / video.path), template="{:05d}.jpg", num_frames=video.num_frames)


def open_or_fail(video: Video, *, folder: Path) -> VideoFile:
    """Crash or hang for some files, as decoders do."""
    if video.path == "segfault.mp4":
        os.kill(os.getpid(), signal.SIGSEGV)
    if video.path == "endless.mp4":
        time.sleep(600)
    return open_file(video, folder=folder)


def check(
    folder: Path, *paths: str, opener: Callable[..., Any] = open_file, timeout: float = 60
) -> list[Entry]:
    """Check videos of a folder and return all rows of its manifest."""
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
def videos_folder(tmp_path: Path, write_painted: Callable[..., Path]) -> Path:
    """A folder with two readable videos, an empty, a cut off and a damaged one."""
    folder = tmp_path / "videos"
    (folder / "a class").mkdir(parents=True)
    good = write_painted(folder / "a class/one, two.mp4", 40, g="10")
    write_painted(folder / "slow.mkv", 5, fps=10)
    (folder / "empty.mp4").touch()
    (folder / "cut off.mp4").write_bytes(good.read_bytes()[:1000])

    content = bytearray(good.read_bytes())
    with av.open(str(good)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for packet in packets[30:]:
            start = packet.pos or 0
            content[start : start + packet.size] = bytes(packet.size)
    (folder / "damaged.mp4").write_bytes(content)
    return folder


def test_a_probe_describes_the_video(videos_folder: Path) -> None:
    probe = partial(
        probe_video, open_video=partial(open_file, folder=videos_folder), folder=str(videos_folder)
    )

    entry = probe(Video("a class/one, two.mp4", 0, None))
    stat = (videos_folder / "a class/one, two.mp4").stat()
    assert entry[:4] == ("a class/one, two.mp4", "ok", "", str(stat.st_size))
    assert float(entry.mtime) == stat.st_mtime

    content = (videos_folder / "a class/one, two.mp4").read_bytes()
    assert entry[5:] == (40, "25", 128, 32, "h264", "1", "", hashlib.sha256(content).hexdigest())
    assert probe(Video("slow.mkv", 0, None))[5:12] == (5, "10", 128, 32, "h264", "1", "")

    missing = Entry("none.mp4", "missing", "no such file or folder")
    assert probe(Video("none.mp4", 0, None)) == missing
    assert probe(Video("empty.mp4", 0, None))[:4] == ("empty.mp4", "empty", "0 bytes", "0")
    cut_off = probe(Video("cut off.mp4", 0, None))
    assert cut_off[1:3] == ("unreadable", "invalid data found when processing input")

    damaged = probe(Video("damaged.mp4", 0, None))
    assert damaged.status == "damaged"
    assert damaged.reason
    assert str(videos_folder) not in damaged.reason
    assert damaged.num_frames == 40


def test_remote_videos_are_probed(
    videos_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(videos_folder))
    with ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}"
        opener = partial(open_remote, address=address)
        probe = partial(probe_video, open_video=opener, folder=address)
        paths = ("a class/one, two.mp4", "empty.mp4", "none.mp4")
        found = [probe(Video(path, 0, None)) for path in paths]
        server.shutdown()

    assert [entry.status for entry in found] == ["ok", "empty", "missing"]
    num_bytes = (videos_folder / "a class/one, two.mp4").stat().st_size
    assert (found[0].bytes, found[0].num_frames) == (str(num_bytes), 40)


def test_frame_folders_are_probed_for_every_file(tmp_path: Path) -> None:
    for name in ("good", "gap", "bad"):
        (tmp_path / name).mkdir()
        for number in range(1, 8):
            Image.new("RGB", (16, 8)).save(tmp_path / name / f"{number:05d}.jpg")
    (tmp_path / "gap/00003.jpg").unlink()
    (tmp_path / "bad/00007.jpg").write_bytes(b"no image")
    opener = partial(open_frames, folder=tmp_path)
    probe = partial(probe_video, open_video=opener, folder=str(tmp_path))

    good = probe(Video("good", 0, 7))
    assert (good.status, good.bytes, good.num_frames) == ("ok", "", 7)
    assert (good.width, good.height) == (16, 8)
    assert probe(Video("gap", 0, 7))[1:3] == ("damaged", "00003.jpg: missing (one of 7 frames)")
    assert probe(Video("bad", 0, 7)).status == "damaged"
    assert "00007.jpg" in probe(Video("bad", 0, 7)).reason
    assert probe(Video("good", 0, 8))[1:3] == ("damaged", "00008.jpg: missing (one of 8 frames)")
    assert probe(Video("good", 0, None))[1:6] == ("ok", "", "", good.mtime, 7)
    assert probe(Video("none", 0, 7)).status == "missing"


def test_every_video_gets_one_row_and_is_read_back(videos_folder: Path) -> None:
    paths = ["a class/one, two.mp4", "empty.mp4", "slow.mkv", "none.mp4", "a class/one, two.mp4"]
    assert sorted(row.path for row in check(videos_folder, *paths)) == sorted(set(paths))

    manifest = read_manifest(str(videos_folder / "manifest.csv"))
    assert manifest.unreadable == {
        "empty.mp4": "empty: 0 bytes",
        "none.mp4": "missing: no such file or folder",
    }
    assert manifest.num_checked == 4


def test_a_manifest_of_an_older_version_is_added_to(videos_folder: Path) -> None:
    manifest = videos_folder / "manifest.csv"
    columns = "path,status,reason,bytes,mtime,num_frames,fps,width,height,codec"
    manifest.write_text(f"{columns}\nold.mp4,damaged,why,1,2,3,25,4,5,h264\n")
    check_videos(
        Annotations(["slow.mkv"], [0]),
        manifest,
        open_video=partial(open_file, folder=videos_folder),
        folder=str(videos_folder),
        num_workers=1,
    )

    header, _, row = manifest.read_text().splitlines()
    assert header == columns
    assert row.startswith("slow.mkv,ok,")
    assert row.endswith(",5,10,128,32,h264")
    assert read_manifest(str(manifest)) == ({"old.mp4": "damaged: why"}, 2)


def test_a_decoder_that_dies_or_hangs_costs_one_video(videos_folder: Path) -> None:
    for name in ("segfault.mp4", "endless.mp4"):
        (videos_folder / name).write_bytes((videos_folder / "slow.mkv").read_bytes())

    paths = ["segfault.mp4", "slow.mkv", "endless.mp4", "a class/one, two.mp4"]
    rows = {row.path: row for row in check(videos_folder, *paths, opener=open_or_fail, timeout=1)}
    assert len(rows) == 4
    assert rows["segfault.mp4"][1:3] == ("crashed", "its process was ended by SIGSEGV")
    assert rows["endless.mp4"][1:3] == ("timeout", "not done after 1 s")
    assert rows["segfault.mp4"].bytes == str((videos_folder / "slow.mkv").stat().st_size)
    assert {rows[path].status for path in ("slow.mkv", "a class/one, two.mp4")} == {"ok"}

    # The machine may have been at fault, so they are probed again.
    assert {(row.path, row.status) for row in check(videos_folder, *paths)[4:]} == {
        ("segfault.mp4", "ok"),
        ("endless.mp4", "ok"),
    }
    assert read_manifest(str(videos_folder / "manifest.csv")) == ({}, 4)


def test_only_new_and_changed_files_are_probed_again(videos_folder: Path) -> None:
    paths = ["a class/one, two.mp4", "empty.mp4", "slow.mkv", "none.mp4", "damaged.mp4"]
    assert len(check(videos_folder, *paths)) == 5
    assert len(check(videos_folder, *paths)) == 5

    for name in ("none.mp4", "empty.mp4"):
        (videos_folder / name).write_bytes((videos_folder / "slow.mkv").read_bytes())
    os.utime(videos_folder / "slow.mkv", (1, 1))
    rows = check(videos_folder, *paths)[5:]
    assert {(row.path, row.status) for row in rows} == {
        ("none.mp4", "ok"),
        ("empty.mp4", "ok"),
        ("slow.mkv", "ok"),
    }

    (videos_folder / "slow.mkv").unlink()
    assert [row[:2] for row in check(videos_folder, *paths)[8:]] == [("slow.mkv", "missing")]
    manifest = read_manifest(str(videos_folder / "manifest.csv"))
    assert manifest.unreadable.keys() == {"slow.mkv", "damaged.mp4"}
    assert manifest.num_checked == 5


@pytest.mark.parametrize("cut", [1, 30, 100_000], ids=["its newline", "its end", "the header too"])
def test_an_unfinished_row_is_probed_again(videos_folder: Path, cut: int) -> None:
    paths = ["a class/one, two.mp4", "slow.mkv"]
    rows = check(videos_folder, *paths)
    manifest = videos_folder / "manifest.csv"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[: max(len(whole) - cut, 20)])

    if cut < len(whole):
        assert read_manifest(str(manifest)).num_checked == 1
    assert sorted(check(videos_folder, *paths)) == sorted(rows)
    assert read_manifest(str(manifest)) == ({}, 2)


def test_another_file_is_never_taken_for_a_manifest(videos_folder: Path, tmp_path: Path) -> None:
    manifest = videos_folder / "manifest.csv"
    for content in (b"a.mp4,0\nb.mp4,1", (videos_folder / "slow.mkv").read_bytes()):
        manifest.write_bytes(content)
        with pytest.raises(ValueError, match=r"manifest\.csv is not a manifest"):
            check(videos_folder, "slow.mkv")
        with pytest.raises(ValueError, match=r"manifest\.csv is not a manifest"):
            read_manifest(str(manifest))
        assert manifest.read_bytes() == content

    message = r"none\.csv: no such manifest. Run tools/check_data\.py to make one"
    with pytest.raises(FileNotFoundError, match=message):
        read_manifest(str(tmp_path / "none.csv"))


def test_a_second_check_of_the_same_manifest_is_refused(videos_folder: Path) -> None:
    first = FolderLock(videos_folder / "manifest.csv.lock", purpose="check", job=current_job())
    refusal = rf"a check of process {os.getpid()} on host .* is writing here. .*another manifest$"
    with first, pytest.raises(FolderLockedError, match=refusal):
        check(videos_folder, "slow.mkv")
    assert not (videos_folder / "manifest.csv").exists()
    assert len(check(videos_folder, "slow.mkv")) == 1


def open_after(video: Video, *, folder: Path) -> VideoFile:
    """Open the first videos last."""
    time.sleep(0.3 if video.path < "1" else 0)
    return open_file(video, folder=folder)


def test_rows_are_in_the_order_of_the_list(videos_folder: Path) -> None:
    (videos_folder / "0.mkv").write_bytes((videos_folder / "slow.mkv").read_bytes())
    paths = ["0.mkv", "slow.mkv", "none.mp4", "cut off.mp4", "a class/one, two.mp4"]
    assert [entry.path for entry in check(videos_folder, *paths, opener=open_after)] == paths
