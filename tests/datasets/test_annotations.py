import csv
import gzip
import os
import random
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from slowfast.datasets import annotations
from slowfast.datasets.annotations import Annotations, format_row, read_frame_list, read_path_list
from slowfast.datasets.class_name_files import read_class_names
from slowfast.datasets.published_lists import read_kinetics, read_something_v2
from slowfast.datasets.records import Video


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def videos_of(rows: Annotations) -> list[Video]:
    return [rows[row] for row in range(len(rows))]


def test_paths_may_hold_the_separator_spaces_and_any_letters(tmp_path: Path) -> None:
    rows = read_path_list(
        write(tmp_path / "train.csv", "a b/c,d.mp4,3\né/ü 世界.mp4,0\n\nx.mp4,1\n"),
        separator=",",
        num_classes=4,
    )
    assert videos_of(rows) == [
        Video("a b/c,d.mp4", 3, None),
        Video("é/ü 世界.mp4", 0, None),
        Video("x.mp4", 1, None),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", "   ", " , ", "; ", " \t"])
def test_the_separator_is_found_out(tmp_path: Path, separator: str) -> None:
    paths = ["my clip, 3.mp4", "a;b/0 1.mp4", "c 7/8,9.mp4"]
    text = "".join(f"{path}{separator}{label}\n" for label, path in enumerate(paths))
    rows = read_path_list(write(tmp_path / "train.csv", text), separator="", num_classes=3)
    assert videos_of(rows) == [Video(path, label, None) for label, path in enumerate(paths)]


def test_a_given_separator_is_the_only_one(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "a.mp4 0\nb.mp4,1\nc.mp4\t1\n")
    with pytest.raises(
        ValueError, match=r"has 2 bad rows:\n +line 1 is 'a\.mp4 0'.*\n +line 3 is 'c\.mp4\\t1'"
    ):
        read_path_list(path, separator=",", num_classes=2)
    with pytest.raises(
        ValueError, match=r"line 1 .*with '\|' between \(DATA\.PATH_LABEL_SEPARATOR\)"
    ):
        read_path_list(path, separator="|", num_classes=2)
    assert videos_of(
        read_path_list(write(tmp_path / "a.csv", "a|b.mp4|1\n"), separator="|", num_classes=2)
    ) == [Video("a|b.mp4", 1, None)]


def test_frame_lists_give_folder_frames_and_label(tmp_path: Path) -> None:
    rows = read_frame_list(
        write(tmp_path / "list.txt", "100218 42 134\nmy clip 7 0\n\tx\t 008  1 \n"), num_classes=174
    )
    assert videos_of(rows) == [Video("100218", 134, 42), Video("my clip", 0, 7), Video("x", 1, 8)]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_byte_order_marks_and_blanks_are_not_part_of_a_row(
    tmp_path: Path, ends: str, mark: str, last: bool
) -> None:
    lines = ["a.mp4,0", "  b c.mp4 , 1  ", "", "   ", "d.mp4,0 "]
    path = write(tmp_path / "list.csv", mark + ends.join(lines) + (ends if last else ""))
    assert videos_of(read_path_list(path, separator="", num_classes=2)) == [
        Video("a.mp4", 0, None),
        Video("b c.mp4", 1, None),
        Video("d.mp4", 0, None),
    ]


def test_a_list_of_many_blocks_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotations, "BLOCK_CHARACTERS", 100)
    paths = [f"{'ü' * (number % 50)}{number}.mp4" for number in range(1000)]
    lines = [f"{path},{number % 7}\r\n" for number, path in enumerate(paths)]
    rows = read_path_list(write(tmp_path / "list.csv", "".join(lines)), separator="", num_classes=7)
    assert videos_of(rows) == [Video(path, number % 7, None) for number, path in enumerate(paths)]
    lines[700] = "no label\n"
    lines[30] = "a.mp4,7\n"
    with pytest.raises(
        ValueError, match=r"2 bad rows:\n +line 31 has the label 7, .*\n +line 701 is 'no label'"
    ):
        read_path_list(write(tmp_path / "list.csv", "".join(lines)), separator="", num_classes=7)


def test_lists_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "list.csv.gz"
    path.write_bytes(gzip.compress(b"a.mp4,0\nb.mp4,1\n"))
    assert len(read_path_list(str(path), separator="", num_classes=2)) == 2
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(OSError, match=r"list\.csv\.gz: Compressed file ended"):
        read_path_list(str(path), separator="", num_classes=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("\n \n", "the list is empty"),
        (
            "a.mp4,0\nb.mp4\n",
            r"line 2 is 'b\.mp4'; expected a path and a class number with ',' between",
        ),
        (
            "a.mp4 0\nb.mp4,1\n",
            r"line 2 is 'b\.mp4,1'; .* with tabs or spaces between \(DATA\.PATH_LABEL_SEPARATOR\)",
        ),
        ("path,label\na.mp4,0\n", "line 1 is 'path,label'; expected"),
        ("a.mp4,0\n,1\n", "line 2 is ',1'; expected"),
        ("a.mp4,0\n3\n", "line 2 is '3'; expected"),
        ("a.mp4,dog\n", r"line 1 is 'a\.mp4,dog'; expected"),
        ("a.mp4,0\n\nb.mp4,4\n", "line 3 has the label 4, but MODEL.NUM_CLASSES=4 counts from 0"),
        ("a.mp4,999999999\n", "line 1 has the label 999999999, but MODEL.NUM_CLASSES=4"),
        (
            "a.mp4,0\nb.mp4,99999999999999999999\n",
            r"line 2 is 'b\.mp4,99999999999999999999'; expected",
        ),
        ("a.mp4,0\nb.mp4,-1\n", r"line 2 is 'b\.mp4,-1'; expected"),
        ("a.mp4,0\nb.mp4,1.0\n", r"line 2 is 'b\.mp4,1\.0'; expected"),
        ("a.mp4,0\nb.mp4,²\n", r"line 2 is 'b\.mp4,²'; expected"),
        (b"a.mp4,0\n\xff\xfe.mp4,1\n", r"train\.csv: not a text in UTF-8"),
    ],
)
def test_a_bad_path_list_names_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_path_list(write(tmp_path / "train.csv", text), separator="", num_classes=4)


def test_bad_lines_are_counted_and_the_first_five_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "a.mp4,0\n" * 10 + "b.mp4,9\nc\n" * 10)
    with pytest.raises(ValueError, match="bad rows") as caught:
        read_path_list(path, separator="", num_classes=4)
    first, *shown = str(caught.value).splitlines()
    assert first == f"{path} has 20 bad rows:"
    assert [line.split()[:3] for line in shown] == [
        ["line", "11", "has"],
        ["line", "12", "is"],
        ["line", "13", "has"],
        ["line", "14", "is"],
        ["line", "15", "has"],
    ]


def test_a_long_bad_line_is_shown_without_its_middle(tmp_path: Path) -> None:
    path = write(
        tmp_path / "list.csv", "label,youtube_id,time_start,time_end\n" + "a" * 5000 + ",b,1,2\n"
    )
    with pytest.raises(
        ValueError, match=r"line 2 has the class 'aaa.*a \.\.\. a.*, none of the 1 class names$"
    ) as caught:
        read_kinetics(path, part="train", video_template="{youtube_id}", class_names=["x"])
    assert len(str(caught.value)) < 600 + len(path)


def test_json_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "list.json", "[" * 100_000)
    with pytest.raises(ValueError, match=r"list\.json: not JSON: "):
        read_something_v2(path, video_template="{id}", class_names=["x"])
    with pytest.raises(ValueError, match=r"list\.json: not JSON: "):
        read_class_names(path)


@pytest.mark.parametrize(
    "line",
    ["clip 3", "clip x 1", "clip 0 1", "clip 000 1", "clip -2 1", "clip 3 x", "3 1", "c 1,1"],
)
def test_a_bad_frame_list_names_the_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"line 2 is '{line}'; expected a folder, its number of frames and a class",
    ):
        read_frame_list(write(tmp_path / "list.txt", f"clip 3 1\n{line}\n"), num_classes=4)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"none\.csv: no such file; check DATA\.PATH_TO_DATA_DIR"
    ):
        read_path_list(str(tmp_path / "none.csv"), separator=",", num_classes=4)
    with pytest.raises(OSError, match=rf"{tmp_path}: Is a directory"):
        read_path_list(str(tmp_path), separator=",", num_classes=4)


def test_rows_are_found_by_their_paths() -> None:
    rows = Annotations(["a.mp4", "b.mp4", "a.mp4", "ü.mp4"], [0, 1, 2, 3])
    assert rows.rows_of(["ü.mp4", "a.mp4", "none.mp4"]).tolist() == [0, 2, 3]
    assert rows.rows_of([]).tolist() == []
    assert rows.rows_of(["a"]).dtype == np.int64


def test_a_selection_is_a_list_of_its_own(tmp_path: Path) -> None:
    rows = read_frame_list(write(tmp_path / "list.txt", "a 3 0\nb 4 1\nc 5 2\n"), num_classes=3)
    assert videos_of(rows.select([2, 0])) == [Video("c", 2, 5), Video("a", 0, 3)]
    assert rows.select([2, 0]).rows_of(["a", "b"]).tolist() == [1]
    assert len(rows.select([])) == 0
    assert videos_of(Annotations(["a", "b"], [0, 1]).select(np.array([1]))) == [Video("b", 1, None)]


def private_kilobytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def read_rows(rows: Annotations, connection: Connection) -> None:
    before = private_kilobytes()
    for row in np.random.default_rng(0).integers(len(rows), size=1000):
        assert rows[row].path == f"{row:080d}.mp4"
    connection.send((private_kilobytes() - before, len(list(Path("/proc/self/task").iterdir()))))


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells the memory of a process there"
)
def test_forked_workers_share_the_rows_and_need_no_threads() -> None:
    rows = Annotations(
        [f"{number:080d}.mp4" for number in range(200_000)], np.zeros(200_000)
    )  # 20 MB
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=read_rows, args=(rows, sender))
    worker.start()
    assert receiver.poll(60), "the worker does not answer"
    kilobytes, num_threads = receiver.recv()
    worker.join()
    assert num_threads == 1
    assert kilobytes < 4000


PIECES = ["a", "b c", '"', "'", ",", ";", " ", "\t", "0", ",3", ".mp4", "é世", '""', '","']
PIECES += ["\u2028", "\x85", "\x0c", "\x1f", "\xa0", "\ufeff"]


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", "|"])
def test_any_paths_are_read_as_they_were_written(tmp_path: Path, separator: str) -> None:
    rng = random.Random(separator)
    for _ in range(40):
        paths = ["".join(rng.choices(PIECES, k=rng.randint(1, 6))) for _ in range(6)]
        text = "".join(format_row(path, n, separator=separator) for n, path in enumerate(paths))
        list_path = write(tmp_path / "list.csv", text)
        given = "" if separator == "," else separator
        rows = read_path_list(list_path, separator=given, num_classes=6)
        assert [rows[row].path for row in range(6)] == paths

        text = "".join(format_row(path, n + 1, n, separator=" ") for n, path in enumerate(paths))
        frames = read_frame_list(write(tmp_path / "list.txt", text), num_classes=6)
        assert videos_of(frames) == [Video(path, n, n + 1) for n, path in enumerate(paths)]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_what_a_csv_writer_quotes_is_read_without_quotes(tmp_path: Path, quoting: int) -> None:
    paths = ["c/hello, world.mp4", 'say "hi", twice.mp4', " x.mp4 ", "plain.mp4"]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = [(path, label) for label, path in enumerate(paths)]
        csv.writer(file, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    kept = [path if quoting else path.strip() for path in paths]  # blanks alone are not quoted
    read = read_path_list(str(tmp_path / "list.csv"), separator="", num_classes=4)
    assert videos_of(read) == [Video(path, label, None) for label, path in enumerate(kept)]


def test_a_quote_that_is_part_of_a_name_stays_there(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", '"a" b.mp4,0\n\'c\',1\nd".mp4,1\n')
    rows = read_path_list(path, separator="", num_classes=2)
    assert [video.path for video in videos_of(rows)] == ['"a" b.mp4', "'c'", 'd".mp4']


def test_names_that_no_list_can_hold_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a\\nb\.mp4': the name has a line break.*; rename it"):
        format_row("a\nb.mp4", 0, separator=",")
    with pytest.raises(ValueError, match=r"'caf\\udce9\.mp4': the name is not UTF-8.*; rename"):
        format_row(os.fsdecode(b"caf\xe9.mp4"), 0, separator=",")
    path = write(tmp_path / "list.csv", 'a.mp4,0\n"b\nc.mp4",0\n')
    with pytest.raises(ValueError, match=r"line 2 is '\"b'; .* a path cannot hold a line break"):
        read_path_list(path, separator="", num_classes=1)


def test_a_pipe_or_a_device_is_no_list(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (str(tmp_path / "pipe.csv"), "/dev/zero"):
        with pytest.raises(
            OSError, match=rf"{path}: is a pipe or a device.*; write its content to"
        ):
            read_path_list(path, separator="", num_classes=1)
