"""Which files in folders count as videos, for every tool and dataset."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from slowfast.config import CfgNode
from slowfast.datasets.catalog import build_annotations
from slowfast.datasets.decode import VideoFile
from slowfast.datasets.folders import find_frame_folders, find_videos
from slowfast.preparation.convert import extract_frames
from slowfast.preparation.lists import write_folder_lists

CODECS = {
    ".3g2": "mpeg4",
    ".3gp": "mpeg4",
    ".asf": "mpeg4",
    ".f4v": "libx264",
    ".flv": "libx264",
    ".gif": "gif",
    ".m2ts": "libx264",
    ".mts": "libx264",
    ".mxf": "mpeg2video",
    ".nut": "ffv1",
    ".ts": "libx264",
    ".vob": "mpeg2video",
    ".mov": "libx264",
    ".mpg": "mpeg2video",
}


def touch(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


@pytest.fixture
def linked_folders(tmp_path: Path) -> Path:
    """Class folders: one is a link, one hidden, one empty, and one links to itself."""
    elsewhere = touch(tmp_path / "elsewhere", "1.MP4", "deep/2.ts", ".3.mp4", ".trash/4.mp4")
    videos = touch(tmp_path / "videos", "walk/5.flv", "walk/6.mp4", "walk/notes.txt", "walk/a.TXT")
    touch(videos, "walk/Makefile", ".cache/7.mp4", "empty/8.docx", "walk/9.mp4")
    (videos / "run").symlink_to(elsewhere)
    (videos / "walk/again").symlink_to(videos / "walk")
    return videos


FOUND = ["run/1.MP4", "run/deep/2.ts", "walk/5.flv", "walk/6.mp4", "walk/9.mp4"]


@pytest.mark.parametrize("suffix", CODECS)
def test_files_that_can_be_decoded_count_as_videos(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"video{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[suffix], rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = 176, 144
        stream.pix_fmt = "rgb8" if suffix == ".gif" else "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(176, 144, "yuv420p")))
        container.mux(stream.encode(None))
    assert find_videos(str(tmp_path)).paths == [path.name]
    with VideoFile(str(path)) as video:
        assert video.num_frames >= 4


def test_links_are_followed_and_hidden_folders_ignored(linked_folders: Path) -> None:
    assert find_videos(str(linked_folders)) == (FOUND, Counter({".txt": 2, ".docx": 1, "": 1}))


def test_split_takes_the_same_files_and_counts_the_rest(
    linked_folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = write_folder_lists(
        linked_folders, tmp_path / "lists", shares={"val": 0.15, "test": 0.15}
    ).sizes
    assert list(sizes["train"]) == ["run", "walk"]
    rows = "".join((tmp_path / f"lists/{split}.csv").read_text() for split in sizes).splitlines()
    assert sorted(row.rsplit(",", 1)[0] for row in rows) == FOUND
    assert caplog.messages == [
        f"{linked_folders}: skipped 4 files without the suffix of a video: 2 .txt, 1 .docx, "
        "1 without suffix",
        f"{linked_folders}: 1 class folder has no videos: empty",
    ]


def test_the_folders_dataset_takes_the_same_files(
    linked_folders: Path, tiny_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture
) -> None:
    folders = {"TRAIN__DATASET": "folders", "DATA__PATH_TO_DATA_DIR": linked_folders.parent}
    names = linked_folders.parent / "names.txt"
    names.write_text("empty\nrun\nwalk\n")
    settings = {"DATA__LABEL_PATH_TEMPLATE": "videos", "DATA__PATH_PREFIX": linked_folders}
    cfg = tiny_cfg(**folders, **settings, DATA__CLASS_NAMES=names, MODEL__NUM_CLASSES=3)
    train = build_annotations(cfg, "train")
    assert [train[row].path.removeprefix("./") for row in range(len(train))] == FOUND
    assert "skipped 4 files without the suffix of a video: 2 .txt" in caplog.text
    assert "1 class folder has no videos: empty" in caplog.text


def test_converting_tools_take_the_same_files(
    linked_folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = extract_frames(linked_folders, tmp_path / "frames", num_workers=1)
    assert done.counts == {"failed": len(FOUND)}  # they are all empty
    assert "skipped 4 files without the suffix of a video: 2 .txt" in caplog.text
    assert done.failed_path is not None
    rows = done.failed_path.read_text().splitlines()[1:]
    assert sorted(row.split(",")[0] for row in rows) == FOUND


def test_frame_folders_are_found_behind_links(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "9/00001.jpg", ".10.part/00001.jpg")
    videos = touch(tmp_path / "videos", "a/7.5/00001.jpg", "a/8/00001.jpg", "readme.txt")
    (videos / "b").symlink_to(tmp_path / "elsewhere")
    assert find_frame_folders(str(videos)) == ["a/7.5", "a/8", "b/9"]
