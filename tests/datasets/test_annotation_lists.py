"""Lists of `path,label` and `folder num_frames label` rows: separators, quotes, invalid rows."""

import csv
import gzip
import os
import random
from pathlib import Path

import pytest

from slowfast.datasets import list_columns
from slowfast.datasets.annotation_lists import Source, format_row, read_frame_list, read_path_list
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.records import Span, Video


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def unlabeled_source(folder: Path, text: str) -> Source:
    """Write a list that may be without labels."""
    return Source(write(folder / "test.csv", text), num_classes=4, may_lack_labels=True)


def list_videos(annotations: Annotations) -> list[Video]:
    return [annotations[row] for row in range(len(annotations))]


def test_paths_may_hold_the_separator_and_any_letters(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "a b/c,d.mp4,3\né/ü 世界.mp4,0\n\nx.mp4,1\n")
    rows = read_path_list(Source(path, num_classes=4, separator=","))
    assert list_videos(rows) == [
        Video("a b/c,d.mp4", 3, None),
        Video("é/ü 世界.mp4", 0, None),
        Video("x.mp4", 1, None),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", "   ", " , ", "; ", " \t"])
def test_the_separator_is_detected(tmp_path: Path, separator: str) -> None:
    paths = ["my clip, 3.mp4", "a;b/0 1.mp4", "c 7/8,9.mp4"]
    text = "".join(f"{path}{separator}{label}\n" for label, path in enumerate(paths))
    rows = read_path_list(Source(write(tmp_path / "train.csv", text), num_classes=3))
    assert list_videos(rows) == [Video(path, label, None) for label, path in enumerate(paths)]


def test_a_given_separator_is_the_only_one(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "a.mp4 0\nb.mp4,1\nc.mp4\t1\n")
    message = r"has 2 invalid rows:\n +line 1 is 'a\.mp4 0'.*\n +line 3 is 'c\.mp4\\t1'"
    with pytest.raises(ValueError, match=message):
        read_path_list(Source(path, num_classes=2, separator=","))

    message = r"line 1 .*with '\|' between \(DATA\.PATH_LABEL_SEPARATOR\)"
    with pytest.raises(ValueError, match=message):
        read_path_list(Source(path, num_classes=2, separator="|"))

    path = write(tmp_path / "a.csv", "a|b.mp4|1\n")
    rows = read_path_list(Source(path, num_classes=2, separator="|"))
    assert list_videos(rows) == [Video("a|b.mp4", 1, None)]


def test_frame_lists_give_folder_frames_and_label(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", "100218 42 134\nmy clip 7 0\n\tx\t 008  1 \n")
    rows = read_frame_list(Source(path, num_classes=174))
    assert list_videos(rows) == [Video("100218", 134, 42), Video("my clip", 0, 7), Video("x", 1, 8)]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_marks_and_blanks_belong_to_no_row(
    tmp_path: Path, ends: str, mark: str, last: bool
) -> None:
    lines = ["a.mp4,0", "  b c.mp4 , 1  ", "", "   ", "d.mp4,0 "]
    path = write(tmp_path / "list.csv", mark + ends.join(lines) + (ends if last else ""))
    assert list_videos(read_path_list(Source(path, num_classes=2))) == [
        Video("a.mp4", 0, None),
        Video("b c.mp4", 1, None),
        Video("d.mp4", 0, None),
    ]


def test_a_list_of_many_blocks_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_columns, "BLOCK_CHARACTERS", 100)
    paths = [f"{'ü' * (number % 50)}{number}.mp4" for number in range(1000)]
    lines = [f"{path},{number % 7}\r\n" for number, path in enumerate(paths)]
    source = Source(write(tmp_path / "list.csv", "".join(lines)), num_classes=7)
    expected = [Video(path, number % 7, None) for number, path in enumerate(paths)]
    assert list_videos(read_path_list(source)) == expected

    lines[700] = "no label\n"
    lines[30] = "a.mp4,7\n"
    write(tmp_path / "list.csv", "".join(lines))
    message = r"2 invalid rows:\n +line 31 has the label 7, .*\n +line 701 is 'no label'"
    with pytest.raises(ValueError, match=message):
        read_path_list(source)


def test_lists_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "list.csv.gz"
    path.write_bytes(gzip.compress(b"a.mp4,0\nb.mp4,1\n"))
    assert len(read_path_list(Source(str(path), num_classes=2))) == 2

    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(OSError, match=r"list\.csv\.gz: Compressed file ended"):
        read_path_list(Source(str(path), num_classes=2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("\n \n", "the list is empty"),
        (
            "a.mp4,0\nb.mp4\n",
            r"line 2 is 'b\.mp4'. Expected a path and a class number with ',' between",
        ),
        (
            "a.mp4 0\nb.mp4,1\n",
            r"line 2 is 'b\.mp4,1'. .* with tabs or spaces between \(DATA\.PATH_LABEL_SEPARATOR\)",
        ),
        ("path,label\na.mp4,0\n", "line 1 is 'path,label'. Expected"),
        ("a.mp4,0\n,1\n", "line 2 is ',1'. Expected"),
        ("a.mp4,0\n3\n", "line 2 is '3'. Expected"),
        ("a.mp4,dog\n", r"line 1 is 'a\.mp4,dog'. Expected"),
        ("a.mp4,0\n\nb.mp4,4\n", "line 3 has the label 4, but MODEL.NUM_CLASSES=4 counts from 0"),
        ("a.mp4,999999999\n", "line 1 has the label 999999999, but MODEL.NUM_CLASSES=4"),
        (
            "a.mp4,0\nb.mp4,99999999999999999999\n",
            r"line 2 is 'b\.mp4,99999999999999999999'. Expected",
        ),
        ("a.mp4,0\nb.mp4,-2\n", r"line 2 is 'b\.mp4,-2'. Expected"),
        (
            "\na.mp4,-1\nb.mp4,-1\nc.mp4,2\n",
            r"csv line 2 \(-1\) has no label, but line 4 has one. Label all rows, or none",
        ),
        ("b.mp4\na.mp4,0\n", r"line 1 is 'b\.mp4'. Expected a path and a class number"),
        ("a.mp4,-1\nb.mp4\n", r"line 2 is 'b\.mp4'. Expected a path and a class number"),
        ("a.mp4,0\nb.mp4,1.0\n", r"line 2 is 'b\.mp4,1\.0'. Expected"),
        ("a.mp4,0\nb.mp4,²\n", r"line 2 is 'b\.mp4,²'. Expected"),
        (b"a.mp4,0\n\xff\xfe.mp4,1\n", r"train\.csv: not text in UTF-8"),
    ],
)
def test_an_invalid_path_list_names_the_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_path_list(Source(write(tmp_path / "train.csv", text), num_classes=4))


def test_invalid_rows_are_counted_and_the_first_five_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "a.mp4,0\n" * 10 + "b.mp4,9\nc\n" * 10)
    with pytest.raises(ValueError, match="invalid rows") as caught:
        read_path_list(Source(path, num_classes=4))

    first, *shown = str(caught.value).splitlines()
    assert first == f"{path} has 20 invalid rows:"
    assert [line.split()[:3] for line in shown] == [
        ["line", "11", "has"],
        ["line", "12", "is"],
        ["line", "13", "has"],
        ["line", "14", "is"],
        ["line", "15", "has"],
    ]


@pytest.mark.parametrize(
    "line",
    ["clip 3", "clip x 1", "clip 0 1", "clip 000 1", "clip -2 1", "clip 3 x", "3 1", "c 1,1"],
)
def test_an_invalid_frame_list_names_the_line(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "list.txt", f"clip 3 1\n{line}\n")
    message = rf"line 2 is '{line}'. Expected a folder, its number of frames and a class"
    with pytest.raises(ValueError, match=message):
        read_frame_list(Source(path, num_classes=4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\na.mp4\n", "line 1 is 'path'. Expected a path with a suffix or in quotes, since"),
        ("a.mp4,5,2\n", "line 1 has the span 5 to 2 s, which does not end after its start"),
        ("b.mp4\na.mp4,0\n", r"line 1 is 'b\.mp4'. Expected a path and a class number"),
        ("path,label\na.mp4,1\n", "line 1 is 'path,label'. Expected a path and a class number"),
        ("a.mp4,cat\n", r"line 1 is 'a\.mp4,cat'. Expected a path and a class number"),
    ],
)
def test_an_invalid_list_without_labels_names_the_line(
    tmp_path: Path, text: str, message: str
) -> None:
    source = unlabeled_source(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        read_path_list(source)


@pytest.mark.parametrize(
    "text",
    [
        "c/a.mp4,-1\nb, 1.webm,-1\n",
        "c/a.mp4 -1\n\nb, 1.webm\t -1\n",
        'c/a.mp4,-1\n"b, 1.webm","-1"\n',
        "c/a.mp4\n\nb, 1.webm\n",
        "\ufeffc/a.mp4\r\n b, 1.webm \r\n",
        'c/a.mp4\n"b, 1.webm"\n',
        "c/a.mp4,\nb, 1.webm,\n",
        "c/a.mp4 ;\nb, 1.webm;\n",
    ],
)
def test_labels_of_minus_one_or_none_make_an_unlabeled_list(tmp_path: Path, text: str) -> None:
    rows = read_path_list(unlabeled_source(tmp_path, text))
    assert list_videos(rows) == [Video("c/a.mp4", -1, None), Video("b, 1.webm", -1, None)]
    assert not rows.is_labeled
    assert rows.spans is None


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4,-1,0,2\nb c.mkv,-1,1.5,4\nd.mp4,-1\n",
        "a.mp4,0,2\nb c.mkv,1.5,4\nd.mp4\n",
        "a.mp4 0 2\nb c.mkv 1.5 4\nd.mp4\n",
        '"a.mp4",0,2\n"b c.mkv","1.5","4"\nd.mp4\n',
        "a.mp4,,0,2\nb c.mkv,,1.5,4\nd.mp4,\n",
    ],
)
def test_rows_with_a_span_need_no_label(tmp_path: Path, text: str) -> None:
    rows = read_path_list(unlabeled_source(tmp_path, text))
    assert list_videos(rows) == [
        Video("a.mp4", -1, None, Span(0, 2)),
        Video("b c.mkv", -1, None, Span(1.5, 4)),
        Video("d.mp4", -1, None),
    ]


@pytest.mark.parametrize("text", ["a b 3 -1\n7 012 -1\n", "a b 3\n7\t012\n", '"a b" 3\n7 012\n'])
def test_frame_lists_may_be_without_labels(tmp_path: Path, text: str) -> None:
    rows = read_frame_list(unlabeled_source(tmp_path, text))
    assert list_videos(rows) == [Video("a b", -1, 3), Video("7", -1, 12)]


def test_a_number_behind_any_path_is_a_label(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "a.mp4,1,2\nb.mp4,3\n")  # the second row has no span
    rows = read_path_list(Source(path, num_classes=4, may_lack_labels=True))
    assert list_videos(rows) == [Video("a.mp4,1", 2, None), Video("b.mp4", 3, None)]

    path = write(tmp_path / "list.csv", format_row("a.mp4,1", 2, separator=","))
    assert list_videos(read_path_list(Source(path, num_classes=4, may_lack_labels=True))) == [
        Video("a.mp4,1", 2, None)
    ]


def test_labels_are_found_in_any_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_columns, "BLOCK_CHARACTERS", 100)
    lines = [f"{number}.mp4,0,2\n" for number in range(500)]
    source = unlabeled_source(tmp_path, "".join(lines))
    rows = read_path_list(source)
    assert (len(rows), rows.is_labeled, rows[499].span) == (500, False, Span(0, 2))

    unlabeled_source(tmp_path, "".join([*lines, "a.mp4,3\n"]))
    rows = read_path_list(source)
    assert rows.is_labeled
    assert list_videos(rows)[499:] == [Video("499.mp4,0", 2, None), Video("a.mp4", 3, None)]

    minus_one = [line.replace(",0,2", ",-1") for line in lines]
    unlabeled_source(tmp_path, "".join([*minus_one, "a.mp4,3\n"]))
    with pytest.raises(ValueError, match=r"line 1 \(-1\) has no label, but line 501 has one"):
        read_path_list(source)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    message = r"none\.csv: no such file. Check DATA\.PATH_TO_DATA_DIR"
    with pytest.raises(FileNotFoundError, match=message):
        read_path_list(Source(str(tmp_path / "none.csv"), num_classes=4, separator=","))
    with pytest.raises(OSError, match=rf"{tmp_path}: Is a directory"):
        read_path_list(Source(str(tmp_path), num_classes=4, separator=","))


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
        rows = read_path_list(Source(list_path, num_classes=6, separator=given))
        assert [rows[row].path for row in range(6)] == paths

        text = "".join(format_row(path, n + 1, n, separator=" ") for n, path in enumerate(paths))
        frames = read_frame_list(Source(write(tmp_path / "list.txt", text), num_classes=6))
        assert list_videos(frames) == [Video(path, n, n + 1) for n, path in enumerate(paths)]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_what_a_csv_writer_quotes_is_read_without_quotes(tmp_path: Path, quoting: int) -> None:
    paths = ["c/hello, world.mp4", 'say "hi", twice.mp4', " x.mp4 ", "plain.mp4"]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = [(path, label) for label, path in enumerate(paths)]
        csv.writer(file, quoting=quoting).writerows(rows)  # type: ignore[arg-type]

    kept = [path if quoting else path.strip() for path in paths]  # blanks alone are not quoted
    read = read_path_list(Source(str(tmp_path / "list.csv"), num_classes=4))
    assert list_videos(read) == [Video(path, label, None) for label, path in enumerate(kept)]


def test_a_quote_that_is_part_of_a_name_stays_there(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", '"a" b.mp4,0\n\'c\',1\nd".mp4,1\n')
    rows = read_path_list(Source(path, num_classes=2))
    assert [video.path for video in list_videos(rows)] == ['"a" b.mp4', "'c'", 'd".mp4']


def test_names_that_no_list_can_hold_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a\\nb\.mp4': the name has a line break.*. Rename it"):
        format_row("a\nb.mp4", 0, separator=",")
    with pytest.raises(ValueError, match=r"'caf\\udce9\.mp4': the name is not UTF-8.*. Rename"):
        format_row(os.fsdecode(b"caf\xe9.mp4"), 0, separator=",")

    path = write(tmp_path / "list.csv", 'a.mp4,0\n"b\nc.mp4",0\n')
    with pytest.raises(ValueError, match=r"line 2 is '\"b'\. .* a path cannot hold"):
        read_path_list(Source(path, num_classes=1))


def test_a_pipe_or_a_device_is_no_list(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (str(tmp_path / "pipe.csv"), "/dev/zero"):
        message = rf"{path}: is a pipe or a device.*. Write its content to"
        with pytest.raises(OSError, match=message):
            read_path_list(Source(path, num_classes=1))
