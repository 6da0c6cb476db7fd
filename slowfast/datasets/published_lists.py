"""Readers of the annotation lists that the authors of public datasets distribute."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from os.path import join, relpath, split
from typing import Any, NamedTuple

from slowfast.datasets.annotation_lists import Source
from slowfast.datasets.annotations import Annotations
from slowfast.datasets.folders import (
    explain_folder_errors,
    find_videos,
    list_folders,
    list_names,
    warn_about_empty_classes,
    warn_about_other_files,
)
from slowfast.datasets.records import NO_LABEL
from slowfast.datasets.text_files import (
    numbered_lines,
    open_text,
    read_json,
    reject_invalid_rows,
    reject_mixed_labels,
)
from slowfast.utils.class_names import letters

HMDB51_SPLIT_FILE = "_test_split"  # between the class and the number in the names of its lists
_HMDB51_MARKS = {"train": "1", "val": "2", "test": "2"}


class Row(NamedTuple):
    """A valid row of a published list."""

    location: str  # where the row is in the list, such as "line 3"
    path: str
    class_name: str | None  # None in a list without labels, like some published test lists


Problem = str  # location and problem of an invalid row


def read_kinetics(source: Source) -> Annotations:
    """Return the videos of a Kinetics table, a CSV file with a header.

    The columns `label`, `youtube_id`, `time_start`, `time_end` and, optionally, `split` may come in
    any order. Other columns are ignored. Labels match the class names except for case, spaces and
    punctuation. Published test lists have no column `label`, or an empty one.

    Raises:
        FileNotFoundError: If the table does not exist.
        ValueError: If the table is malformed, has invalid rows, or has no rows of the split.
    """
    list_path = source.list_path
    with open_text(list_path) as file:
        table = csv.DictReader(file, skipinitialspace=True)
        columns = [name.strip() for name in table.fieldnames or ()]
        table.fieldnames = columns
        if not {"youtube_id", "time_start", "time_end"} <= set(columns):
            raise ValueError(
                f"{list_path} line 1 is {','.join(columns)[:200]!r}. Expected a header with "
                "label,youtube_id,time_start,time_end"
            )

        try:
            return _label_rows(_kinetics_rows(table, source), source)
        except csv.Error as error:
            raise ValueError(f"{list_path} line {table.line_num}: {error}") from error


def read_something_v1(source: Source) -> Annotations:
    """Return the frame folders of a Something-Something V1 list of `id;class` lines.

    The list does not say how many frames a folder has. The published test list has no classes.
    """

    def rows() -> Iterator[Row]:
        for location, line in numbered_lines(source.list_path):
            name, separator, label = line.partition(";")
            fields = {"id": name.strip(), "label": label.strip()}
            path = _fill_template(source.video_template, fields)
            yield Row(location, path, label if separator else None)

    return _label_rows(rows(), source)


def read_something_v2(source: Source) -> Annotations:
    """Return the videos of a Something-Something V2 list.

    The list is a JSON array of objects with an `id` and a `template`, which is the class. The
    published test list has no templates.
    """
    entries = read_json(source.list_path, expected=list)

    def rows() -> Iterator[Row | Problem]:
        for number, entry in enumerate(entries, start=1):
            location = f"entry {number}"
            if not isinstance(entry, dict) or "id" not in entry:
                yield f"{location} is {str(entry)[:200]}. Expected an object with id and template"
            else:
                path = _fill_template(source.video_template, entry)
                class_name = str(entry["template"]) if "template" in entry else None
                yield Row(location, path, class_name)

    return _label_rows(rows(), source)


def read_ucf101(source: Source) -> Annotations:
    """Return the videos of a UCF101 list of `class/video number` lines.

    Its test lists have no number.
    """

    def rows() -> Iterator[Row | Problem]:
        for location, line in numbered_lines(source.list_path):
            path = re.sub(r"\s+\d+$", "", line)
            if "/" in path:
                yield Row(location, path, path.split("/")[-2])
            else:
                yield f"{location} is {line[:200]!r}. Expected a path as class/video.avi"

    return _label_rows(rows(), source)


def read_hmdb51(source: Source) -> Annotations:
    """Return the videos of the HMDB51 lists of one split, which has one list per class.

    The lines are `video mark`. The mark is 1 for training and 2 for testing.

    Args:
        source: The lists. Its path is a pattern such as `folder/*_test_split1.txt`.

    Raises:
        FileNotFoundError: If no list matches the pattern.
        ValueError: If a list has invalid rows.
    """
    folder, pattern = split(source.list_path)
    with explain_folder_errors(folder):
        names = [name for name in list_names(folder) if fnmatchcase(name, pattern)]
    if not names:
        raise FileNotFoundError(f"{source.list_path}: no such files. Check DATA.PATH_TO_DATA_DIR")

    def rows() -> Iterator[Row | Problem]:
        for name in names:
            class_name = name.rpartition(HMDB51_SPLIT_FILE)[0]
            for location, line in numbered_lines(join(folder, name)):
                video, _, mark = line.rpartition(" ")
                if mark not in ("0", "1", "2") or not video:
                    yield f"{name} {location} is {line[:200]!r}. Expected a file and 0, 1 or 2"
                elif mark == _HMDB51_MARKS[source.split_name]:
                    yield Row(f"{name} {location}", join(class_name, video.strip()), class_name)

    return _label_rows(rows(), source, list_path=folder)


def read_class_folders(source: Source) -> Annotations:
    """Return the video files at any depth below the class folders of a folder.

    The paths are relative to `source.path_prefix`. Without a prefix, they start with the folder.
    """
    folder = source.list_path
    start = relpath(folder, source.path_prefix) if source.path_prefix else folder
    other_files: Counter[str] = Counter()
    empty_classes: list[str] = []

    def rows() -> Iterator[Row]:
        with explain_folder_errors(folder):
            class_names = list_folders(folder)
        for class_name in class_names:
            found = find_videos(join(folder, class_name))
            other_files.update(found.other_files)
            if not found.paths:
                empty_classes.append(class_name)
            for path in found.paths:
                yield Row(class_name, join(start, class_name, path), class_name)

    annotations = _label_rows(rows(), source)
    warn_about_other_files(folder, other_files)
    warn_about_empty_classes(folder, empty_classes)
    return annotations


def _kinetics_rows(table: "csv.DictReader[str]", source: Source) -> Iterator[Row | Problem]:
    split_name = source.split_name
    other_splits = set()
    has_rows = False

    for fields in table:
        location = f"line {table.line_num}"
        listed = (fields.get("split") or split_name).strip()
        if listed.lower()[:3] != split_name[:3]:  # val, validate and validation are the same
            other_splits.add(listed)
            continue

        has_rows = True
        try:
            times = {name: int(float(fields[name] or "")) for name in ("time_start", "time_end")}
        except (ValueError, OverflowError):
            start, end = fields["time_start"], fields["time_end"]
            yield f"{location} has the times {start!r} to {end!r}. Expected seconds"
            continue

        path = _fill_template(source.video_template, {**fields, **times})
        has_label = bool((fields.get("label") or "").strip())
        yield Row(location, path, fields["label"] if has_label else None)

    if other_splits and not has_rows:
        found = ", ".join(sorted(other_splits))
        raise ValueError(
            f"{source.list_path} has no rows of the split {split_name!r}, only of {found}"
        )


def _label_rows(
    rows: Iterable[Row | Problem], source: Source, *, list_path: str = ""
) -> Annotations:
    """Return rows with class names as annotations with labels.

    Args:
        rows: Valid rows, and the problems of invalid ones.
        source: The list, with the class names.
        list_path: Path that errors name. The default is that of the source.
    """
    list_path = list_path or source.list_path
    labels_by_name = _LabelsByName(source.class_names)
    paths, labels, problems = [], [], []
    first_rows: dict[bool, str] = {}  # location by whether the row has a label

    for row in rows:
        if isinstance(row, Problem):
            problems.append(row)
            continue

        if row.class_name is None and not source.may_lack_labels:
            raise _missing_label(f"{source.list_path} {row.location}")
        first_rows.setdefault(row.class_name is not None, row.location)
        label = NO_LABEL if row.class_name is None else labels_by_name.find(row.class_name)
        if label is None:
            problems.append(
                f"{row.location} has the class {row.class_name!r}, which is not among the "
                f"{len(source.class_names)} class names"
            )
        else:
            paths.append(row.path)
            labels.append(label)

    reject_invalid_rows(list_path, problems, num_invalid=len(problems))
    if not paths:
        raise ValueError(f"{list_path}: the list is empty")
    if len(first_rows) == 2:
        reject_mixed_labels(list_path, labeled=first_rows[True], unlabeled=first_rows[False])
    try:
        return Annotations(paths, labels)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{list_path}: the name {error.object!r} is not UTF-8. Rename the file"
        ) from error


class _LabelsByName:
    """Lookup of labels by class name, exactly or regardless of case, spaces and punctuation."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._exact = {name: label for label, name in enumerate(class_names)}

        spellings = Counter(map(letters, class_names))
        self._loose = {}
        for name, label in self._exact.items():
            if spellings[letters(name)] == 1:
                self._loose[letters(name)] = label

    def find(self, name: str) -> int | None:
        return self._exact.get(name, self._loose.get(letters(name)))


def _fill_template(video_template: str, fields: Mapping[str, Any]) -> str:
    try:
        return video_template.format_map(fields)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        names = ", ".join(map(str, fields))
        raise ValueError(
            f"DATA.VIDEO_TEMPLATE is {video_template!r}, which fails with {error!r}. "
            f"The fields are {names}"
        ) from error


def _missing_label(location: str) -> ValueError:
    return ValueError(
        f"{location} has no label, like some published test lists. Only a test list may be without "
        "labels"
    )
