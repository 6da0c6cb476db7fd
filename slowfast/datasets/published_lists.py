"""Lists and class names as the authors of data sets distribute them: one short reader for each layout."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.resources import files
from os.path import dirname, join, relpath, split
from typing import Any, NamedTuple

from slowfast.datasets.annotations import Annotations, open_text, reject_bad_rows
from slowfast.datasets.class_name_files import read_class_names
from slowfast.datasets.folders import (
    find_videos,
    list_folders,
    warn_about_left_out,
    warn_about_no_videos,
)
from slowfast.utils.class_names import letters
from slowfast.utils.paths import pathmgr

_LABELS_V2 = ("something-something-v2-labels.json", "labels.json")
_LABELS_V1 = "something-something-v1-labels.csv"
_SPLIT_FILE = "_test_split"  # between class and number in the names of HMDB51's lists
_HMDB51_MARKS = {"train": "1", "val": "2", "test": "2"}


class Row(NamedTuple):
    """A video of an official list, and where it stands there."""

    place: str
    path: str
    class_name: str


# ---- Lists -----------------------------------------------------------------------------------------------------------


def read_kinetics(
    list_path: str, *, part: str, video_template: str, class_names: Sequence[str]
) -> Annotations:
    """Return the videos of a Kinetics table with the columns label, youtube_id, time_start, time_end and maybe split.

    Args:
        list_path: a CSV file with a header; the order of the columns is free, others are left out.
        part: train, val or test, as the column `split` says.
        video_template: path of a video, made from the fields of its row.
        class_names: in the order of the labels; spelled as in the table but for case, spaces and punctuation.
    """
    with open_text(list_path) as file:
        table = csv.DictReader(file, skipinitialspace=True)
        columns = [name.strip() for name in table.fieldnames or ()]
        table.fieldnames = columns
        missing = {"youtube_id", "time_start", "time_end"} - set(columns)
        if missing:
            raise ValueError(
                f"{list_path} line 1 is {','.join(columns)[:200]!r}; expected a header with "
                "label,youtube_id,time_start,time_end"
            )
        rows = _kinetics_rows(table, list_path=list_path, part=part, video_template=video_template)
        try:
            return _annotations(rows, list_path=list_path, class_names=class_names)
        except csv.Error as error:
            raise ValueError(f"{list_path} line {table.line_num}: {error}") from error


def _kinetics_rows(
    table: "csv.DictReader[str]", *, list_path: str, part: str, video_template: str
) -> Iterator[Row | str]:
    other_parts = set()
    found = False
    for fields in table:
        place = f"line {table.line_num}"
        listed = (fields.get("split") or part).strip()
        if listed.lower()[:3] != part[:3]:  # val, validate and validation are one
            other_parts.add(listed)
            continue
        found = True
        if not (fields.get("label") or "").strip():
            raise _no_labels(f"{list_path} {place}")
        try:
            times = {name: int(float(fields[name] or "")) for name in ("time_start", "time_end")}
        except (ValueError, OverflowError):
            yield f"{place} has the times {fields['time_start']!r} to {fields['time_end']!r}; expected seconds"
            continue
        yield Row(place, _fill(video_template, {**fields, **times}), fields["label"])
    if other_parts and not found:
        raise ValueError(
            f"{list_path} has no rows of the split {part!r}, only of {', '.join(sorted(other_parts))}"
        )


def read_something_v2(
    list_path: str, *, video_template: str, class_names: Sequence[str]
) -> Annotations:
    """Return the videos of a Something-Something V2 list: JSON objects with `id` and `template`, the class."""
    entries = _read_json(list_path, expected=list)

    def rows() -> Iterator[Row | str]:
        for number, entry in enumerate(entries, start=1):
            if not isinstance(entry, dict) or "id" not in entry:
                yield f"entry {number} is {str(entry)[:200]}; expected an object with id and template"
            elif "template" not in entry:
                raise _no_labels(f"{list_path} entry {number}")
            else:
                yield Row(f"entry {number}", _fill(video_template, entry), str(entry["template"]))

    return _annotations(rows(), list_path=list_path, class_names=class_names)


def read_something_v1(
    list_path: str, *, video_template: str, class_names: Sequence[str]
) -> Annotations:
    """Return the frame folders of a Something-Something V1 list of `id;class` lines, with unknown numbers of frames."""

    def rows() -> Iterator[Row | str]:
        for place, line in _lines(list_path):
            name, found, label = line.partition(";")
            if not found:
                raise _no_labels(f"{list_path} {place}")
            yield Row(
                place, _fill(video_template, {"id": name.strip(), "label": label.strip()}), label
            )

    return _annotations(rows(), list_path=list_path, class_names=class_names)


def read_ucf101(list_path: str, *, class_names: Sequence[str]) -> Annotations:
    """Return the videos of a UCF101 list of `class/video number` lines; the number is missing from its test lists."""

    def rows() -> Iterator[Row | str]:
        for place, line in _lines(list_path):
            path = re.sub(r"\s+\d+$", "", line)
            if "/" in path:
                yield Row(place, path, path.split("/")[-2])
            else:
                yield f"{place} is {line[:200]!r}; expected a path as class/video.avi"

    return _annotations(rows(), list_path=list_path, class_names=class_names)


def read_hmdb51(list_pattern: str, *, part: str, class_names: Sequence[str]) -> Annotations:
    """Return the videos of HMDB51's lists, one per class, of `video mark` lines.

    Args:
        list_pattern: matches the lists of one of the three splits, as `folder/*_test_split1.txt`.
        part: train (mark 1), val or test (both: mark 2).
        class_names: in the order of the labels.
    """
    folder, pattern = split(list_pattern)
    names = [name for name in _entries(folder) if fnmatchcase(name, pattern)]
    if not names:
        raise FileNotFoundError(f"{list_pattern}: no such files; check DATA.PATH_TO_DATA_DIR")

    def rows() -> Iterator[Row | str]:
        for name in names:
            class_name = name.rpartition(_SPLIT_FILE)[0]
            for place, line in _lines(join(folder, name)):
                video, _, mark = line.rpartition(" ")
                if mark not in ("0", "1", "2") or not video:
                    yield f"{name} {place} is {line[:200]!r}; expected a file and 0, 1 or 2"
                elif mark == _HMDB51_MARKS[part]:
                    yield Row(f"{name} {place}", join(class_name, video.strip()), class_name)

    return _annotations(rows(), list_path=folder, class_names=class_names)


def read_class_folders(folder: str, *, prefix: str, class_names: Sequence[str]) -> Annotations:
    """Return the video files anywhere below the class folders of a folder.

    Args:
        folder: holds one folder per class.
        prefix: folder that the paths are to be relative to; "": they begin with `folder`.
        class_names: in the order of the labels.
    """
    start = relpath(folder, prefix) if prefix else folder

    left_out: Counter[str] = Counter()
    empty: list[str] = []

    def rows() -> Iterator[Row | str]:
        for name in _class_folders(folder):
            found = find_videos(join(folder, name))
            left_out.update(found.left_out)
            if not found.paths:
                empty.append(name)
            for path in found.paths:
                yield Row(name, join(start, name, path), name)

    annotations = _annotations(rows(), list_path=folder, class_names=class_names)
    warn_about_left_out(folder, left_out)
    warn_about_no_videos(folder, empty)
    return annotations


# ---- Class names -----------------------------------------------------------------------------------------------------


def published_names(list_path: str, num_classes: int) -> list[str]:
    """Return the Kinetics names in the order of the published label ids, which released weights need."""
    if num_classes not in (400, 600):
        raise ValueError(
            f"{list_path} names classes, and MODEL.NUM_CLASSES is {num_classes}, for which no order is published; "
            "set DATA.CLASS_NAMES to a file with one class name per line, in the order of the labels"
        )
    return read_class_names(
        str(files("slowfast.datasets") / f"class_names/kinetics{num_classes}.txt")
    )


def something_v2_names(list_path: str, num_classes: int) -> list[str]:
    """Return the classes of the file of labels beside the list, an object of class name to number."""
    names_path = first_existing([join(dirname(list_path), name) for name in _LABELS_V2])
    labels = _read_json(names_path, expected=dict)
    try:
        names = {int(label): name for name, label in labels.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{names_path}: expected numbers of classes: {error}") from error
    if sorted(names) != list(range(len(labels))):
        raise ValueError(
            f"{names_path}: the numbers of {len(labels)} classes are not 0 to {len(labels) - 1}"
        )
    return [names[label] for label in range(len(names))]


def something_v1_names(list_path: str, num_classes: int) -> list[str]:
    """Return the lines of the file of labels beside the list."""
    return [line for _, line in _lines(join(dirname(list_path), _LABELS_V1))]


def ucf101_names(list_path: str, num_classes: int) -> list[str]:
    """Return the names of `number name` lines, from 1, of classInd.txt beside the list."""
    names_path = join(dirname(list_path), "classInd.txt")
    names: list[str] = []
    for place, line in _lines(names_path):
        number, _, name = line.partition(" ")
        if number != str(len(names) + 1) or not name:
            raise ValueError(
                f"{names_path} {place} is {line!r}; expected '{len(names) + 1} NameOfClass'"
            )
        names.append(name.strip())
    return names


def hmdb51_names(list_path: str, num_classes: int) -> list[str]:
    """Return the classes that the folder has lists of, sorted."""
    return sorted(
        {
            name.rpartition(_SPLIT_FILE)[0]
            for name in _entries(dirname(list_path))
            if _SPLIT_FILE in name
        }
    )


def folder_names(list_path: str, num_classes: int) -> list[str]:
    """Return the names of the class folders, sorted."""
    return _class_folders(list_path)


# ---- Parts -----------------------------------------------------------------------------------------------------------


def first_existing(paths: Sequence[str]) -> str:
    """Return the first path, local or remote, that there is something at, or else the first."""
    return next((path for path in paths if len(paths) > 1 and _exists(path)), paths[0])


def _exists(path: str) -> bool:
    try:  # not all of iopath's handlers answer `exists`
        return pathmgr.exists(pathmgr.get_local_path(path))
    except OSError:
        return False


def _annotations(
    rows: Iterable[Row | str], *, list_path: str, class_names: Sequence[str]
) -> Annotations:
    """The rows as columns; a str in place of a row says what is wrong with it."""
    exact = {name: label for label, name in enumerate(class_names)}
    spellings = Counter(map(letters, class_names))
    loose = {letters(name): label for name, label in exact.items() if spellings[letters(name)] == 1}
    paths, labels, reasons = [], [], []
    for row in rows:
        if isinstance(row, str):
            reasons.append(row)
            continue
        label = exact.get(row.class_name, loose.get(letters(row.class_name)))
        if label is None:
            reasons.append(
                f"{row.place} has the class {row.class_name!r}, none of the {len(class_names)} class names"
            )
        else:
            paths.append(row.path)
            labels.append(label)
    reject_bad_rows(list_path, reasons, num_bad=len(reasons))
    if not paths:
        raise ValueError(f"{list_path}: the list is empty")
    try:
        return Annotations(paths, labels)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{list_path}: the name {error.object!r} is not UTF-8; rename the file"
        ) from error


def _fill(video_template: str, fields: Mapping[str, Any]) -> str:
    try:
        return video_template.format_map(fields)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"DATA.VIDEO_TEMPLATE is {video_template!r}, which fails with {error!r}; "
            f"the fields are {', '.join(map(str, fields))}"
        ) from error


def _no_labels(place: str) -> ValueError:
    return ValueError(
        f"{place} has no label, like some official test lists; test on the list for validation, which is taken "
        "where there is no list for the test"
    )


def _lines(path: str) -> Iterator[tuple[str, str]]:
    """The lines of a text that are not blank, each with its place."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", line.strip()


def _read_json(path: str, *, expected: type) -> Any:
    with open_text(path) as file:
        try:
            content = json.load(file)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, expected):
        raise ValueError(
            f"{path}: expected a JSON {expected.__name__}, found a {type(content).__name__}"
        )
    return content


def _entries(folder: str) -> list[str]:
    """The names in a folder that are not hidden, sorted."""
    with _folder_errors_named(folder):
        return sorted(name for name in pathmgr.ls(folder) if not name.startswith("."))


def _class_folders(folder: str) -> list[str]:
    with _folder_errors_named(folder):
        return list_folders(folder)


@contextmanager
def _folder_errors_named(folder: str) -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:  # a web server does not list its folders
        raise OSError(f"{folder}: its files cannot be listed; use a local folder") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{folder}: no such folder; check DATA.PATH_TO_DATA_DIR") from error
