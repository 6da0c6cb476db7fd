"""Spans of long videos: rows with start and end seconds, and the frames they show."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from slowfast.config import CfgNode
from slowfast.datasets.annotation_lists import Source, format_row, read_path_list
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.build import build_loader, build_opener
from slowfast.datasets.decode import DecodeError
from slowfast.datasets.duplicates import find_repeats
from slowfast.datasets.records import Span, Video
from slowfast.datasets.sampling import frames_within
from slowfast.engine.identity import build_identity
from slowfast.preparation.probe import probe_video


def read(path: Path, text: str, *, separator: str = "") -> list[Video]:
    path.write_text(text)
    rows = read_path_list(Source(str(path), num_classes=9, separator=separator))
    return [rows[row] for row in range(len(rows))]


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", " , "])
def test_rows_may_carry_start_and_end(tmp_path: Path, separator: str) -> None:
    rows = [("a.mp4", 3), ("b c.mkv", 0, "1.5", "20"), ("b c.mkv", 1, "20", "31.25"), ("d", 8)]
    text = "".join(separator.join(map(str, row)) + "\n" for row in rows)
    videos = [
        Video("a.mp4", 3, None),
        Video("b c.mkv", 0, None, Span(1.5, 20)),
        Video("b c.mkv", 1, None, Span(20, 31.25)),
        Video("d", 8, None),
    ]
    assert read(tmp_path / "list.csv", text) == videos

    _, *lines = text.splitlines(keepends=True)
    assert read(tmp_path / "list.csv", "".join(lines)) == videos[1:]


def test_quotes_tell_a_span_from_a_name(tmp_path: Path) -> None:
    text = '"x.mp4,1,2",3\n"a, b.mp4","0","1.5","2"\nx.mp4,1,2,3\n'
    videos = [
        Video("x.mp4,1,2", 3, None),
        Video("a, b.mp4", 0, None, Span(1.5, 2)),
        Video("x.mp4", 1, None, Span(2, 3)),
    ]
    assert read(tmp_path / "list.csv", text, separator=",") == videos

    videos.append(Video("blank.mp4 ", 1, None, Span(2, 3)))
    written = "".join(format_row(v.path, v.label, *(v.span or ()), separator=",") for v in videos)
    assert read(tmp_path / "list.csv", written, separator=",") == videos


def test_a_span_that_ends_before_its_start_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2 has the span 5 to 2 s, which does not end after"):
        read(tmp_path / "list.csv", "a.mp4,0,1,2\na.mp4,0,5,2\n")


def test_frames_of_a_span_by_hand() -> None:
    times = np.array([0, 0.5, 1.0, 2.0, 2.5])
    # The frame of second 1 is still on screen at 1.9. The one of 2.0 appears just then.
    assert frames_within(times, start=1.9, end=2.4).tolist() == [2, 3]
    assert frames_within(times, start=0, end=2.0).tolist() == [0, 1, 2]
    assert frames_within(times, start=2.0, end=9).tolist() == [3, 4]
    assert frames_within(times, start=1.2, end=1.3).tolist() == [2]

    at_25 = np.arange(100) / 25
    assert frames_within(at_25 + 0.3, start=1.2, end=2.0).tolist() == list(range(30, 50))


@pytest.fixture
def spans_cfg(
    tmp_path: Path, write_painted: Callable[..., Path], tiny_cfg: Callable[..., CfgNode]
) -> CfgNode:
    """A config whose lists hold three spans of one video of 100 frames at 25 frames/s."""
    write_painted(tmp_path / "long.mp4", 100)
    text = "long.mp4,0,0,0.8\nlong.mp4,1,1.2,2\nlong.mp4,0,3.2,9\n"
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text(text)

    folders = {"DATA__PATH_TO_DATA_DIR": tmp_path, "DATA__PATH_PREFIX": tmp_path}
    return tiny_cfg(**folders, TRAIN__BATCH_SIZE=1, DATA__SAMPLING_RATE=3)


SPANS = [range(20), range(30, 50), range(80, 100)]


@pytest.mark.parametrize("target_fps", [0.0, 25.0])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_clips_lie_within_their_spans(spans_cfg: CfgNode, split: str, target_fps: float) -> None:
    dataset = build_loader(spans_cfg, split).dataset
    dataset.reader.target_fps = target_fps
    for row, span in enumerate(SPANS):
        rng = np.random.default_rng(row) if split == "train" else None
        clips = range(spans_cfg.TEST.NUM_ENSEMBLE_VIEWS)
        with dataset.reader.open_video(dataset.annotations[row]) as source:
            numbers = dataset.reader.frame_numbers(source, clips=clips, rng=rng)

        assert {*np.concatenate(numbers).tolist()} <= {*span}
        if split == "test":  # a clip of 4 frames spans 12, from the first to the last it can show
            assert numbers[0][0] == span[0]
            assert numbers[-1][-1] >= span[-1] - 4


def test_a_clip_shows_the_pixels_of_its_span(
    spans_cfg: CfgNode, painted_number: Callable[[np.ndarray], list[int]]
) -> None:
    opener = build_opener(spans_cfg, "val")
    with opener(Video("long.mp4", 1, None, Span(1.2, 2))) as source:
        assert painted_number(source.read(source.shown.tolist())) == [*SPANS[1]]


def test_a_span_after_the_end_is_an_unreadable_video(spans_cfg: CfgNode) -> None:
    opener = build_opener(spans_cfg, "val")
    video = Video("long.mp4", 0, None, Span(4, 5))
    with (
        opener(video) as source,
        pytest.raises(DecodeError, match=r"is 4\.000 s long, but its span starts at 4 s"),
    ):
        _ = source.shown

    probe = partial(probe_video, open_video=opener, folder=spans_cfg.DATA.PATH_PREFIX)
    assert probe(video)[:3] == (
        "long.mp4#t=4,5",
        "damaged",
        "is 4.000 s long, but its span starts at 4 s",
    )
    assert probe(video._replace(span=Span(3.9, 5))).status == "ok"


def test_two_spans_of_a_file_are_two_videos(spans_cfg: CfgNode) -> None:
    dataset = build_loader(spans_cfg, "test").dataset
    names = ["long.mp4#t=0,0.8", "long.mp4#t=1.2,2", "long.mp4#t=3.2,9"]
    assert [dataset.annotations[row].name for row in range(3)] == names
    assert dataset.annotations.find_rows([names[1], "long.mp4"]).tolist() == [1]
    assert dataset.annotations.select([2, 0])[0].span == Span(3.2, 9)

    checksums = {hash(name): 7 for name in names}
    assert find_repeats({"train": dataset.annotations.select([0, 1])}, checksums=checksums) == []

    def identity(spans: list[tuple[float, float]]) -> dict:
        annotations = Annotations(["long.mp4"] * 2, [0, 1], spans=spans)
        return build_identity(spans_cfg, annotations, start_weights="")

    assert identity([(0, 1), (1, 2)]) == identity([(0, 1), (1, 2)]) != identity([(0, 1), (1, 3)])
