"""Frame tables: a right one saves reading the whole file, and a wrong one changes no frame."""

import logging
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from slowfast.config import CfgNode
from slowfast.datasets.build import build_opener
from slowfast.datasets.decode import VideoFile
from slowfast.datasets.decoding import frame_table, video_file
from slowfast.datasets.decoding.frame_table import FrameNumbers, read_table, table_path, write_table
from slowfast.datasets.records import Video
from slowfast.preparation import probe
from slowfast.preparation.probe import probe_video

NUM_FRAMES = 90
H264 = {"g": "15", "bf": "3", "qp": "24", "preset": "ultrafast"}
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "v.mp4": ("libx264", H264),
    "open groups.mp4": ("libx264", H264 | {"x264-params": "open-gop=1:scenecut=0"}),
    "fragments.mp4": ("libx264", H264),
    "v.mkv": ("libx264", H264),
    "v.ts": ("libx264", H264 | {"qp": "10"}),  # large: FFmpeg reads much to find its streams
    "v.flv": ("libx264", H264),
    "v.mpg": ("mpeg2video", {"g": "15", "bf": "2", "b": "20M"}),
    "v.webm": (
        "libvpx",
        {
            "g": "15",
            "b": "9M",
            "auto-alt-ref": "1",
            "lag-in-frames": "9",
            "deadline": "realtime",
            "cpu-used": "8",
        },
    ),
}


@pytest.fixture(autouse=True)
def _tables_for_small_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (video_file, probe):
        monkeypatch.setattr(module, "MIN_VIDEO_BYTES", 1)
    frame_table._warn_about_old_tables.cache_clear()


def write_noise(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """Encode noise, so that each frame takes many bytes with any codec."""
    codec, options = KINDS[kind]
    rng = np.random.default_rng(seed)
    container_options = {}
    if "fragments" in kind:
        container_options["movflags"] = "frag_keyframe+empty_moov"

    with av.open(str(folder / kind), "w", options=container_options) as container:
        stream: Any = container.add_stream(codec, rate=25, options={"threads": "1"} | options)
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
        for _ in range(NUM_FRAMES):
            image = rng.integers(0, 256, (128, 192, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return folder / kind


def write_frame_table(path: Path) -> Path:
    with VideoFile(str(path)) as video:
        table = video.frame_table
    assert table is not None

    write_table(path.with_suffix(".npz"), table)
    return path.with_suffix(".npz")


def decode_plainly(path: Path) -> list[NDArray[Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def count_bytes_read() -> int:
    return int(re.findall(r"rchar: (\d+)", Path("/proc/self/io").read_text())[0])


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_table_the_same_frames_take_fewer_bytes(kind: str, tmp_path: Path) -> None:
    path = write_noise(tmp_path, kind)
    expected = decode_plainly(path)
    table = write_frame_table(path)

    with VideoFile(str(path)) as plain, VideoFile(str(path), table_path=table) as video:
        assert video._table is not None
        assert video.num_frames == plain.num_frames == len(expected)
        assert np.array_equal(video.times, plain.times)
        assert np.array_equal(video.durations, plain.durations)

        rng = np.random.default_rng(0)
        for numbers in ([89], [0], [20, 75], *rng.integers(0, len(expected), (12, 3)).tolist()):
            for number, frame in zip(numbers, video.read(numbers), strict=True):
                assert np.array_equal(frame, expected[number]), f"frame {number} of {numbers}"
        assert video._packets.can_seek

    if path.suffix in (".flv", ".mpg"):
        return  # FFmpeg reads the file up to a packet to find it
    before = count_bytes_read()
    with VideoFile(str(path), table_path=table) as video:
        video.read([50])
    assert count_bytes_read() - before < path.stat().st_size * 0.8


def test_a_file_that_has_changed_is_read_whole_and_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_noise(tmp_path, "v.mp4")
    table = write_frame_table(path)
    stat = path.stat()
    write_noise(tmp_path, "v.mp4", seed=1)
    expected = decode_plainly(path)

    with caplog.at_level(logging.WARNING):
        for change in ({"size": 10, "mtime": 0}, {"size": 0, "mtime": 1}):
            # To a table, only the size or only the modification time differs.
            content = path.read_bytes()[: stat.st_size].ljust(stat.st_size + change["size"], b"\0")
            path.write_bytes(content)
            os.utime(path, ns=(0, stat.st_mtime_ns + change["mtime"]))
            with VideoFile(str(path), table_path=table) as video:
                assert video._table is None
    remedies = [record.message.split(". ")[1] for record in caplog.records]
    assert remedies == ["Run tools/check_data.py again"]

    write_noise(tmp_path, "v.mp4", seed=1)
    with VideoFile(str(path), table_path=table) as video:
        assert np.array_equal(video.read([7, 80]), np.stack([expected[7], expected[80]]))


@pytest.mark.parametrize("column", [0, 1, 3], ids=["position", "time", "size"])
def test_packets_that_differ_from_the_table_are_not_used(column: int, tmp_path: Path) -> None:
    path = write_noise(tmp_path, "v.mkv")
    expected = decode_plainly(path)
    with VideoFile(str(path)) as video:
        table = video.frame_table
    assert table is not None

    for packet in (int(table.starts[3, 1]), int(table.starts[3, 1]) + 4):
        packets = table.packets.copy()
        packets[packet, column] += 1
        write_table(tmp_path / "wrong.npz", table._replace(packets=packets))
        with VideoFile(str(path), table_path=tmp_path / "wrong.npz") as video:
            number = int(table.starts[3, 0]) + 9
            assert np.array_equal(video.read([number])[0], expected[number])
            assert not video._packets.can_seek


def test_a_file_that_is_no_table_is_ignored(tmp_path: Path) -> None:
    path = write_noise(tmp_path, "v.mp4")
    whole = write_frame_table(path).read_bytes()
    for content in (b"", b"no table", whole[: len(whole) // 2]):
        (tmp_path / "odd.npz").write_bytes(content)
        with VideoFile(str(path), table_path=tmp_path / "odd.npz") as video:
            assert video.num_frames == NUM_FRAMES
    with VideoFile(str(path), table_path=tmp_path / "none.npz") as video:
        assert video.num_frames == NUM_FRAMES


def test_a_table_of_another_version_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_noise(tmp_path, "v.mp4")
    table = write_frame_table(path)
    monkeypatch.setattr(frame_table, "VERSION", frame_table.VERSION + 1)
    with VideoFile(str(path), table_path=table) as video:
        assert video._table is None


def test_a_check_writes_the_tables_that_training_opens(
    tmp_path: Path, tiny_cfg: Callable[..., CfgNode]
) -> None:
    path = write_noise(tmp_path, "v.mp4")
    tables = tmp_path / "manifest.csv.tables"
    video = Video("v.mp4", 0, None)
    open_video = partial(open_without_table, folder=tmp_path)
    entry = probe_video(video, open_video=open_video, folder=str(tmp_path), tables=tables)
    assert entry.status == "ok"

    stamp = frame_table.file_stamp(str(path))
    table = read_table(table_path(tables, "v.mp4"), stamp=stamp)
    assert table is not None
    assert table.video.tolist() == [path.stat().st_size, path.stat().st_mtime_ns]
    assert table.starts[:, 0].tolist() == list(range(0, NUM_FRAMES, 15))

    for name, has_table in (("manifest.csv", True), ("other.csv", False)):
        cfg = tiny_cfg(DATA__MANIFEST=tmp_path / name, DATA__PATH_PREFIX=tmp_path)
        with build_opener(cfg, "train")(video) as opened:
            assert isinstance(opened, VideoFile)
            assert (opened._table is not None) == has_table


def open_without_table(video: Video, *, folder: Path) -> VideoFile:
    return VideoFile(str(folder / video.path))


def test_frame_numbers_are_found_by_time() -> None:
    numbers = FrameNumbers(np.array([-3, 0, 4, 1 << 40]))
    assert [numbers.get(time, -1) for time in (-3, 0, 4, 1 << 40)] == [0, 1, 2, 3]
    assert [numbers.get(time, -1) for time in (None, -4, 1, 5, 1 << 41)] == [-1] * 5
    assert dict(numbers) == {-3: 0, 0: 1, 4: 2, 1 << 40: 3}
